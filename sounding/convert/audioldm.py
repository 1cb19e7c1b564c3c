"""AudioLDM (s, m and l) from a diffusers folder or the original .ckpt: U-Net, VAE, vocoder and CLAP text tower."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import silu

from ..config import DiffusionConfig, UnetConfig, VaeConfig
from ..utils.libraries import importing
from ..weights import WeightsError
from ..weights.reading import count, expect, read_folder, read_json, read_state, under
from . import Converted
from .clap import clap_from_state, read_clap, read_tokenizer
from .hifigan import hifigan_from_state, read_hifigan

KIND = "AudioLDM"
UNET, VAE, CLAP, VOCODER = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "first_stage_model.vocoder.",
)
# diffusers' names of attention in the VAE before 0.17
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# What an original checkpoint does not say, from audioldm/utils.py: 64 wide in "l" (256 channels), 32 in "s" and "m".
LARGE_CHANNELS, LARGE_HEAD, HEAD = 256, 64, 32
HeadsFrom = Literal["config", "authors"]


@dataclass(frozen=True)
class AudioLDM:
    """The parts of one AudioLDM; the U-Net is as published, conditioned through FiLM."""

    unet: Converted
    vae: Converted
    vocoder: Converted
    text: Converted
    audio: Converted | None  # only the original checkpoint has CLAP's audio tower
    diffusion: DiffusionConfig
    tokenizer: Tensor | None
    notes: tuple[str, ...] = ()  # what a person should know of these weights


def read_audioldm(path: Path, *, ema: bool = True, heads: HeadsFrom = "config") -> AudioLDM:
    """Read all parts.

    Args:
        path: the diffusers folder, or the .ckpt.
        ema: take an original checkpoint's averaged U-Net where it has one, as AudioLDM itself does to generate.
        heads: of attention in a folder's U-Net: as its config.json says (diffusers runs it so), or as the authors'
            code has them, which a .ckpt always gets. The published folders say 8 at every level, which is not what
            the weights were trained with.

    Raises:
        WeightsError: another kind of model, an incomplete folder, or a damaged file.
    """
    return _from_folder(path, heads) if path.is_dir() else _from_checkpoint(path, ema)


def _from_folder(folder: Path, heads: HeadsFrom) -> AudioLDM:
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != "AudioLDMPipeline":
        raise WeightsError(
            f"{folder} is a {index.get('_class_name')}, but an AudioLDMPipeline is expected (AudioLDM 2 and MusicLDM "
            "condition in other ways); give an AudioLDM folder such as cvssp/audioldm-s-full-v2."
        )
    unet = _unet_config(read_json(folder / "unet" / "config.json"), folder)
    trained = dataclasses.replace(unet, head_width=_head_width(unet.channels), heads=())
    said, own = _heads(unet), _heads(trained)
    notes: tuple[str, ...] = ()
    if heads == "authors":
        unet = trained
    elif said != own:
        notes = (
            f"The U-Net's attention has {said} heads, as its config.json says and diffusers runs it; AudioLDM's own "
            f"code has {own}: --heads authors follows that.",
        )
    vae = read_json(folder / "vae" / "config.json")
    weights = read_folder(folder / "vae", "diffusion_pytorch_model")
    for old, new in OLD_ATTENTION.items():
        weights = {name.replace(old, new) if "attentions" in name else name: v for name, v in weights.items()}
    tokenizer = folder / "tokenizer"
    return AudioLDM(
        unet=Converted(unet, read_folder(folder / "unet", "diffusion_pytorch_model")),
        vae=Converted(
            VaeConfig(
                channels=tuple(vae["block_out_channels"]),
                layers=vae.get("layers_per_block", 1),
                latent_channels=vae.get("latent_channels", 4),
                norm_groups=vae.get("norm_num_groups", 32),
                scale=float(vae.get("scaling_factor", 0.18215)),
            ),
            weights,
        ),
        vocoder=read_hifigan(folder / "vocoder"),
        text=read_clap(folder / "text_encoder"),
        audio=None,
        diffusion=_diffusion(folder),
        tokenizer=read_tokenizer(tokenizer) if tokenizer.is_dir() else None,
        notes=notes,
    )


def _head_width(channels: tuple[int, ...]) -> int:
    """Channels a head of attention in the authors' code."""
    return LARGE_HEAD if channels and channels[0] == LARGE_CHANNELS else HEAD


