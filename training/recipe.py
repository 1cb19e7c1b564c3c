"""Recipes: YAML files (`recipe_files`), each the whole description of one run, checked key by key against `Recipe`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml

from sounding.config import SoundingConfig
from sounding.migrations import migrated
from sounding.utils.fields import Length, Text, from_dict, shown, typed

from .data.settings import DataSettings
from .engine.previews import Preview
from .engine.settings import FilePath, LoopConfig
from .engine.validation import ValidationSettings
from .recipe_files import merge, parse_overrides, read_yaml
from .recipe_migrations import migrated_overrides, migrated_recipe
from .registry import TASKS

RANDOM = "random"
WRITTEN = "_written"  # attribute of a recipe's model: the keys that its file sets; no part of the model
RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """One run of one task.

    Attributes:
        task: a name in `registry.TASKS`.
        name: of the run; its folder is `out/name`.
        loop: how long and how fast.
        dtype: of the weights in the checkpoint.
        start: where weights come from before the first step: a checkpoint for "all" parts or for single ones ("vae",
            "vocoder", ...). Such a part brings its own sizes, see `training.initialization`. A part that is "random",
            or not mentioned at all, starts from random weights.
        settings: the task's own; in a file they stand under the task's name. None means the task's defaults.
    """

    task: str
    name: Annotated[str, Text(200)]
    loop: LoopConfig
    out: FilePath = "runs"
    dtype: Literal["fp16", "fp32"] = "fp16"
    description: str = ""
    licence: str = ""
    start: Annotated[dict[str, FilePath], Length(0, 32)] = field(default_factory=dict)
    model: SoundingConfig = field(default_factory=SoundingConfig)
    data: DataSettings = field(default_factory=DataSettings)
    preview: Preview = field(default_factory=Preview)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    settings: Any = None

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "\0" in self.name:
            raise ValueError(f"name is {self.name!r}, but the name of a folder is expected; the run is kept in it.")
        if self.task not in TASKS:
            raise ValueError(f"task is {shown(self.task)}, but one of {', '.join(TASKS)} is expected.")
        if self.settings is None:
            object.__setattr__(self, "settings", TASKS[self.task].settings())
        if not isinstance(self.settings, TASKS[self.task].settings):
            kind = type(self.settings).__name__
            raise ValueError(f"settings are {kind}, but {TASKS[self.task].settings.__name__} is expected.")

    @property
    def explicit(self) -> frozenset[str]:
        """Keys below `model` that the recipe's file sets ("grounding.mask_training"); without a file, those with
        other values than the defaults.
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

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss so far, where the run has validation."""
        return self.folder / f"{self.name}-best.safetensors"

    def to_yaml(self) -> str:
        """The recipe with every default written out; reads back as the same recipe."""
        return to_yaml(self.values())

    def values(self) -> dict[str, Any]:
        """All settings as nested mappings, as a file has them: the task's own under its name."""
        values = dataclasses.asdict(self)
        return values | {self.task: values.pop("settings")}


def read_recipe(path: Path, cls: type[T] = Recipe, overrides: list[str] | None = None) -> T:  # type: ignore[assignment]
    """A recipe file as `cls`, overrides on top.

    Raises:
        ValueError: naming the file and the key that is unknown, missing or of the wrong type.
    """
    data, changes = read_yaml(path), parse_overrides(overrides or [])
    if cls is Recipe:
        data = migrated_recipe(data)
        data = migrated_recipe(merge(data, migrated_overrides(changes, data.get("task"))))
    else:
        data = getattr(cls, "migrated", dict)(merge(data, changes))
    if isinstance(data.get("model"), dict):
        data["model"] = migrated(data["model"])
    try:
        recipe: T = from_dict(cls, _with_settings(data) if cls is Recipe else data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if isinstance(recipe, Recipe):
        object.__setattr__(recipe.model, WRITTEN, frozenset(_leaves(data.get("model", {}))))
    return recipe


def _with_settings(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's mapping with the block of its task as `settings`.

    Blocks of other tasks are refused, but for those that hold nothing but defaults: earlier versions wrote out all.

    Raises:
        ValueError: naming the block or the key.
    """
    task = TASKS.get(cast(str, data.get("task"))) if isinstance(data.get("task"), str) else None
    if task is None:
        return {key: value for key, value in data.items() if key not in TASKS}  # `Recipe` says what is wrong
    if "settings" in data:
        raise ValueError(f"Unknown key 'settings'; those of the task {task.name} stand under {task.name}.")
    values = dict(data)
    for name in TASKS.keys() & values.keys():
        block = values.pop(name)
        settings = typed(TASKS[name].settings, block, name)
        if name == task.name:
            values["settings"] = settings
        elif settings != TASKS[name].settings():
            raise ValueError(
                f"{name} has settings, but the task is {task.name}; remove the block, or set task: {name}."
            )
    return values


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
