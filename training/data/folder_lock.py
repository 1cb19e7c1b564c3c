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

from filelock import FileLock, Timeout

from sounding.utils.messages import printable

LOCK, HOLDER = ".preparing.lock", ".preparing.txt"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
log = logging.getLogger("training")


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Make `folder`, and keep every other process that calls this out of it until the block ends.

    Works on network file systems that have locks (NFS 4 and most of NFS 3); on one that has none a warning is logged.

    Raises:
        ValueError: another one is at work there; says which.
        OSError: the folder cannot be made or written.
    """
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
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    (folder / HOLDER).write_text(f"process {os.getpid()} on {platform.node()} since {since}", encoding="utf-8")


def _holder(folder: Path) -> str:
    try:
        with (folder / HOLDER).open(encoding="utf-8", errors="replace") as file:
            text = file.read(200)
    except OSError:
        text = ""
    return printable(text) or "another process"
