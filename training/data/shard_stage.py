"""Shards made by an engine's workers, on one machine or a cluster: one row per shard, and each worker its own source.

The result has the bytes of any other run: shards are made whole, and what is finished is known by the records beside
them (`shard_file.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..cluster.engine import engine_of
from ..cluster.process import device_for, failure_of_device
from ..cluster.rows import Column, Row
from ..cluster.settings import EngineSettings, Resources
from ..cluster.stage import StopRun
from .shard_file import ShardJob, read_record, shard_name, write_shard
from .shard_format import reason
from .source import Source
from .storage import files_below, read_bytes, remove, write_atomic

if TYPE_CHECKING:
    from .storage import Location

OpenSource = Callable[[str], Source]  # given a device; pickled to the workers
FAILED = ".failed"
COLUMNS = {"number": Column("count", "of the shard")}


class ShardStage:
    """Writes the shards that rows name.

    Args:
        name: for messages.
        open_source: opens the source in the worker, on its device.
        device: as it was asked for, such as "auto".
        out: folder of the shards.
        shard_size: samples per shard.
        described: what `describe` says of the source.
        resources: of a worker.
        gpus_setting: that they come from.
        batch_setting: how many samples the model sees at once, for the message where they are too many.
    """

    def __init__(
        self,
        name: str,
        open_source: OpenSource,
        device: str,
        out: Location,
        shard_size: int,
        described: str,
        resources: Resources,
        gpus_setting: str = "--gpus",
        batch_setting: str = "--batch",
    ):
        self.name, self.open_source, self.device = name, open_source, device
        self.out, self.shard_size, self.described, self.resources = out, shard_size, described, resources
        self.gpus_setting, self.batch_setting = gpus_setting, batch_setting
        self._job: ShardJob | None = None

    def __call__(self, rows: list[Row]) -> list[Row]:
        """See `cluster.stage.Stage`. A shard that cannot be made leaves a note, and the others are made."""
        for row in rows:
            try:
                self._job = self._job or self._open()
                write_shard(self._job, row["number"])
            except StopRun:
                raise
            except OSError as error:  # the folder's, as it will be for every shard
                raise StopRun(str(error)) from error
            except Exception as error:
                failure = failure_of_device(error, self.name, self.batch_setting)
                if failure is not None:
                    raise failure from error
                write_atomic(note_of(self.out, row["number"]), reason(error).encode())
        return rows

    def _open(self) -> ShardJob:
        try:
            source = self.open_source(device_for(self.device))
        except (OSError, ValueError) as error:
            raise StopRun(str(error)) from error
        if describe(source) != self.described:
            raise StopRun(
                "A worker finds other raw shards or another model than the first process does; give paths that are the "
                "same files on all machines."
            )
        return ShardJob(source, self.out, self.shard_size, lambda skipped: None, lambda: False)


def describe(source: Source) -> str:
    """What decides the bytes that a source gives."""
    return json.dumps([source.settings(), source.model], sort_keys=True)


def note_of(out: Location, number: int) -> Location:
    """Where a worker leaves the reason for which a shard could not be made."""
    return (out / shard_name(number)).with_suffix(FAILED)


@dataclass(frozen=True)
class ByEngine:
    """Writes shards by an engine; see `shard_writer.Elsewhere`."""

    settings: EngineSettings
    stage: ShardStage

    def __call__(self, todo: list[int], look: Callable[[], None]) -> None:
        """Write the shards of these numbers.

        Raises:
            StopRun: the run cannot go on.
            OSError: some shards could not be made; the others are.
        """
        out = self.stage.out

        def left(rows: list[Row]) -> list[Row]:
            return [row for row in rows if read_record(out, row["number"]) is None]

        remove(list(files_below(out, [FAILED])))  # of a run that was killed
        rows: list[dict[str, Any]] = [{"number": number} for number in todo]
        engine_of(self.settings).run([self.stage], COLUMNS, rows, len(rows), lambda came, count: look(), left)
        failed = list(files_below(out, [FAILED]))
        if failed:
            first, why = failed[0].with_suffix(".tar").name, read_bytes(failed[0])[:500].decode("utf-8", "replace")
            remove(failed)
            raise OSError(
                f"{len(failed)} of {len(todo)} shards could not be made, the first ({first}) because: "
                f"{why} The others are kept; run the same command again for those."
            )
