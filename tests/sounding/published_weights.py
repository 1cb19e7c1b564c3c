"""Small models of the published classes, and files as their publishers write them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import pytest
import torch
from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    PreTrainedTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from sounding.convert import Converted, clip
from sounding.convert.assemble import _fill
from sounding.encoders.patches import PatchEncoder
from sounding.encoders.text import build_query_encoder

# Shaped as s-full-v2, m-full and l-full (128, 192 and 256 channels, times 1, 2, 3, 5), a quarter as wide.
SIZES = {"s": (32, 64, 96, 160), "m": (48, 96, 144, 240), "l": (64, 128, 192, 320)}
FILM = 16
TINY_CLIP = {"embed_dim": FILM, "width": 64, "layers": 2, "patch_size": 16, "image_size": 48}


def built(converted: Converted) -> Any:
    """Our module with the converted weights, loaded as a conversion loads them."""
    kind = PatchEncoder if hasattr(converted.config, "grid") else build_query_encoder
    part = kind(converted.config).eval().requires_grad_(False)  # type: ignore[arg-type]
    _fill(part, converted, Path("peer"))
    return part


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of single bytes with RoBERTa's special tokens at RoBERTa's places."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def audioldm_pipeline(channels: tuple[int, ...], *, groups: int = 16, heads: int | list[int] = 8) -> AudioLDMPipeline:
    """AudioLDM's classes wired as published, narrower, with random weights."""
    levels = len(channels)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        block_out_channels=channels,
        layers_per_block=2,
        norm_num_groups=groups,
        cross_attention_dim=channels,
        attention_head_dim=heads,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=FILM,
        class_embeddings_concat=True,
    )
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=2,
        latent_channels=8,
        norm_num_groups=32,
        scaling_factor=0.9,
    )
    text = ClapTextModelWithProjection(
        ClapTextConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256, projection_dim=FILM
        )
    )
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16000,
            upsample_initial_channel=64,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            normalize_before=False,
        )
    )
    louder(vocoder)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    modules = (vae, text, unet, vocoder)
    for module in modules:
        module.eval().requires_grad_(False)
    return AudioLDMPipeline(vae, text, roberta_tokenizer(), unet, scheduler, vocoder)


def louder(vocoder: torch.nn.Module) -> None:
    """HiFi-GAN's own start is so small that nothing could be heard."""
    for weight in vocoder.parameters():
        if weight.ndim == 3:
            torch.nn.init.xavier_normal_(weight)


def ldm_checkpoint(pipeline: AudioLDMPipeline, scale: float = 0.9) -> dict[str, Tensor]:
    """The pipeline's weights under the names of AudioLDM's original checkpoint."""
    state = {"scale_factor": torch.tensor(scale), "betas": torch.zeros(10)}
    levels, layers = len(pipeline.unet.config.block_out_channels), pipeline.unet.config.layers_per_block
    for name, value in pipeline.unet.state_dict().items():
        state["model.diffusion_model." + ldm_unet_name(name, levels, layers)] = value
    for name, value in pipeline.vae.state_dict().items():
        attended = "attentions" in name and value.ndim == 2
        state["first_stage_model." + ldm_vae_name(name, 3)] = value[:, :, None, None] if attended else value
    for name, value in pipeline.vocoder.state_dict().items():
        if name not in ("mean", "scale"):
            state["first_stage_model.vocoder." + name.replace("upsampler", "ups")] = value
    for name, value in pipeline.text_encoder.state_dict().items():
        state["cond_stage_model.model." + laion_text_name(name)] = value
    state["cond_stage_model.model.text_transform.sequential.0.weight"] = torch.zeros(2, 2)
    return state


def laion_text_name(name: str) -> str:
    name = name.replace("text_model.", "text_branch.")
    return name.replace("projection.linear1", "projection.0").replace("projection.linear2", "projection.2")


def ldm_unet_name(name: str, levels: int, layers: int) -> str:
    """CompVis's numbering: one list of blocks down, one up; a resampling block has a number of its own only down."""
    for ours, theirs in {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding": "film_emb",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }.items():
        if name.startswith(ours + "."):
            return inside_resnet(name.replace(ours, theirs, 1))
    way, level, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    first, i = int(level) * (layers + 1), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        place = 1 if int(level) == levels - 1 else 2
        return f"output_blocks.{first + layers}.{place}.{rest}"
    stem = f"input_blocks.{first + 1 + i}" if way == "down" else f"output_blocks.{first + i}"
    return inside_resnet(f"{stem}.{0 if kind == 'resnets' else 1}.{rest}")


def inside_resnet(name: str) -> str:
    if ".transformer_blocks." in name:
        return name
    for ours, theirs in {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def ldm_vae_name(name: str, levels: int) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{levels - 1 - int(found[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{levels - 1 - int(found[1])}.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)\.", lambda found: f"mid.block_{int(found[1]) + 1}.", name)
    for ours, theirs in {
        "mid_block.attentions.0.": "mid.attn_1.",
        "group_norm.": "norm.",
        "to_q.": "q.",
        "to_k.": "k.",
        "to_v.": "v.",
        "to_out.0.": "proj_out.",
        "conv_norm_out.": "norm_out.",
        "conv_shortcut.": "nin_shortcut.",
    }.items():
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def clap_peer() -> ClapModel:
    torch.manual_seed(3)
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    audio = {"hidden_size": 64, "depths": [2, 2, 1], "num_attention_heads": [2, 4, 8], "patch_embeds_hidden_size": 16}
    peer = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24)).eval().requires_grad_(False)
    norm = peer.audio_model.audio_encoder.batch_norm
    norm.running_mean.normal_(-20, 5)
    norm.running_var.uniform_(50, 200)
    return peer


def bare_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of a package importable without the package's own beginning, which wants much more."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, name, package)


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a very small CLIP in open_clip's published form, of a size that is known for the test."""
    vision = {key: TINY_CLIP[key] for key in ("width", "layers", "patch_size", "image_size")}
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    folder = tmp_path / "tiny-clip"
    folder.mkdir()
    described = {"embed_dim": FILM, "vision_cfg": vision, "text_cfg": text}
    (folder / "tiny-vit.json").write_text(json.dumps(described))
    open_clip.add_model_config(folder / "tiny-vit.json")
    size = (TINY_CLIP["width"], TINY_CLIP["layers"], TINY_CLIP["patch_size"], FILM, TINY_CLIP["image_size"])
    monkeypatch.setitem(clip.MODELS, size, "tiny-vit")
    from safetensors.torch import save_file

    save_file(open_clip.create_model("tiny-vit").state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    return folder
