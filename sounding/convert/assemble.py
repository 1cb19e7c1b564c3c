"""The main path of conversion: read published parts, put them into one model, write one file."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import GenerationConfig, GroundingConfig, QueryConfig, SoundingConfig
from ..encoders.text import ClapQuery
from ..model import SoundingModel
from ..naming.vocabulary import BUILT_IN, read_vocabulary
from ..networks.meta import PrivateGenerator, meta_parameters
from ..weights import WeightsError
from ..weights.reading import laid_out
from . import Converted
from .audioldm import AudioLDM, HeadsFrom, fold_film, read_audioldm
from .clap import OWN_BUFFERS, read_clap, read_tokenizer
from .clip import read_clip, read_clip_text
from .hifigan import read_hifigan
from .naming import OnNames, embed_names, lacks, naming_config

Conditioning = Literal["attention", "film"]
UNTRAINED = (
    "The grounding is new: train it (python -m training) before the model responds to images, masks or texts about "
    "images."
)
AS_PUBLISHED = (
    "Works without training: a mask is named, and the sentence with that name makes the sound, as text alone does. The "
    "grounding is new; training it (python -m training) lets the image itself decide."
)
EMPTY_SENTENCE = (0, 2)  # <s></s> in RoBERTa's vocabulary: AudioLDM's unconditional condition


@dataclass(frozen=True)
class Report:
    """What a conversion did, for people and for `--json`."""

    path: Path
    used: dict[str, str]  # part -> where its weights came from
    anew: dict[str, int]  # what started from random numbers -> its parameters
    notes: tuple[str, ...]


def convert(
    out: str | os.PathLike[str],
    *,
    audioldm: str | os.PathLike[str],
    clip: str | os.PathLike[str],
    clap: str | os.PathLike[str] | None = None,
    vocoder: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    condition: Conditioning = "attention",
    query: Literal["text", "audio"] = "text",
    ema: bool = True,
    heads: HeadsFrom = "config",
    quick_gelu: bool | None = None,
    names: bool = True,
    vocabulary: str | os.PathLike[str] | None = None,
    on_names: OnNames | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    name: str | None = None,
    licence: str = "",
) -> Report:
    """Make one checkpoint of published weights.

    Args:
        out: the .safetensors to write, in one step.
        audioldm: AudioLDM's diffusers folder or original .ckpt: U-Net, VAE, vocoder and CLAP.
        clip: CLIP, see `clip.read_clip`; its text tower, where it is there, embeds the names that objects can have.
        clap: another CLAP for the queries than AudioLDM's, see `clap.read_clap`.
        vocoder: another HiFi-GAN, see `hifigan.read_hifigan`.
        tokenizer: folder with CLAP's tokenizer, where `audioldm` brings none.
        condition: "attention" is the paper's U-Net: AudioLDM's FiLM slot is folded in at its unconditional value
            and cross-attention starts anew with an output of zero. "film" keeps AudioLDM exactly as published.
        query: modality of the queries that attend to the patches in training.
        ema: take an original checkpoint's averaged U-Net.
        heads: of attention in an AudioLDM folder, see `audioldm.read_audioldm`.
        quick_gelu: CLIP's activation, where its file does not say.
        names: embed names, so that the result can say what a mask shows.
        vocabulary: a file of names beside those that come with the library, see `naming.vocabulary`.
        on_names: progress of the embedding, which takes minutes on a CPU: `on_names(done, all)`; may raise to cancel.
        seed: of the weights that start anew.
        dtype: of the weights in the file.
        name: of the model in the file's header.
        licence: of the weights, for the file's header.

    Raises:
        WeightsError: a source that cannot be read or does not fit; nothing is written.
        CheckpointError: weights that `dtype` cannot hold; nothing is written.
    """
    out = Path(out)
    if out.suffix.lower() != ".safetensors":
        raise WeightsError(f"{out} ends in {out.suffix!r}, but .safetensors is expected; name the result so.")
    sources = {"audioldm": Path(audioldm), "clip": Path(clip)}
    vocabularies = read_vocabulary(BUILT_IN, *([Path(vocabulary)] if vocabulary else []))
    with laid_out(sources["audioldm"]):
        ldm = read_audioldm(sources["audioldm"], ema=ema, heads=heads)
        null = empty_sentence(ldm.text)
        unet = ldm.unet if condition == "film" else fold_film(ldm.unet, null)
    with laid_out(sources["clip"]):
        patches = read_clip(sources["clip"], quick_gelu=quick_gelu)
        texts = read_clip_text(sources["clip"], quick_gelu=patches.config.quick_gelu) if names else None
        nameless = lacks(texts) if names else "names were not asked for"
        naming = naming_config(vocabularies, texts) if texts and not nameless else None
    with laid_out(Path(clap or audioldm)):
        queries, query_source = _queries(ldm, sources["audioldm"], Path(clap) if clap else None, query, condition)
    with laid_out(Path(vocoder or audioldm)):
        hifigan = read_hifigan(Path(vocoder)) if vocoder else ldm.vocoder
    tokens = read_tokenizer(Path(tokenizer)) if tokenizer else ldm.tokenizer
    with laid_out(sources["audioldm"]):
        config = SoundingConfig(
            name=name or f"{sources['audioldm'].stem}-{sources['clip'].stem}"[:200],
            patches=patches.config,
            query=_query_config(queries.config, tokens),
            grounding=GroundingConfig(query=query, condition_width=ldm.unet.config.film_width),
            vae=ldm.vae.config,
            unet=unet.config,
            vocoder=hifigan.config,
            diffusion=ldm.diffusion,
            generation=GenerationConfig(masks="names" if condition == "film" else "grounding"),
            naming=naming,
        )
    with laid_out(sources["audioldm"]), PrivateGenerator(seed):
        model = SoundingModel(config).requires_grad_(False)
    _fill(model.patches, patches, sources["clip"])
    _fill(model.query, queries, query_source, tokens if config.query.tokenizer_bytes else None)
    _fill(model.vae, ldm.vae, sources["audioldm"])
    _fill(model.vocoder, hifigan, Path(vocoder or audioldm))
    anew = _start_unet(model, unet, sources["audioldm"], condition)
    if condition == "film":
        model.grounding.null.copy_(null[None])
    if model.naming is not None and texts is not None:
        with laid_out(sources["clip"]):
            embeddings = embed_names(vocabularies, texts, patches.config.model, on_names)
        _fill(model.naming, Converted(naming, {"embeddings": embeddings}), sources["clip"])
    described = "Converted from published weights; the grounding is untrained."
    model.save_pretrained(out, dtype=dtype, description=described, licence=licence)
    used = {
        "patches": str(clip),
        "query": str(query_source),
        "unet": str(audioldm),
        "vae": str(audioldm),
        "vocoder": str(vocoder or audioldm),
    }
    anew = {"grounding": sum(weight.numel() for weight in model.grounding.parameters()), **anew}
    if naming is not None:
        used["naming"] = f"{clip} ({len(naming.names)} names)"
    return Report(out, used, anew, (*_notes(config, condition, nameless), *ldm.notes))


def _queries(
    ldm: AudioLDM, ldm_path: Path, clap: Path | None, query: str, condition: Conditioning
) -> tuple[Converted, Path]:
    """The query encoder and where it came from.

    Raises:
        WeightsError: AudioLDM as published takes embeddings of its own CLAP only; or there is no audio tower.
    """
    if condition == "film" and (clap or query == "audio"):
        raise WeightsError(
            "AudioLDM's FiLM slot was trained with AudioLDM's own CLAP text tower, but another query encoder was asked "
            "for; leave out --clap and --query, or convert with --condition attention."
        )
    if clap is not None:
        return read_clap(clap, query), clap
    if query == "text":
        return ldm.text, ldm_path
    if ldm.audio is None:
        raise WeightsError(
            f"{ldm_path} has no CLAP audio tower, but --query audio needs one; add --clap with a transformers folder "
            "or LAION's .pt."
        )
    return ldm.audio, ldm_path


def _query_config(config: QueryConfig, tokens: Tensor | None) -> QueryConfig:
    carried = len(tokens) if tokens is not None and config.tower == "clap" else 0
    return dataclasses.replace(config, tokenizer_bytes=carried)


@torch.inference_mode()
def empty_sentence(text: Converted) -> Tensor:
    """[L] CLAP's embedding of "", which AudioLDM's guidance calls unconditional; its tokens need no tokenizer."""
    with meta_parameters(), PrivateGenerator():
        tower = ClapQuery(text.config)
    _fill(tower, text, Path("CLAP"))
    return tower(torch.tensor([EMPTY_SENTENCE]))[0].clone()


def _fill(part: nn.Module, converted: Converted, source: Path, tokens: Tensor | None = None) -> None:
    """Load a part strictly; what the library computes for itself is taken from the module.

    Raises:
        WeightsError: a tensor is missing, foreign or of another shape.
    """
    own = part.state_dict()
    tensors = {name: value for name, value in own.items() if name.endswith(OWN_BUFFERS)} | converted.tensors
    if tokens is not None:
        tensors["tokenizer"] = tokens
    for kind, names in (("lacks", own.keys() - tensors.keys()), ("has an unknown", tensors.keys() - own.keys())):
        if names:
            raise WeightsError(
                f"{source} {kind} tensor {min(names)!r} ({len(names)} in all) for the {type(part).__name__} that its "
                "sizes describe; give the complete weights of a supported model (docs/models.md)."
            )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{source}: {name!r} has shape {tuple(value.shape)}, but {tuple(own[name].shape)} is expected; give "
                "the weights of a supported model (docs/models.md)."
            )
    part.load_state_dict(tensors, assign=any(value.is_meta for value in own.values()))


def _start_unet(model: SoundingModel, unet: Converted, source: Path, condition: Conditioning) -> dict[str, int]:
    """Fill the U-Net; its cross-attention, if it is new, starts with zero output, which disturbs nothing learned."""
    if condition == "film":
        _fill(model.unet, unet, source)
        return {}
    fresh = {name: value for name, value in model.unet.state_dict().items() if ".attn2." in name}
    for name, value in fresh.items():
        if ".to_out." in name:
            value.zero_()
    _fill(model.unet, Converted(unet.config, unet.tensors | fresh), source)
    return {"unet cross-attention": sum(value.numel() for value in fresh.values())}


def _notes(config: SoundingConfig, condition: Conditioning, nameless: str | None) -> tuple[str, ...]:
    notes = [UNTRAINED if condition == "attention" else AS_PUBLISHED]
    if nameless:
        notes.append(
            f"This file has no names of its own ({nameless}); objects are named by the classifier that comes with the "
            "library."
        )
    if config.query.tower == "clap" and not config.query.tokenizer_bytes:
        notes.append(
            "No tokenizer travels in this file, so text will look for one on the machine; convert again with "
            "--tokenizer FOLDER (`sounding fetch clap-tokenizer` gets it)."
        )
    return tuple(notes)
