"""The Segment Anything models that the host offers: Meta's files and folders of transformers, nothing else."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

import folder_paths

from ...sounding.checkpoint import CheckpointError
from .folders import STARTER_LABEL, is_inside, refuse_link_out, root_of

FOLDERS = ("sams", "sam2", "sam3")
EXTENSIONS = {".pth", ".pt", ".safetensors"}
SAM1_NAME = re.compile(r"sam_vit_[blh]", re.IGNORECASE)  # Meta's names: .pth files are not opened to see what they are
SAM1_TENSOR = "image_encoder.pos_embed"
FOLDER_KINDS = ("sam2", "sam2_video", "sam3", "sam3_tracker", "sam3_video")
MAX_HEADER = 16 * 2**20  # bytes
MAX_CONFIG = 2**20


def register_sam_folders() -> None:
    """Register the folders, unless another pack did; what it registered stays as it is."""
    for name in FOLDERS:
        if name not in folder_paths.folder_names_and_paths:
            folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
            folders, _ = folder_paths.folder_names_and_paths[name]
            folder_paths.folder_names_and_paths[name] = (folders, set(EXTENSIONS))


def sam_names() -> list[str]:
    """The segmenter that comes with the starter, then the models on disk as "folder/name"."""
    return [STARTER_LABEL, *(name for name, (path, root) in _found().items() if is_inside(path, root))]


def sam_path(name: str) -> Path:
    """The file or folder of a name that `sam_names` offers. Hosts do not check dropdowns, so this does.

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
            if not name.isprintable():
                continue
            full = folder_paths.get_full_path(kind, name)
            if full is None:
                continue
            path = Path(full)
            root = root_of(path, name)
            if _is_model_folder(path):
                found[f"{kind}/{Path(name).parent.as_posix()}"] = (path.parent, root)
            elif _is_sam1(path):
                found[f"{kind}/{Path(name).as_posix()}"] = (path, root)
    return found


def _is_model_folder(path: Path) -> bool:
    """Whether a .safetensors is part of a transformers folder of SAM 2 or SAM 3."""
    if path.suffix != ".safetensors":  # transformers knows no other spelling
        return False
    try:
        config = path.parent / "config.json"
        return _model_type(config, *_version(config)) in FOLDER_KINDS
    except OSError:
        return False


def _is_sam1(path: Path) -> bool:
    """Whether a file is Meta's first SAM: a .pth by its name, a .safetensors by its header."""
    if path.suffix.lower() != ".safetensors":
        return bool(SAM1_NAME.match(path.name))
    try:
        return _has_sam1_tensor(path, *_version(path))
    except OSError:
        return False


def _version(path: Path) -> tuple[int, int]:
    """What changes with a file. Lists are made for every page and every run, and each file is read once."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(1024)
def _model_type(config: Path, changed: int, size: int) -> str | None:
    """The `model_type` of a config.json, if it is one."""
    if size > MAX_CONFIG or not config.is_file():
        return None
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    kind = data.get("model_type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else None


@functools.lru_cache(1024)
def _has_sam1_tensor(path: Path, changed: int, size: int) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(MAX_HEADER, size) else b""
    return f'"{SAM1_TENSOR}"'.encode() in header
