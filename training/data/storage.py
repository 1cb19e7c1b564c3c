"""Files by a path, or by an address in object storage such as s3://bucket/videos: found, read, and written whole.

A path stays a `pathlib.Path`. An address becomes a `upath.UPath`, which has the same methods and reaches whatever
fsspec has a package for; neither is imported for paths. Here is what object storage does differently from a disk:

- An object is there whole once its upload has ended, so nothing is renamed (`replacing`).
- A listing has size and version of every object, asking for each alone would take a request (`files_below`).
- Requests take long and can fail: several are made at the same time (`contents`), each more than once if need be
  (`retried`).
- There are no locks (`folder_lock.only_one`).

Credentials are fsspec's own matter, in the environment or its configuration; an address that holds some is refused.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from sounding.utils import files
from sounding.utils.libraries import LibraryError
from sounding.utils.messages import printable

if TYPE_CHECKING:
    from upath import UPath

    Location = Path | UPath

T = TypeVar("T")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")  # of two characters or more: C: is a drive
CREDENTIALS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.:-]+)://"
    r"(?:[^\s/'\"]*@|[^\s'\"]*[?&#;][\w.-]*(?:sig|token|key|credential|secret|pass|pwd|auth)[\w.-]*=)",
    re.IGNORECASE,
)
WAITS = (0.5, 2.0)  # seconds before the second and the third try
BLOCK = 2**20  # bytes that are fetched at once
BLOCKS = 16  # of one open video that are kept
AT_ONCE = 16  # requests
WINDOW = 64  # objects that are fetched ahead
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")


class StorageError(OSError):
    """Object storage that cannot be reached, or that refuses; the message names the address."""


def is_address(text: str) -> bool:
    """Whether a text is an address of object storage and no path."""
    return ADDRESS.match(text) is not None


def check_address(text: str) -> None:
    """Refuse addresses with credentials, anywhere in a text: they would end up in manifests and messages.

    Raises:
        ValueError: a user name, a password or a signature is in one; the message leaves them out.
    """
    found = CREDENTIALS.search(text)
    if found:
        raise ValueError(
            f"An address {found[1]}://... with a user name, a password or a signature came, but credentials are "
            "expected in the environment or in fsspec's configuration alone; leave them out of the address."
        )


def location(given: str | os.PathLike[str] | UPath) -> Location:
    """The path or address that a text means.

    Raises:
        ValueError: an address that holds credentials, or of an unknown kind.
        LibraryError: the package for that kind of address is not installed.
        StorageError: an address that cannot be reached.
    """
    text = str(given)
    if not is_address(text):
        return Path(text)
    check_address(text)
    kind, _, rest = text.partition("://")
    if "@" in rest.partition("/")[0]:  # after spaces or quotes, at which a search in longer texts ends
        check_address(f"{kind}://@")
    try:
        from upath import UPath

        # Other processes write there, too: what a listing had a moment ago may not be all.
        found = UPath(text, use_listings_cache=False)
        store = found.fs
    except ImportError as error:
        raise LibraryError(
            f"{text} is an address of object storage, whose package is not installed ({error}); install the extra "
            "storage (`uv run --extra train --extra refine --extra storage ...`), or the package that is named."
        ) from None
    except ValueError as error:
        raise ValueError(f"{text} is no address that fsspec knows ({printable(error, 200)}); give another.") from None
    except OSError as error:  # of stores that are connected to at once
        raise StorageError(f"{text} cannot be reached ({printable(error, 200)}); check the address.") from error
    return Path(found.path) if "file" in (store.protocol, *store.protocol) else found


@contextmanager
def reaching(where: Location) -> Iterator[None]:
    """A block that asks a store: every error of it becomes one of the system's errors, as those of a disk are.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: any other trouble of an address.
    """
    try:
        yield
    except Exception as error:
        if isinstance(where, Path) or isinstance(error, (FileNotFoundError, StorageError)):
            raise
        said = printable(CREDENTIALS.sub(r"\1://...", f"{type(error).__name__}: {error}"), 300)
        raise StorageError(
            f"{where} cannot be reached ({said}); check the address, the network, and the credentials in the "
            "environment, then run the same command again."
        ) from error


def retried(ask: Callable[[], T]) -> T:
    """The result of `ask`, which is called again some seconds after a `StorageError`; not where it is forbidden.

    Raises:
        StorageError: of the last try.
        Exception: any other of `ask`.
    """
    for wait in WAITS:
        try:
            return ask()
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            time.sleep(wait)
    return ask()


def request(where: Location, ask: Callable[[], T]) -> T:
    """The result of one request to a store or a disk, tried again as `retried` says.

    Raises:
        OSError: see `reaching`.
    """

    def once() -> T:
        with reaching(where):
            return ask()

    return retried(once)


def files_below(folder: Location, endings: Sequence[str]) -> dict[Location, list[Any] | None]:
    """All files below a folder with one of the endings, sorted; of objects with their size and version, as the listing
    has them.

    Raises:
        OSError: an address that cannot be reached.
    """
    if isinstance(folder, Path):
        return dict.fromkeys(sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings))
    try:
        found = request(folder, lambda: folder.fs.find(folder.path, detail=True))
    except FileNotFoundError:
        return {}
    return {
        location(folder.fs.unstrip_protocol(name)): [told.get("size"), _version(told)]
        for name, told in sorted(found.items())
        if PurePosixPath(name).suffix.lower() in endings
    }


def matching(pattern: str) -> list[Location]:
    """What fits a pattern such as s3://bucket/shards/*, sorted.

    Raises:
        OSError: an address that cannot be reached.
    """
    if not is_address(pattern):
        return [Path(name) for name in sorted(glob.glob(pattern))]
    where = location(pattern)
    assert not isinstance(where, Path)
    found = request(where, lambda: where.fs.glob(where.path))
    return [location(where.fs.unstrip_protocol(name)) for name in sorted(found)]


def _version(told: dict[str, Any]) -> str:
    return next((str(told[name]) for name in VERSIONS if told.get(name)), "")


def is_file(file: Location) -> bool:
    """Whether there is such a file or object.

    Raises:
        StorageError: an address that cannot be reached.
    """
    if isinstance(file, Path):
        return file.is_file()
    try:  # not by `UPath.is_file`, for which an object is missing where the network is
        return bool(request(file, lambda: file.fs.info(file.path))["type"] == "file")
    except FileNotFoundError:
        return False


def read_bytes(file: Location) -> bytes:
    """What a file holds.

    Raises:
        OSError: see `reaching`.
    """
    if isinstance(file, Path):
        return file.read_bytes()
    return bytes(request(file, lambda: file.fs.cat_file(file.path)))


def contents(found: Sequence[Location]) -> Iterator[tuple[Location, bytes | OSError]]:
    """The bytes of files in their order, or why a file on a disk, or one that is gone by now, has none.

    Raises:
        StorageError: an address that cannot be reached.
    """

    def read(file: Location) -> bytes | OSError:
        try:
            return read_bytes(file)
        except StorageError:
            raise
        except OSError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(found), WINDOW):
            some = found[start : start + WINDOW]
            on_disk = all(isinstance(file, Path) for file in some)
            yield from zip(some, (map if on_disk else pool.map)(read, some), strict=True)


class _Stream:
    """An object as the file that PyAV reads; trouble of the store is told from trouble of the video."""

    def __init__(self, file: UPath):
        self._file, self.name = file, str(file)
        with reaching(file):
            self._opened = file.fs.open(
                file.path, "rb", block_size=BLOCK, cache_type="blockcache", cache_options={"maxblocks": BLOCKS}
            )
        self.seek, self.tell, self.close = self._opened.seek, self._opened.tell, self._opened.close

    def read(self, size: int) -> bytes:
        with reaching(self._file):
            return bytes(self._opened.read(size))


@contextmanager
def opened(file: Location) -> Iterator[Any]:
    """What PyAV opens: a path as a text, or a file object that fetches blocks as they are asked for and keeps some.

    Raises:
        ValueError: a path of a folder, a pipe or a device, some of which would be waited for without end.
        OSError: of an address, see `reaching`; also when the object is read.
    """
    if isinstance(file, Path):
        if file.exists() and not file.is_file():
            raise ValueError(f"{file.name} is no ordinary file.")
        yield str(file)
        return
    stream = _Stream(file)
    try:
        yield stream
    finally:
        stream.close()


def opened_for_ranges(file: Location) -> Any:
    """A file object for reads here and there: exactly what is asked for from a disk, some more at once from a store."""
    if isinstance(file, Path):
        return file.open("rb", buffering=0)  # a buffer would read 8 KiB where 512 bytes are asked for
    return request(file, lambda: file.fs.open(file.path, "rb", block_size=BLOCK, cache_type="readahead"))


@contextmanager
def replacing(target: Location) -> Iterator[Path]:
    """`sounding.utils.files.replacing`, also for addresses: the temporary file is uploaded when the block ends.

    Raises:
        FullDiskError: no room.
        StorageError: an address that cannot be written.
    """
    if isinstance(target, Path):
        with files.replacing(target) as temporary:
            yield temporary
        return
    local = Path(tempfile.gettempdir())
    files.remove_abandoned(local)
    folder = local / files.hidden_name()
    folder.mkdir(mode=0o700)
    try:
        temporary = folder / f"new{target.suffix[:20]}"
        temporary.touch()
        yield temporary
        request(target, lambda: target.fs.put_file(str(temporary), target.path))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomic(target: Location, data: bytes) -> None:
    """Write `data` in one step.

    Raises:
        FullDiskError, StorageError: see `replacing`.
    """
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def remove(found: Sequence[Location]) -> None:
    """Delete files; those that are gone already are no error.

    Raises:
        OSError: one cannot be deleted.
    """

    def delete(file: Location) -> None:
        if isinstance(file, Path):
            file.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            request(file, lambda: file.fs.rm_file(file.path))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(delete, found))
