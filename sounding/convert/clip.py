"""CLIP image towers (ViT-B/32, B/16, L/14) to our patch encoder, which is open_clip's `VisionTransformer`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch
from torch import Tensor

from ..config import PatchConfig
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


def read_clip(path: Path, *, quick_gelu: bool | None = None) -> Converted:
    """A patch encoder from open_clip's .safetensors or .bin, or a transformers folder.

    Args:
        path: the file, or the folder with `config.json` or `open_clip_config.json`.
        quick_gelu: whether the tower was trained with QuickGELU; read from the publisher's configuration where
            there is one (weights alone do not say).

    Raises:
        WeightsError: other weights, an unknown size, or a file that does not say its activation.
    """
    state, said = _read(path)
    if any(name.startswith("vision_model.") for name in state):
        state = _from_transformers(state, path)
    if any(name.startswith("visual.") for name in state):
        if "input_resolution" in state or "context_length" in state:  # OpenAI's own state; it has no other kind
            said = True
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
    renamed: dict[str, Tensor] = {"visual.proj": projection.T}
    pieces: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if not name.startswith("vision_model.") or name.endswith("position_ids"):
            continue
        name = name.removeprefix("vision_model.")
        for theirs, ours in TRANSFORMERS.items():
            name = name.replace(theirs, ours)
        found = re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if found:
            pieces.setdefault(f"{found[1]}.attn.in_proj_{found[3]}", {})[found[2]] = value
        else:
            renamed[f"visual.{name}"] = value
    for name, parts in pieces.items():
        if len(parts) != 3:
            raise WeightsError(f"{path} lacks a part of {name!r}; the file is not complete, download it again.")
        renamed[f"visual.{name}"] = torch.cat([parts[letter] for letter in "qkv"])
    return renamed
