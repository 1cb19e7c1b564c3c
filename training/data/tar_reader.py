"""Bytes of samples out of many tars: opened as they are needed, at most some at once, by any thread or process."""

from __future__ import annotations

import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .shard_format import BLOCK, Shard
from .storage import StorageError, location, opened_for_ranges, request

if TYPE_CHECKING:
    from .storage import Location

OPEN_FILES = 64  # tars that one process keeps open; folders may have thousands
MOST_BYTES = 1 << 28  # of a sample: a damaged index must not fill the memory


class Member(NamedTuple):
    """Where a member's content lies in its tar, in bytes."""

    start: int
    size: int


class TarReader:
    """Reads of the tars `paths`, which an index describes as `shards`.

    Every process opens them anew: objects of this class can be forked and pickled, and used by several threads.
    """

    def __init__(self, paths: Sequence[Location], shards: Sequence[Shard]):
        self.paths, self.shards = paths, shards
        self._forget()

    def _forget(self) -> None:
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, place: int, start: int, size: int) -> bytes:
        """`size` bytes of tar number `place` from byte `start` on, and no others.

        Raises:
            ValueError: the tar is missing, cut off or not the one of the index.
        """
        if self._process != os.getpid():  # forked: the parent's files share their position with this process
            self._forget()
        with self._lock:
            return self._read(place, start, size)

    def members(self, place: int, row: int) -> dict[str, Member]:
        """The members of sample `row` of tar number `place`, by the name of their field.

        Raises:
            ValueError: as `read`; also members that are no ordinary files, or of several samples.
        """
        shard, path = self.shards[place], self.paths[place]
        start, end = shard.offsets[row], shard.offsets[row + 1]
        if end - start > MOST_BYTES:
            raise ValueError(f"{path} has a sample of {end - start:,} bytes, but at most {MOST_BYTES:,} are expected.")
        found: dict[str, Member] = {}
        keys: set[str] = set()
        try:
            while start < end:
                header = tarfile.TarInfo.frombuf(self.read(place, start, BLOCK), "utf-8", "surrogateescape")
                key, _, name = header.name.partition(".")
                keys.add(key)
                ordinary = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                if not ordinary or not 0 <= header.size <= end - start - BLOCK:
                    raise ValueError(f"its member {header.name[:60]!r} is no ordinary file of {header.size} bytes")
                if name in found or not name:
                    raise ValueError(f"its member {header.name[:60]!r} comes twice or has no ending")
                found[name] = Member(start + BLOCK, header.size)
                start += BLOCK + -(-header.size // BLOCK) * BLOCK
        except _Unreadable:
            raise
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove that folder and prepare it again.") from None
        if len(keys) != 1 or start != end:
            raise ValueError(f"{path} is not the tar that its folder has in its index; prepare that folder again.")
        return found

    def _read(self, place: int, start: int, size: int) -> bytes:
        file = self._open(place)
        try:
            data = request(self.paths[place], lambda: _range(file, start, size))
        except StorageError:
            raise
        except OSError as error:
            raise _Unreadable(
                f"{self.paths[place]} is damaged ({error}); remove that folder and prepare it again."
            ) from None
        if len(data) != size:
            raise _Unreadable(f"{self.paths[place]} ends within a sample; it is cut off, so copy or prepare it again.")
        return data

    def _open(self, place: int) -> Any:
        """The tar's file, the least recently used one closed when there are too many."""
        if place in self._files:
            self._files.move_to_end(place)
            return self._files[place]
        path, shard = self.paths[place], self.shards[place]
        try:
            path = location(path)  # made in this process: connections of a store do not survive a fork
            size = request(path, path.stat).st_size
            file = opened_for_ranges(path)
        except StorageError:
            raise
        except OSError as error:
            raise _Unreadable(
                f"{path} cannot be read ({error.strerror or error}); copy the whole folder again, or prepare it again."
            ) from None
        if size != shard.bytes:
            file.close()
            raise _Unreadable(
                f"{path} has {size} bytes, but {shard.bytes} are expected; it is cut off or another file, so copy or "
                "prepare it again."
            )
        self._files[place] = file
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file


def _range(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    return bytes(file.read(size))


class _Unreadable(ValueError):
    """The file as a whole, said in a sentence already."""
