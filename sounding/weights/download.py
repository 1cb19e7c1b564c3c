"""Downloads of published weights: resumed by range, checked, never half a file under the final name.

A publisher's SHA-256 and size are checked where they are known. Otherwise the checksum that the hub sends with a file
is (SHA-256 of large files, Git's hash of small ones); without one, the file must at least be whole and of its kind.

Written by hand, although huggingface_hub is installed: its newer releases delete the part of a file when a run ends
early, it compares lengths rather than checksums after a transfer, and Meta's SAM files are not on the hub.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import zipfile
from pathlib import Path

from ..utils.files import hash_file, is_full
from .catalogue import File, mirrored
from .transfer import BROKEN, FetchError, OnBytes, go_on, said

TRIES = 5
MOST_WEIGHTS, MOST_TEXT = 16 * 2**30, 64 * 2**20  # bytes of files whose size nobody states
TEXTS = (".json", ".txt", ".csv")


def download(file: File, folder: Path, on_bytes: OnBytes | None = None) -> Path:
    """Bring one file into `folder`; a part left by an earlier try is continued, a whole file is left alone.

    Args:
        file: what to fetch.
        folder: made if it is not there.
        on_bytes: progress, `on_bytes(have, total)`; may raise to cancel, what is there stays for the next try.

    Raises:
        FetchError: no connection after several tries, no such file, not the file that is expected, a full disk.
    """
    choices = [(file.url, file.path), *([file.instead] if file.instead else [])]
    for _, path in choices:
        target = folder / path
        if target.is_file() and trouble(target, file.size, file.checksum) is None:
            return target
    for position, (url, path) in enumerate(choices):
        target, address = folder / path, mirrored(url)
        try:
            return _try_all(address, target, file, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code == 404 and position + 1 < len(choices):
                continue
            raise FetchError(
                f"{address} answers {error.code} ({said(error.reason)}); check the address, or set a mirror "
                "(HF_ENDPOINT)."
            ) from None
        except OSError as error:
            if is_full(error):
                raise FetchError(
                    f"The disk of {target.parent} is full; make room and say the same again, it goes on where it "
                    "stopped, or name another folder with --to."
                ) from None
            raise FetchError(f"{target} cannot be written ({error.strerror or error}); name another folder.") from None
    raise AssertionError("every choice returns or raises")


def _try_all(url: str, target: Path, file: File, on_bytes: OnBytes | None) -> Path:
    """Several tries, each going on where the last stopped."""
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    most = file.size or (MOST_TEXT if target.suffix in TEXTS else MOST_WEIGHTS)
    failure: Exception | None = None
    for _ in range(TRIES):
        resumed = part.exists()
        try:
            stated = go_on(url, part, most, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            failure = error
        except BROKEN as error:
            failure = error
        else:
            wrong = trouble(part, file.size, file.checksum or stated, target.suffix)
            if wrong is None:
                part.replace(target)
                return target
            part.unlink()
            if not resumed:
                raise FetchError(
                    f"{url} {wrong}; it was damaged on the way or replaced, so it was deleted: try again, or another "
                    "mirror."
                )
            failure = ConnectionError("what was there before did not fit")  # from the beginning
    raise FetchError(
        f"{url} broke off {TRIES} times ({said(getattr(failure, 'reason', failure))}); check the connection and say "
        "the same again, it goes on where it stopped."
    )


def trouble(path: Path, size: int = 0, checksum: str = "", suffix: str | None = None) -> str | None:
    """What is wrong with a downloaded file, or None.

    Args:
        size: in bytes, if it is known.
        checksum: SHA-256, or the 40 digits of Git's hash; without it the file must be whole and of its kind.
        suffix: of its name, by which its kind is told.
    """
    have = path.stat().st_size
    if size and have != size:
        return f"has {have} bytes, but {size} are expected"
    if checksum:
        found = _digest(path, git=len(checksum) == 40)
        if found != checksum:
            return f"has {'SHA-256' if len(checksum) == 64 else 'hash'} {found}, but {checksum} is expected"
        return None
    return _ill_formed(path, (suffix or path.suffix).lower(), have)


def _ill_formed(path: Path, suffix: str, size: int) -> str | None:
    """What shows that a file is not a whole one of its kind."""
    with path.open("rb") as file:
        start = file.read(512)
        if not start:
            return "is empty"
        if start.lstrip()[:1] == b"<" or start.startswith(b"version https://git-lfs"):
            return "is a page or a pointer instead of the file itself"
        if suffix in TEXTS:
            try:
                text = (start + file.read(MOST_TEXT)).decode()
                if suffix == ".json":
                    json.loads(text)
            except (ValueError, RecursionError):
                return "is not whole, or not the text that is expected"
        elif suffix == ".safetensors":
            length = int.from_bytes(start[:8], "little")
            try:
                file.seek(8)
                header = json.loads(file.read(min(length, MOST_TEXT)))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
                return "is not a .safetensors file"
            if not ends or not all(isinstance(end, int) for end in ends) or size != 8 + length + max(ends):
                return "is not whole"
        elif suffix in (".bin", ".pt", ".pth", ".ckpt"):
            zipped = start.startswith(b"PK\x03\x04")
            if (zipped and not zipfile.is_zipfile(path)) or not (zipped or start.startswith(b"\x80")):
                return "is not whole, or not a file of PyTorch's"
    return None


def _digest(path: Path, *, git: bool = False) -> str:
    """SHA-256 of a file, or the hash that Git gives it."""
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if git else None
    return hash_file(path, blob).hexdigest()