def _heads(unet: UnetConfig) -> str:
    """Heads of the levels that attend, as text."""
    each = unet.heads or tuple(width // unet.head_width for width in unet.channels)
    return ", ".join(map(str, each[1:]))


def _unet_config(config: dict[str, Any], folder: Path) -> UnetConfig:
    """Our configuration of diffusers' U-Net.

    Raises:
        WeightsError: it is conditioned or laid out in another way than AudioLDM's.
    """
    channels = tuple(config.get("block_out_channels", ()))
    attended = len(channels) - 1
    expected = {
        "class_embed_type": "simple_projection",
        "class_embeddings_concat": True,
        "cross_attention_dim": list(channels),
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * attended,
        "up_block_types": ["CrossAttnUpBlock2D"] * attended + ["UpBlock2D"],
    }
    for key, value in expected.items():
        if config.get(key) != value:
            raise WeightsError(
                f"{folder / 'unet'} has {key} {config.get(key)}, but AudioLDM's {value} is expected; give an AudioLDM "
                "folder such as cvssp/audioldm-s-full-v2."
            )
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)  # the same thing, by its own note
    each = tuple(heads) if isinstance(heads, list) else (heads,) * len(channels)
    regular = all(count == width // HEAD for count, width in zip(each, channels, strict=True))
    return UnetConfig(
        channels=channels,
        layers=config.get("layers_per_block", 2),
        heads=() if regular else each,
        norm_groups=config.get("norm_num_groups", 32),
        film_width=config["projection_class_embeddings_input_dim"],
    )


def _diffusion(folder: Path) -> DiffusionConfig:
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    return DiffusionConfig(
        train_steps=config.get("num_train_timesteps", 1000),
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        beta_schedule=config["beta_schedule"],
        prediction=config.get("prediction_type", "epsilon"),
    )


def _from_checkpoint(path: Path, ema: bool) -> AudioLDM:
    """The original .ckpt; layouts are read off the tensors' shapes, names are mapped by diffusers' own code."""
    with importing("diffusers"):
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    state = read_state(path)
    expect(state, f"{UNET}film_emb.weight", path, "an original AudioLDM checkpoint")
    config = _checkpoint_unet(under(state, UNET), path)
    averaged = ema and sum(name.startswith("model_ema.") for name in state) > 100
    unet = convert_ldm_unet_checkpoint(state, {"layers_per_block": config.layers}, extract_ema=averaged)
    for end in ("weight", "bias"):  # the one pair that diffusers' mapping leaves out
        name = f"model_ema.diffusion_modelfilm_emb{end}" if averaged else f"{UNET}film_emb.{end}"
        unet[f"class_embedding.{end}"] = state[name]
    first_stage = {name: v for name, v in state.items() if name.startswith(VAE) and not name.startswith(VOCODER)}
    vae = _checkpoint_vae(under(first_stage, VAE), float(state.get("scale_factor", VaeConfig().scale)), path)
    levels = {"down_block_types": vae.channels, "up_block_types": vae.channels}  # only their number is looked at
    clap = under(state, CLAP)
    has_audio = any(name.startswith("audio_branch.") for name in clap)
    return AudioLDM(
        unet=Converted(config, unet),
        vae=Converted(vae, convert_ldm_vae_checkpoint(first_stage, levels)),
        vocoder=hifigan_from_state(under(state, VOCODER), path, {}),
        text=clap_from_state(clap, path, "text"),
        audio=clap_from_state(clap, path, "audio") if has_audio else None,
        diffusion=DiffusionConfig(),
        tokenizer=None,
    )


def _checkpoint_unet(unet: dict[str, Tensor], path: Path) -> UnetConfig:
    channels: list[int] = []
    layers = level = 0
    for block in range(1, count(unet, "input_blocks.")):
        if f"input_blocks.{block}.0.op.weight" in unet:
            level += 1
            continue
        layers += level == 0
        width = expect(unet, f"input_blocks.{block}.0.out_layers.3.weight", path, KIND).shape[0]
        if (f"input_blocks.{block}.1.norm.weight" in unet) != (level > 0):
            raise WeightsError(f"{path} attends at other levels than AudioLDM; give an AudioLDM checkpoint.")
        channels[level:] = [width]
    return UnetConfig(
        channels=tuple(channels),
        layers=layers,
        head_width=_head_width(tuple(channels)),
        film_width=unet["film_emb.weight"].shape[1],
    )


def _checkpoint_vae(vae: dict[str, Tensor], scale: float, path: Path) -> VaeConfig:
    levels = count(vae, "encoder.down.")
    widths = [
        expect(vae, f"encoder.down.{i}.block.0.conv2.weight", path, f"{KIND}'s VAE").shape[0] for i in range(levels)
    ]
    return VaeConfig(
        channels=tuple(widths),
        layers=count(vae, "encoder.down.0.block."),
        latent_channels=expect(vae, "post_quant_conv.weight", path, f"{KIND}'s VAE").shape[0],
        scale=scale,
    )


def fold_film(unet: Converted, condition: Tensor) -> Converted:
    """The U-Net without its FiLM slot, as it is at one fixed condition [film_width].

    Each residual block adds W silu([t, c]) + b with t from the step and c from the condition. With c fixed its
    half of W becomes a part of b, exactly. The second attention (which attended to the latents) is left out.
    """
    tensors = {name: v for name, v in unet.tensors.items() if ".attn2." not in name}
    weight, bias = tensors.pop("class_embedding.weight").float(), tensors.pop("class_embedding.bias").float()
    constant = silu(weight @ condition.float() + bias)
    for name in [name for name in tensors if name.endswith("time_emb_proj.weight")]:
        both = tensors[name].float()
        step, fixed = both[:, : -len(constant)], both[:, -len(constant) :]
        tensors[name] = step.contiguous()
        partner = name.removesuffix("weight") + "bias"
        tensors[partner] = tensors[partner].float() + fixed @ constant
    return Converted(dataclasses.replace(unet.config, film_width=0), tensors)
