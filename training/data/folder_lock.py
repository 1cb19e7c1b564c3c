"""One process at a time in a folder. The lock is the operating system's, so that it goes with a process that dies."""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sounding.utils.messages import printable

from .storage import is_file, read_bytes, remove, write_atomic

if TYPE_CHECKING:
    from .storage import Location

LOCK, HOLDER = ".preparing.lock", ".preparing.txt"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
log = logging.getLogger("training")


@contextmanager
def only_one(folder: Location) -> Iterator[None]:
    """Make `folder`, and keep every other process that calls this out of it until the block ends.

    Works on network file systems that have locks (NFS 4 and most of NFS 3); on one that has none a warning is logged.
    Object storage has none either: there a note says who is at work, and where one is found, a warning is logged.

    Raises:
        ValueError: another one is at work there; says which.
        OSError: the folder cannot be made or written.
    """
    if not isinstance(folder, Path):
        with _noted(folder / HOLDER):
            yield
        return
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:  # a kind of OSError
        raise ValueError(
            f"{folder} is being prepared by {_holder(folder)}; wait for it, stop it, or give another --out."
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise OSError(
                f"{folder} cannot be written ({error.strerror or error}); give another --out, or mend that folder."
            ) from None
        log.warning("%s is on a file system without locks; let only one command work in it.", folder)
        yield
        return
    try:
        _write_holder(folder)
        yield
    finally:
        # While it is still locked: who opened the same file just before looks again whether it is still there.
        (folder / HOLDER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _write_holder(folder: Path) -> None:
    (folder / HOLDER).write_text(_me(), encoding="utf-8")


def _me() -> str:
    return f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _holder(folder: Path) -> str:
    try:
        with (folder / HOLDER).open(encoding="utf-8", errors="replace") as file:
            text = file.read(200)
    except OSError:
        text = ""
    return printable(text) or "another process"


@contextmanager
def _noted(note: Location) -> Iterator[None]:
    """Leave a note for as long as the block takes; that also shows at once whether the store can be written."""
    if is_file(note):
        said = printable(read_bytes(note)[:200].decode("utf-8", "replace"))
        log.warning("%s was left by %s; if that still runs, stop one of the two.", note, said)
    write_atomic(note, _me().encode())
    try:
        yield
    finally:
        remove([note])
