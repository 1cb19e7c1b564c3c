"""The checkpoint files that the host offers, and the path of a chosen one."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...sounding.checkpoint import STARTER, CheckpointError, resolve

FOLDER = "sounding"
STARTER_LABEL = "starter (in the box)"


def register_folder() -> None:
    """Register `models/sounding`, beside any folder of extra_model_paths.yaml; only for .safetensors files."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folders, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (folders, {".safetensors"})


def checkpoint_names() -> list[str]:
    """The starter, then the files in `models/sounding` that `checkpoint_path` accepts: no links that lead out of it."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.isprintable()]
    found = ((name, folder_paths.get_full_path(FOLDER, name)) for name in names)
    return [STARTER_LABEL, *(name for name, path in found if path and is_inside(Path(path), root_of(Path(path), name)))]


def checkpoint_path(name: str) -> Path:
    """The path of a name that `checkpoint_names` offers. Hosts do not check dropdowns, so this does.

    Raises:
        CheckpointError: no such file, another kind of file, or one outside the models folder.
    """
    if name == STARTER_LABEL:
        return resolve(STARTER)
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    where = " or ".join(map(str, folders))
    outside = Path(name).is_absolute() or ".." in Path(name.replace("\\", "/")).parts or not name.isprintable()
    if outside or not name.lower().endswith(".safetensors"):
        raise CheckpointError(
            f"checkpoint is {name!r}, but the name of a .safetensors file in {where} is expected; choose one from "
            "the list."
        )
    for folder in folders:
        path = folder / name
        if not path.is_file():
            continue
        refuse_link_out(path, folder, FOLDER)
        return path
    raise CheckpointError(
        f"checkpoint is {name!r}, but there is no such file in {where}; put it there, or choose '{STARTER_LABEL}'."
    )


def refuse_link_out(path: Path, folder: Path, kind: str) -> None:
    """Refuse a link in one of the host's folders that leads out of it.

    Args:
        path: of a model.
        folder: one of the host's folders.
        kind: the host's name of that folder.

    Raises:
        CheckpointError: the model is outside.
    """
    if not is_inside(path, folder):
        raise CheckpointError(
            f"{path} is a link to a place outside {folder}, but a file inside is expected; copy it there, or "
            f"name its folder under '{kind}' in extra_model_paths.yaml."
        )


def root_of(path: Path, name: str) -> Path:
    """The models folder in which a file was found under a name."""
    return path.parents[len(Path(name).parts) - 1]


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, with links resolved; a link to itself does not."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False
