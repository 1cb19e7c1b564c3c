"""A segmenter out of the box, a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ..checkpoint import CONFIG_KEY, STARTER, CheckpointError, check_header_size, read_header, resolve
from ..config import SEGMENTER
from ..loading import build, read_parts
from ..weights import WeightsError
from ..weights.reading import read_json, read_state
from .base import Segmenter
from .folder import check_folder

if TYPE_CHECKING:
    from ..model import SoundingModel

EXPECTED = (
    "a Segment Anything file of Meta's (.pth or .safetensors), a transformers folder of SAM 2 or SAM 3, or a Sounding "
    "Objects checkpoint"
)


def load_segmenter(
    which: str | Path = STARTER, *, model: SoundingModel | None = None, device: torch.device | str = "cpu"
) -> Segmenter:
    """Load a segmenter.

    Args:
        which: "starter", the small one in the box; or the path of a Segment Anything
            file (`sam_vit_b_01ec64.pth`), a transformers folder of SAM 2 or SAM 3, or a checkpoint of ours.
        model: with "starter", take the parts of this loaded model instead of reading the file. They are shared, not
            copied.
        device: where the weights go.

    Raises:
        ValueError: another kind of file, or one that is damaged; nothing in it is executed.
    """
    if model is not None:
        from .click import ClickSegmenter

        if model.segmenter is None:
            raise CheckpointError(f"The model {model.config.name!r} has no segmenter; {_INSTEAD}.")
        return ClickSegmenter(model.patches, model.segmenter)
    path = resolve(which) if str(which) == STARTER else Path(which)
    if path.is_dir():
        segmenter = _from_folder(path)
    elif path.is_file():
        segmenter = _from_file(path, STARTER if str(which) == STARTER else path.stem)
    else:
        raise WeightsError(f"{path} is neither a file nor a folder, but {EXPECTED} is expected; check the path.")
    if segmenter.module is not None:
        segmenter.module.to(device)
    return segmenter


KINDS = ("sam2", "sam2_video", "sam3", "sam3_tracker", "sam3_video")
_INSTEAD = "use the starter's, or train one with `python -m training run training/recipes/starter/segmenter.yaml`"


def _from_folder(path: Path) -> Segmenter:
    config = read_json(path / "config.json")
    kind = str(config.get("model_type"))[:80]
    if kind in KINDS:
        check_folder(path, config)
    if kind in KINDS[:2]:
        from .sam2 import load_sam2

        return load_sam2(path)
    if kind in KINDS[2:]:
        from .sam3 import load_sam3

        return load_sam3(path, kind)
    raise WeightsError(f"{path} is a folder of the model type {kind!r}, but {EXPECTED} is expected; give one of those.")


def _from_file(path: Path, name: str) -> Segmenter:
    if path.suffix.lower() == ".safetensors" and _is_ours(path):
        return _load_click(path, name)
    from .sam1 import Sam1Segmenter, build_sam1

    state = read_state(path)
    if "image_encoder.pos_embed" not in state:
        first = ", ".join(sorted(state)[:2])
        meta = any(name.startswith(("image_encoder.trunk.", "sam_mask_decoder.", "detector.")) for name in state)
        hint = "SAM 2 and SAM 3 are read from their transformers folders" if meta else "give one of those"
        raise WeightsError(f"{path} has tensors such as {first}, but {EXPECTED} is expected; {hint}.")
    return Sam1Segmenter(build_sam1(state, path), name)


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            return CONFIG_KEY in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False  # reading it as another kind says what is wrong


def _load_click(path: Path, name: str) -> Segmenter:
    """The tower and the decoder out of a checkpoint, and nothing else of it."""
    from ..encoders.patches import PatchEncoder
    from .click import ClickSegmenter
    from .network import ClickNetwork

    header = read_header(path)
    patch_config, click_config = header.config.patches, header.config.segmenter
    if click_config is None:
        raise CheckpointError(f"{path} has no segmenter; {_INSTEAD}.")
    parts = ("patches", SEGMENTER)

    def made() -> nn.ModuleDict:
        towers = {"patches": PatchEncoder(patch_config), SEGMENTER: ClickNetwork(click_config, patch_config)}
        return nn.ModuleDict(towers).eval()

    modules = build(header, made, parts)
    read_parts(modules, header, parts, dtype=torch.float32, device="cpu")
    return ClickSegmenter(cast(PatchEncoder, modules["patches"]), cast(ClickNetwork, modules[SEGMENTER]), name)
