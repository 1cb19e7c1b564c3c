"""Atomic writing, so that a crash never leaves half a file, and full disks told from other errors."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

# Names of half-written files and folders: machine, process id, a token of the process (ids are reused), a random part.
OURS = re.compile(r"\.sounding-([0-9a-f]{8})-(\d{1,10})-([0-9a-f]{8})-[0-9a-f]{8}(\.\w{1,20})?")
TOKEN = secrets.token_hex(4)  # of this process
NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)


class FullDiskError(OSError):
    """There is no room for a file; the message says what to do."""

    def __init__(self, code: int, message: str):
        super().__init__(code, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def hash_file(path: str | os.PathLike[str], into: hashlib._Hash | None = None) -> hashlib._Hash:
    """A file's bytes added to a hash, a piece at a time; without one to a new SHA-256."""
    total = hashlib.sha256() if into is None else into
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            total.update(piece)
    return total


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path on the disk of `path`; it takes `path`'s place when the block ends without an error.

    A link's target is replaced, and keeps its permissions; a new file has those of any new file. Leftovers of killed
    writers in the folder are removed.

    Raises:
        FullDiskError: no room.
    """
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent)
        # In a folder of its own, since libraries put their own temporary files beside what they write.
        folder = target.parent / hidden_name()
        folder.mkdir()
        try:
            temporary = folder / f"new{target.suffix if len(target.suffix.encode()) < 20 else ''}"
            # The system applies the umask to a new file; reading the umask would mean changing it for a moment.
            os.close(os.open(temporary, NEW, 0o666))
            mode = temporary.stat().st_mode & 0o777
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            with suppress(OSError):  # none there yet
                mode = target.stat().st_mode & 0o777
            temporary.chmod(mode)
            temporary.replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        if is_full(error) and not isinstance(error, FullDiskError):
            raise FullDiskError(
                errno.ENOSPC, f"{target} cannot be written, the disk is full; make room, or name another folder."
            ) from error
        raise


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` in one step, making its folder.

    Raises:
        FullDiskError: no room.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def hidden_name() -> str:
    """A new name for a file being written, with or without an ending; `remove_abandoned` recognises it."""
    return f".sounding-{_machine()}-{os.getpid()}-{TOKEN}-{secrets.token_hex(4)}"


def remove_abandoned(folder: Path) -> None:
    """Delete half-written files of processes that no longer run; those of running ones stay."""
    with suppress(OSError):  # a folder that cannot be listed has no room for more anyway
        for entry in os.scandir(folder):
            found = OURS.fullmatch(entry.name)
            if found and found[1] == _machine() and not _is_running(int(found[2]), found[3]):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


@lru_cache(maxsize=1)
def _machine() -> str:
    """A hash of the scope of process ids: the machine's name and, on Linux, its pid namespace."""
    with suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {os.stat('/proc/self/ns/pid').st_ino}".encode()).hexdigest()[:8]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_running(process: int, token: str) -> bool:
    if process == os.getpid():
        return token == TOKEN  # of another thread, or of an earlier process of the same id
    if os.name == "nt":  # signal 0 would end the process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def is_full(error: BaseException) -> bool:
    """Whether a full disk or quota caused an error, also where a library raised its own while handling that."""
    chain: list[BaseException] = [error]
    while (following := chain[-1].__cause__ or chain[-1].__context__) is not None and following not in chain:
        chain.append(following)
    # safetensors raises an error of its own, with the number in its text.
    said = any("(os error 28)" in str(link) or "(os error 122)" in str(link) for link in chain)
    return said or any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain)
