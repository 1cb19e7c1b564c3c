"""Sounds of items made by an engine's workers, on one machine or a cluster: one row per system and item.

Each item has a seed of its own, which its name decides (`item_seed`), so neither the order nor the number of workers
shows in the result. What is finished is known by the files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sounding.utils.files import write_atomic

from ...cluster.engine import engine_of
from ...cluster.process import device_for, failure_of_device
from ...cluster.rows import Column, Row
from ...cluster.settings import EngineSettings, Resources
from ...cluster.stage import StopRun
from ..items import Item, read_items
from .baseline import Baseline, Settings
from .run import sound_item, sound_of, write_failed

if TYPE_CHECKING:
    from .systems import Loaded, Weights

COLUMNS = {"system": Column("text", "its name"), "item": Column("text", "its name")}
NOTES = ".failed"  # folder of reasons, beside the sounds
LOCK = ".building.lock"


class SoundStage:
    """Sounds the items that rows name, each by the system that the row names.

    Args:
        items: folder of items.
        weights: of the systems.
        settings: of the sounds.
        device: as it was asked for, such as "auto".
        out: folder that gets SYSTEM/NAME.wav.
        resources: of a worker.
    """

    name, gpus_setting = "baselines", "--gpus"

    def __init__(self, items: Path, weights: Weights, settings: Settings, device: str, out: Path, resources: Resources):
        self.folder, self.weights, self.settings, self.device = items, weights, settings, device
        self.out, self.resources = out, resources
        self._items: dict[str, Item] = {}
        self._loaded: Loaded | None = None
        self._built: dict[str, Baseline] = {}

    def __call__(self, rows: list[Row]) -> list[Row]:
        """See `cluster.stage.Stage`. An item that cannot be sounded leaves a note."""
        for row in rows:
            baseline = self._baseline(row["system"])
            folder = self.out / row["system"]
            try:
                why = sound_item(baseline, self._items[row["item"]], folder)
            except OSError as error:  # the folder's, as it will be for every item
                raise StopRun(str(error)) from error
            if why:
                write_atomic(folder / NOTES / row["item"], why.encode())
        return rows

    def _baseline(self, system: str) -> Baseline:
        """A system with its weights, of which each is read once per worker."""
        import torch

        from .systems import SYSTEMS, Loaded

        try:
            if self._loaded is None:
                self._items = {item.name: item for item in read_items(self.folder)}
                self._loaded = Loaded(self.weights, self.settings, torch.device(device_for(self.device)), self.out)
            if system not in self._built:
                shared = "library" in SYSTEMS[system].needs  # what is computed of it once is kept for all
                with FileLock(self.out / LOCK) if shared else nullcontext():
                    self._built[system] = SYSTEMS[system].build(self._loaded, self.settings)
        except (OSError, ValueError) as error:
            raise StopRun(str(error)) from error
        except RuntimeError as error:
            failure = failure_of_device(error, self.name)
            if failure is None:
                raise
            raise failure from error
        return self._built[system]


def generate_by(
    engine: EngineSettings,
    stage: SoundStage,
    systems: list[str],
    items: list[Item],
    on_step: Callable[[int, int], None] | None,
) -> dict[str, dict[str, str]]:
    """Sound all items by all systems, as `run.generate` does; by system the names of those that failed, with reasons.

    Raises:
        StopRun: the run cannot go on.
    """
    rows = [{"system": system, "item": item.name} for system in systems for item in items]

    def left(some: list[Row]) -> list[Row]:
        return [row for row in some if not sound_of(stage.out / row["system"], row["item"]).is_file()]

    for system in systems:
        shutil.rmtree(stage.out / system / NOTES, ignore_errors=True)  # of a run that was killed
    todo = left(rows)
    before = len(rows) - len(todo)

    def report(came: int, count: int) -> None:
        if on_step is not None:
            on_step(before + came, len(rows))

    engine_of(engine).run([stage], COLUMNS, todo, len(todo), report, left)
    failed = {}
    for system in systems:
        notes = stage.out / system / NOTES
        failed[system] = {
            note.name: note.read_text(errors="replace") for item in items if (note := notes / item.name).is_file()
        }
        write_failed(stage.out / system, failed[system])
        shutil.rmtree(notes, ignore_errors=True)
    return failed
