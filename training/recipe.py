"""Recipes: YAML files (`recipe_files`) that describe a run whole, checked key by key against `Recipe`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from sounding.config import SoundingConfig
from sounding.migrations import migrated
from sounding.utils.fields import Checked, Length, Range, Text, from_dict

from .engine.previews import Preview
from .engine.settings import FilePath, LoopConfig, Share
from .recipe_files import merge, parse_overrides, read_yaml
from .starter.replay import RecallSettings
from .tasks.encoders import EncodersSettings
from .tasks.grounded import GroundedSettings
from .tasks.segmenter import SegmenterSettings
from .tasks.vae import VaeSettings
from .tasks.vocoder import VocoderSettings

__all__ = ["RECIPES", "DataConfig", "Recipe", "merge", "parse_overrides", "read_recipe", "read_yaml"]

RANDOM = "random"
WRITTEN = "_written"  # of a recipe's model: what its file speaks of, which is no part of the model
RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig(Checked):
    """Where items come from: `shards` is a folder made by `python -m training prepare`, a list of such, or a pattern
    (`data/*-features`); `stamps` is one made by `python -m training.starter.stamps` (clips and scenes are then mixed
    anew for every item).
    """

    shards: FilePath | Annotated[tuple[FilePath, ...], Length(1, 10_000)] = ""
    stamps: FilePath = ""
    plain: Share = 0.5  # share of the stamps' recordings that a crop takes as they are, see `ObjectClips`
    workers: Annotated[int, Range(0, 1024)] = 0  # processes that read and prepare items; 0: the training process


@dataclass(frozen=True)
class Recipe:
    """One run of one trainer.

    `start` says where weights come from before the first step: a checkpoint for "all" parts or for single ones
    ("vae", "vocoder", ...). Such a part brings its own sizes, see `training.start`. "random", or no word of it, starts
    a part anew.
    """

    task: Literal["grounded", "vae", "vocoder", "encoders", "recall", "segmenter"]
    name: Annotated[str, Text(200)]
    loop: LoopConfig
    out: FilePath = "runs"  # the run's folder is `out/name`
    dtype: Literal["fp16", "fp32"] = "fp16"  # of the checkpoint's weights
    description: str = ""
    licence: str = ""
    start: Annotated[dict[str, FilePath], Length(0, 32)] = field(default_factory=dict)
    model: SoundingConfig = field(default_factory=SoundingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preview: Preview = field(default_factory=Preview)
    grounded: GroundedSettings = field(default_factory=GroundedSettings)
    vae: VaeSettings = field(default_factory=VaeSettings)
    vocoder: VocoderSettings = field(default_factory=VocoderSettings)
    encoders: EncodersSettings = field(default_factory=EncodersSettings)
    recall: RecallSettings = field(default_factory=RecallSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "\0" in self.name:
            raise ValueError(f"name is {self.name!r}, but the name of a folder is expected; the run is kept in it.")

    @property
    def says(self) -> frozenset[str]:
        """Keys below `model` that the recipe speaks of ("grounding.mask_training"); of a model that no file described,
        those that are no default.
        """
        written: frozenset[str] | None = getattr(self.model, WRITTEN, None)
        if written is not None:
            return written
        mine, usual = (_leaves(dataclasses.asdict(config)) for config in (self.model, SoundingConfig()))
        return frozenset(key for key, value in mine.items() if key not in usual or usual[key] != value)

    def source(self, part: str) -> str:
        """The checkpoint that a part starts from, or `RANDOM`."""
        return self.start.get(part, self.start.get("all", RANDOM))

    @property
    def folder(self) -> Path:
        """Where the run keeps its states, previews and logs."""
        return Path(self.out) / self.name

    @property
    def result(self) -> Path:
        """The checkpoint that the run ends with."""
        return self.folder / f"{self.name}.safetensors"

    def to_yaml(self) -> str:
        """The recipe with every default written out; reads back as the same recipe."""
        return to_yaml(dataclasses.asdict(self))


def read_recipe(path: Path, cls: type[T] = Recipe, overrides: list[str] | None = None) -> T:  # type: ignore[assignment]
    """A recipe file as `cls`, overrides on top.

    Raises:
        ValueError: naming the file and the key that is unknown, missing or of the wrong type.
    """
    data = merge(read_yaml(path), parse_overrides(overrides or []))
    if isinstance(data.get("model"), dict):
        data["model"] = migrated(data["model"])
    try:
        recipe: T = from_dict(cls, data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if isinstance(recipe, Recipe):
        object.__setattr__(recipe.model, WRITTEN, frozenset(_leaves(data.get("model", {}))))
    return recipe


def to_yaml(values: dict[str, Any]) -> str:
    """Settings as a recipe has them."""
    return yaml.safe_dump(_plain(values), sort_keys=False, default_flow_style=None, width=120)


def _leaves(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested mappings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML's safe form knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
