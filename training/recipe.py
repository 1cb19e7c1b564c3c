"""Recipes: YAML files that describe a run whole, checked key by key against `Recipe`.

A recipe may name another one (`extends: base.yaml`, relative to itself) and give its differences alone:
mappings are merged, everything else is replaced. The command line does the same with `key.key=value`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from sounding.config import SoundingConfig, from_dict

from .encoders import EncodersSettings
from .grounded import GroundedSettings
from .learner import LoopConfig
from .recall import RecallSettings
from .report import Preview
from .segmenter import SegmenterSettings
from .vae import VaeSettings
from .vocoder import VocoderSettings

RANDOM = "random"
RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Where items come from: `shards` is a folder made by `python -m training prepare`, `stamps` one made by
    `python -m training.data.stamps` (clips and scenes are then mixed anew for every item).
    """

    shards: str = ""
    stamps: str = ""
    plain: float = 0.5  # share of the stamps' recordings that a crop takes as they are, see `StampClips`
    workers: int = 0  # processes that read and prepare items; 0 does it in the training process


@dataclass(frozen=True)
class Recipe:
    """One run of one trainer.

    `start` says where weights come from before the first step: a checkpoint for "all" parts or for single ones
    ("vae", "vocoder", ...). Such a part brings its own sizes. "random", or no word of it, starts a part anew.
    """

    task: Literal["grounded", "vae", "vocoder", "encoders", "recall", "segmenter"]
    name: str
    loop: LoopConfig
    out: str = "runs"  # the run's folder is `out/name`
    dtype: Literal["fp16", "fp32"] = "fp16"  # of the checkpoint's weights
    description: str = ""
    licence: str = ""
    start: dict[str, str] = field(default_factory=dict)
    model: SoundingConfig = field(default_factory=SoundingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preview: Preview = field(default_factory=Preview)
    grounded: GroundedSettings = field(default_factory=GroundedSettings)
    vae: VaeSettings = field(default_factory=VaeSettings)
    vocoder: VocoderSettings = field(default_factory=VocoderSettings)
    encoders: EncodersSettings = field(default_factory=EncodersSettings)
    recall: RecallSettings = field(default_factory=RecallSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)

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
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False, default_flow_style=None, width=120)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that also takes 1e-4 (without a dot) for a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, merged over the one that it extends.

    Raises:
        ValueError: a file is missing or no YAML mapping, or files extend each other in a circle.
    """
    return _read_extended(path, ())


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself through {' -> '.join(p.name for p in seen)}; break the circle.")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name a recipe file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}); name a recipe file.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, but a mapping of keys is expected.")
    base = data.pop("extends", None)
    if base is None:
        return data
    return merge(_read_extended(path.parent / str(base), (*seen, path.resolve())), data)


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` over it: mappings key by key, all else replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """`["loop.lr=1e-4", "name=mine"]` as nested mappings.

    Raises:
        ValueError: an override without a key or a value that is no YAML.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"{override!r} is no override; write key=value, such as loop.lr=1e-4.")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise ValueError(f"The value of {override!r} is not YAML; quote it.") from None
        for name in reversed(key.split(".")):
            value = {name: value}
        data = merge(data, value)
    return data


def read_recipe(path: Path, cls: type[T] = Recipe, overrides: list[str] | None = None) -> T:  # type: ignore[assignment]
    """A recipe file as `cls`, overrides on top.

    Raises:
        ValueError: naming the file and the key that is unknown, missing or of the wrong type.
    """
    data = merge(read_yaml(path), parse_overrides(overrides or []))
    try:
        recipe: T = from_dict(cls, data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return recipe


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML's safe form knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
