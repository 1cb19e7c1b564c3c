"""Trouble with the disk in one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sounding.utils.files import is_full

from .states import States


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses while a run works in `folder` becomes an OSError that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = is_full(error) or "os error 28" in str(error) or "os error 122" in str(error)
        if isinstance(error, OSError) and error.errno is None and not full:
            raise  # a sentence already
        what = getattr(error, "filename", None) or folder
        why = getattr(error, "strerror", None) or ("No space left on device" if full else " ".join(str(error).split()))
        kept = States(folder / "states").files()
        lasting = f" (states up to {kept[-1].name} are kept)" if kept else ""
        mend = "free some space" if full else "check that it is there and may be written"
        raise OSError(
            f"{what} cannot be read or written: {why}; {mend}, and the same command goes on{lasting}."
        ) from None


def check_writable(folder: Path) -> None:
    """Whether files can be written in `folder`, which should be known before hours of work; nothing stays of it.

    Raises:
        OSError: in one sentence.
    """
    new = not folder.exists()
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); free some space, or give another place."
        ) from None
    finally:
        with suppress(OSError):  # the folder may not be there
            probe.unlink(missing_ok=True)
            if new:
                folder.rmdir()
