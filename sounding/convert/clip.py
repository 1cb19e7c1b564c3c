"""CLIP (ViT-B/32, B/16, L/14): its image tower is our patch encoder, its text tower embeds names while converting.

Both are open_clip's classes, `VisionTransformer` and `TextTransformer`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import PatchConfig
from ..naming.config import NamingConfig
from ..weights import WeightsError
from ..weights.reading import count, expect, read_folder, read_json, read_state, read_transformers, under
from . import Converted

# (width, layers, patch size, embedding width, image size) -> open_clip's name of the model
MODELS = {
    (768, 12, 32, 512, 224): "ViT-B-32",
    (768, 12, 16, 512, 224): "ViT-B-16",
    (1024, 24, 14, 768, 224): "ViT-L-14",
    (1024, 24, 14, 768, 336): "ViT-L-14-336",
}
TRANSFORMERS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # the misspelling is transformers'
    "post_layernorm": "ln_post",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "encoder.layers.": "transformer.resblocks.",
}
TRANSFORMERS_TEXT = {
    **{theirs: ours for theirs, ours in TRANSFORMERS.items() if not theirs.startswith("embeddings.")},
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
# Names of a text tower in open_clip's and OpenAI's files, where they have no prefix; newer files of open_clip have
# "text." before them.
TEXT = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")
LOGIT_SCALE = "logit_scale"  # a natural logarithm


@dataclass(frozen=True)
class TextTower:
    """CLIP's text tower: tensors named as open_clip's `TextTransformer` has them, and the scale of cosines."""

    tensors: dict[str, Tensor]
    scale: float
    quick_gelu: bool


def read_clip(path: Path, *, quick_gelu: bool | None = None) -> Converted:
    """A patch encoder from open_clip's .safetensors or .bin, or a transformers folder.

    Args:
        path: the file, or the folder with `config.json` or `open_clip_config.json`.
        quick_gelu: whether the tower was trained with QuickGELU; read from the publisher's configuration where
            there is one (weights alone do not say).

    Raises:
        WeightsError: other weights, an unknown size, or a file that does not say its activation.
    """
    state, said = _open(path)
    if any(name.startswith("visual.") for name in state):
        state = under(state, "visual.")
    quick = said if quick_gelu is None else quick_gelu
    config = _config(state, path)
    if quick is None:
        raise WeightsError(
            f"{path} does not say whether the tower uses QuickGELU; keep the publisher's config file beside it, or "
            "say --quick-gelu (OpenAI's weights) or --no-quick-gelu (LAION's)."
        )
    tensors = {f"tower.{name}": value.float() for name, value in state.items()}
    return Converted(dataclasses.replace(config, quick_gelu=quick), tensors)


def read_clip_text(path: Path, *, quick_gelu: bool) -> TextTower | None:
    """The text tower of the weights that `read_clip` reads, or None where there is only an image tower.

    Args:
        path: see `read_clip`.
        quick_gelu: the activation of the image tower; CLIP's two towers have the same.

    Raises:
        WeightsError: a damaged file.
    """
    state, _ = _open(path)
    text = under(state, "text.") or {name: value for name, value in state.items() if name.startswith(TEXT)}
    if "token_embedding.weight" not in text or "text_projection" not in text:
        return None
    scale = float(state[LOGIT_SCALE].float().exp()) if LOGIT_SCALE in state else NamingConfig.scale
    return TextTower({name: value.float() for name, value in text.items() if name != "attn_mask"}, scale, quick_gelu)


def _open(path: Path) -> tuple[dict[str, Tensor], bool | None]:
    """Weights under open_clip's names, and whether the towers use QuickGELU (None: nothing says so)."""
    state, said = _read(path)
    if any(name.startswith("vision_model.") for name in state):
        state = _from_transformers(state, path)
    elif "input_resolution" in state or "context_length" in state:  # OpenAI's own state; it has no other kind
        said = True
    return state, said


def _read(path: Path) -> tuple[dict[str, Tensor], bool | None]:
    """Weights, and whether the publisher's configuration says QuickGELU (None: it is silent)."""
    if path.is_dir() and (path / "config.json").is_file():
        config = read_json(path / "config.json")
        vision = config.get("vision_config", config)
        return read_transformers(path), vision.get("hidden_act", "quick_gelu") == "quick_gelu"
    if path.is_dir():
        stem = "open_clip_model" if _has(path, "open_clip_model") else "open_clip_pytorch_model"
        return read_folder(path, stem), _open_clip_activation(path)
    state = read_state(path)
    if any(name.startswith("vision_model.") for name in state) and (path.parent / "config.json").is_file():
        return _read(path.parent)
    return state, _open_clip_activation(path.parent)


def _has(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{suffix}").is_file() for suffix in (".safetensors", ".bin"))


def _open_clip_activation(folder: Path) -> bool | None:
    path = folder / "open_clip_config.json"
    return bool(read_json(path).get("model_cfg", {}).get("quick_gelu", False)) if path.is_file() else None


def _config(state: dict[str, Tensor], path: Path) -> PatchConfig:
    kind = "a CLIP ViT image tower"
    patch = expect(state, "conv1.weight", path, kind)
    positions = expect(state, "positional_embedding", path, kind)
    projection = expect(state, "proj", path, kind)
    if patch.ndim != 4 or positions.ndim != 2 or projection.ndim != 2:
        raise WeightsError(f"{path} is not {kind} (its first layer has shape {tuple(patch.shape)}); check the file.")
    grid = round((len(positions) - 1) ** 0.5)
    size = (
        patch.shape[0],
        count(state, "transformer.resblocks."),
        patch.shape[-1],
        projection.shape[1],
        grid * patch.shape[-1],
    )
    if size not in MODELS:
        known = ", ".join(MODELS.values())
        raise WeightsError(
            f"{path} is a tower of width {size[0]} with {size[1]} layers and patches of {size[2]} at {size[4]} pixels, "
            f"but one of {known} is expected; get one of these."
        )
    return PatchConfig(tower="vit", model=MODELS[size], width=size[3], grid=grid, image_size=size[4])


def _from_transformers(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """transformers' `CLIPVisionModelWithProjection` (or `CLIPModel`) to open_clip's names; q, k, v in one matrix."""
    projection = expect(state, "visual_projection.weight", path, "CLIP with its visual projection")
    renamed = {"visual.proj": projection.T}
    renamed |= _renamed_tower(under(state, "vision_model."), TRANSFORMERS, "visual.", path)
    if "text_projection.weight" in state:
        renamed["text_projection"] = state["text_projection.weight"].T
        renamed |= _renamed_tower(under(state, "text_model."), TRANSFORMERS_TEXT, "", path)
    return renamed | {name: value for name, value in state.items() if name == LOGIT_SCALE}


def _renamed_tower(state: dict[str, Tensor], names: dict[str, str], prefix: str, path: Path) -> dict[str, Tensor]:
    """One of transformers' towers under open_clip's names."""
    renamed: dict[str, Tensor] = {}
    pieces: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.endswith("position_ids"):
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found = re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if found:
            pieces.setdefault(f"{found[1]}.attn.in_proj_{found[3]}", {})[found[2]] = value
        else:
            renamed[f"{prefix}{name}"] = value
    for name, parts in pieces.items():
        if len(parts) != 3:
            raise WeightsError(f"{path} lacks a part of {name!r}; the file is not complete, download it again.")
        renamed[f"{prefix}{name}"] = torch.cat([parts[letter] for letter in "qkv"])
    return renamed
