"""CLAP's text and audio towers to transformers' classes, which our query encoders are.

LAION names them after RoBERTa (`text_branch`) and HTS-AT (`audio_branch`), transformers after its own Swin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import QueryConfig
from ..utils.libraries import importing
from ..weights import WeightsError
from ..weights.reading import count, expect, read_json, read_state, read_transformers
from . import Converted

RENAMED = {  # HTS-AT -> transformers, in this order
    "audio_branch.": "audio_model.audio_encoder.",
    "text_branch.": "text_model.",
    "attn.proj": "attention.output.dense",
    "attn.": "attention.self.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "bn0.": "batch_norm.",
    "_projection.0.": "_projection.linear1.",
    "_projection.2.": "_projection.linear2.",
}
# Heads for classifying, LAION's second embedding, and what transformers computes instead of storing.
DROPPED = (
    "tscam_conv",
    ".head.",
    "spectrogram_extractor",
    "logmel_extractor",
    "attn_mask",
    "_transform.",
    "logit_scale",
)
OWN_BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")


def read_clap(path: Path, kind: str = "text") -> Converted:
    """A query encoder from a transformers folder (`ClapModel`) or LAION's .pt.

    Args:
        kind: "text" or "audio".

    Raises:
        WeightsError: other weights, a fused CLAP for audio, or a size that ours cannot express.
    """
    if path.is_dir():
        config = read_json(path / "config.json")
        return clap_from_state(read_transformers(path), path, kind, config.get(f"{kind}_config", config))
    return clap_from_state(read_state(path), path, kind)


def clap_from_state(state: dict[str, Tensor], path: Path, kind: str, config: dict[str, Any] | None = None) -> Converted:
    """A query encoder from named tensors in LAION's or transformers' naming; see `read_clap`."""
    if any(name.startswith((f"{kind}_branch.", f"{kind}_projection.0.")) for name in state):
        state = from_laion(state)
    wanted = (f"{kind}_model.", f"{kind}_projection.")
    tensors = {
        f"tower.{name}": value.float()
        for name, value in state.items()
        if name.startswith(wanted) and not name.endswith(OWN_BUFFERS)
    }
    return Converted((_text_config if kind == "text" else _audio_config)(tensors, path, config or {}), tensors)


def from_laion(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """LAION's names to transformers'; the joint q, k, v matrices are split."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if any(part in f".{name}" for part in DROPPED):
            continue
        audio = name.startswith("audio_")
        for theirs, ours in RENAMED.items():
            if audio or theirs in ("text_branch.", "_projection.0.", "_projection.2."):
                name = name.replace(theirs, ours)
        if ".qkv." in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("qkv", part)] = piece
        else:
            renamed[name] = value
    return renamed


def _text_config(tensors: dict[str, Tensor], path: Path, config: dict[str, Any]) -> QueryConfig:
    kind = "CLAP's text tower (RoBERTa)"
    words = expect(tensors, "tower.text_model.embeddings.word_embeddings.weight", path, kind)
    projection = expect(tensors, "tower.text_projection.linear2.weight", path, kind)
    hidden = words.shape[1]
    return QueryConfig(
        tower="clap",
        width=projection.shape[0],
        layers=count(tensors, "tower.text_model.encoder.layer."),
        heads=int(config.get("num_attention_heads", max(1, hidden // 64))),
        hidden=hidden,
    )


def _audio_config(tensors: dict[str, Tensor], path: Path, config: dict[str, Any]) -> QueryConfig:
    stem = "tower.audio_model.audio_encoder."
    if f"{stem}patch_embed.mel_conv2d.weight" in tensors:
        raise WeightsError(
            f"{path} is a fused CLAP, whose audio tower takes four views of a sound, but one that is not fused is "
            "expected; take 630k-audioset-best.pt or laion/clap-htsat-unfused."
        )
    kind = "CLAP's audio tower (HTS-AT)"
    first = expect(tensors, f"{stem}patch_embed.proj.weight", path, kind)
    table = expect(tensors, f"{stem}layers.0.blocks.0.attention.self.relative_position_bias_table", path, kind)
    levels = count(tensors, f"{stem}layers.")
    return QueryConfig(
        tower="clap_audio",
        width=expect(tensors, "tower.audio_projection.linear2.weight", path, kind).shape[0],
        heads=table.shape[1],
        hidden=first.shape[0],
        depths=tuple(count(tensors, f"{stem}layers.{level}.blocks.") for level in range(levels)),
        tokenizer="",
    )


def read_tokenizer(folder: Path) -> Tensor:
    """The tokenizer of a folder as the uint8 tensor that travels in the checkpoint.

    Args:
        folder: with `tokenizer.json`, or `vocab.json` and `merges.txt` (RoBERTa's byte-level BPE).

    Raises:
        WeightsError: the files are not there or damaged.
    """
    with importing("tokenizers"):
        from tokenizers import Tokenizer

    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    try:
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
        elif all(part.is_file() for part in parts):
            with importing("transformers"):
                from transformers import RobertaTokenizerFast

            tokenizer = RobertaTokenizerFast.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
        else:
            raise WeightsError(
                f"{folder} has neither tokenizer.json nor vocab.json with merges.txt; run `sounding fetch "
                "clap-tokenizer` (from huggingface.co/laion/clap-htsat-unfused) and name its folder."
            )
    except WeightsError:
        raise
    except Exception as error:  # the library raises bare exceptions
        said = " ".join(str(error).split())
        raise WeightsError(f"{folder} holds a damaged tokenizer ({said}); get its files again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return torch.frombuffer(bytearray(tokenizer.to_str().encode()), dtype=torch.uint8)
