"""YAML recipes: one file a trainer, checked key by key against its dataclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from sounding.config import SoundingConfig, from_dict

RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: the file is no YAML mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, but a mapping of keys is expected.")
    return data


def read_recipe(path: Path, cls: type[T]) -> T:
    """A recipe file as `cls`; unknown or ill-typed keys raise a ValueError that names the file and the key."""
    try:
        recipe: T = from_dict(cls, read_yaml(path))
        return recipe
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_model(path: Path) -> SoundingConfig:
    """A model description (`model.yaml`)."""
    return read_recipe(path, SoundingConfig)
