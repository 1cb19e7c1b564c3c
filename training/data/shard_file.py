"""One shard of a source, written whole with a record beside it that says what is in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sounding.config import from_dict
from sounding.utils.files import FullDiskError
from sounding.utils.messages import printable

from .shard_format import Sample, Shard, Skipped, read_json, reason
from .storage import StorageError, remove, replacing, request, write_atomic

if TYPE_CHECKING:
    from .source import Source
    from .storage import Location


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard."""

    shard: Shard
    skipped: tuple[Skipped, ...]
    licences: dict[str, int]
    bare: tuple[str, ...] | None = None  # see ShardIndex
    masked: int | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Samples of the source that are done with, and those of them that were skipped."""
        return self.shard.samples + len(self.skipped), len(self.skipped)


@dataclass
class ShardJob:
    """What a process needs to make any shard."""

    source: Source
    out: Location
    shard_size: int
    count: Callable[[bool], None]  # called once per sample, with True where it was skipped
    stopped: Callable[[], bool]


def write_shard(job: ShardJob, number: int) -> None:
    """Write shard `number` and its record."""
    from webdataset import TarWriter

    first = number * job.shard_size
    last = min(first + job.shard_size, len(job.source))
    path = job.out / shard_name(number)
    offsets, skipped, licences = [], [], dict[str, int]()
    bare: list[str] = []
    masked = 0
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            with TarWriter(file, user="", group="", mtime=0, compress=False, encoder=False) as tar:
                for position, item in enumerate(job.source.samples(first, last), first):
                    if job.stopped():
                        raise InterruptedError("stopped")
                    files, item = _encoded(item)
                    if isinstance(item, Skipped):
                        skipped.append(item)
                    else:
                        offsets.append(tar.tarstream.offset)
                        tar.write({"__key__": f"{position:09d}", **files})
                        bare += [printable(item.id)] if item.bare else []
                        masked += item.masked
                        licences[item.licence] = licences.get(item.licence, 0) + 1
                    job.count(isinstance(item, Skipped))
                offsets.append(tar.tarstream.offset)
            size = file.tell()
        if len(offsets) == 1:
            remove([path])
        shard = Shard(path.name, len(offsets) - 1, size, tuple(offsets))
        record = ShardRecord(shard, tuple(skipped), licences, tuple(bare), masked)
        write_atomic(path.with_suffix(".json"), json.dumps(dataclasses.asdict(record)).encode())
    except OSError as error:
        why = "the disk is full" if isinstance(error, FullDiskError) else error.strerror or error
        raise OSError(
            f"{path} cannot be written ({why}); free some space or mend the folder, then run the "
            "same command again: finished shards are kept."
        ) from None


def _encoded(item: Sample | Skipped) -> tuple[dict[str, bytes], Sample | Skipped]:
    """The files of a sample, or why there are none."""
    if isinstance(item, Skipped):
        return {}, item
    try:
        return item.members(), item
    except Exception as error:  # such as an image longer than a JPEG can be
        return {}, Skipped(printable(item.id), reason(error))


def shard_name(number: int) -> str:
    """Its file."""
    return f"shard-{number:06d}.tar"


def read_record(out: Location, number: int) -> ShardRecord | None:
    """The record of a finished shard; None if it has to be made (again)."""
    path = out / shard_name(number)
    try:
        record: ShardRecord = from_dict(ShardRecord, read_json(path.with_suffix(".json")))
        record.shard.check()
        whole = record.shard.samples == 0 or request(path, path.stat).st_size == record.shard.bytes
    except StorageError:
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if whole else None
