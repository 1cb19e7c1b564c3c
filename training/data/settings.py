"""Where a run's items come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sounding.utils.fields import Checked, Length, Range, Text

Folder = Annotated[str, Text(4096)]


@dataclass(frozen=True)
class DataSettings(Checked):
    """The `data` block of a recipe.

    Attributes:
        shards: a folder made by `python -m training prepare`, a list of such, or a pattern (`data/*-features`).
        stamps: a folder of the starter's cut-outs and recordings; clips and scenes are then mixed anew per item.
        plain: share of the stamps' recordings that a crop takes as they are, see `ObjectClips`.
        workers: processes that read and prepare items; 0 means the training process itself.
    """

    shards: Folder | Annotated[tuple[Folder, ...], Length(1, 10_000)] = ""
    stamps: Folder = ""
    plain: Annotated[float, Range(0, 1)] = 0.5
    workers: Annotated[int, Range(0, 1024)] = 0
