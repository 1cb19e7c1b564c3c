"""Which Segment Anything models the host offers: files of Meta's and transformers folders, nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import folder_paths

from ..sounding.checkpoint import CheckpointError
from .files import STARTER_LABEL, refuse_link_out

FOLDERS = ("sams", "sam2", "sam3")
EXTENSIONS = {".pth", ".pt", ".safetensors"}
SAM1_NAME = re.compile(r"sam_vit_[blh]", re.IGNORECASE)  # Meta's names, by which .pth files are known unread
SAM1_TENSOR = "image_encoder.pos_embed"
FOLDER_KINDS = ("sam2", "sam2_video", "sam3", "sam3_tracker", "sam3_video")
MOST_HEADER = 16 * 2**20


def register_sam_folders() -> None:
    """Make the folders known where no other pack did; what another pack registered stays as it is."""
    for name in FOLDERS:
        if name not in folder_paths.folder_names_and_paths:
            folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
            folders, _ = folder_paths.folder_names_and_paths[name]
            folder_paths.folder_names_and_paths[name] = (folders, set(EXTENSIONS))


def sam_names() -> list[str]:
    """The starter's own segmenter, then the models on disk as "folder/name"."""
    return [STARTER_LABEL, *_found()]


def sam_path(name: str) -> Path:
    """File or folder of a name that `sam_names` offers. Hosts do not check dropdowns, so this does.

    Raises:
        CheckpointError: no such model, or a link that leads out of the models folder.
    """
    found = _found()
    if name not in found:
        where = ", ".join(f"models/{folder}" for folder in FOLDERS)
        raise CheckpointError(
            f"segmenter is {name!r}, but a Segment Anything model in {where} is expected; put it there, or choose "
            f"'{STARTER_LABEL}'."
        )
    path, folder = found[name]
    refuse_link_out(path, folder, name.split("/", maxsplit=1)[0])
    return path


def _found() -> dict[str, tuple[Path, Path]]:
    """Each model's path and the models folder that it is in."""
    found: dict[str, tuple[Path, Path]] = {}
    for kind in FOLDERS:
        if kind not in folder_paths.folder_names_and_paths:
            continue
        for name in folder_paths.get_filename_list(kind):
            full = folder_paths.get_full_path(kind, name)
            if full is None:
                continue
            path = Path(full)
            root = path.parents[len(Path(name).parts) - 1]
            if _is_model_folder(path):
                found[f"{kind}/{Path(name).parent.as_posix()}"] = (path.parent, root)
            elif _is_sam1(path):
                found[f"{kind}/{Path(name).as_posix()}"] = (path, root)
    return found


def _is_model_folder(path: Path) -> bool:
    """Whether a .safetensors is part of a transformers folder of SAM 2 or SAM 3."""
    config = path.parent / "config.json"
    if path.suffix != ".safetensors" or not config.is_file():
        return False
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("model_type") in FOLDER_KINDS


def _is_sam1(path: Path) -> bool:
    """Whether a file is Meta's first SAM: a .pth by its name, a .safetensors by its header."""
    if path.suffix != ".safetensors":
        return bool(SAM1_NAME.match(path.name))
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MOST_HEADER else b""
    except OSError:
        return False
    return f'"{SAM1_TENSOR}"'.encode() in header
