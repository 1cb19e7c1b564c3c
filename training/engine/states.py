"""A run's folder: states, from which a resumed run goes on exactly, and errors of the disk in one sentence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sounding.utils.files import is_full, replacing

log = logging.getLogger("training")
NAME = re.compile(r"step-(\d{8,})\.state")


class States:
    """The files `step-00001000.state` of one folder.

    Args:
        folder: made when the first state is written.
        keep: how many to keep, the oldest go first.
    """

    def __init__(self, folder: Path, keep: int = 3):
        self.folder, self.keep = folder, max(1, keep)

    def files(self) -> list[Path]:
        """States from oldest to newest."""
        files = [file for file in self.folder.glob("step-*.state") if NAME.fullmatch(file.name)]
        return sorted(files, key=self.step)

    @staticmethod
    def step(file: Path) -> int:
        """Steps that were done when a state was written."""
        found = NAME.fullmatch(file.name)
        return int(found[1]) if found else 0

    def save(self, step: int, state: dict[str, Any]) -> Path | None:
        """Write the state after `step` steps in one go: a crash at any moment leaves the earlier ones whole.

        Returns:
            The file, or None where the disk is full: the run can go on, and the earlier states are there.
        """
        file = self.folder / f"step-{step:08d}.state"
        try:
            with replacing(file) as temporary, temporary.open("wb") as opened:
                torch.save(state | {"step": step}, opened)  # given a path, torch hides what went wrong
        except (OSError, RuntimeError) as error:
            if not is_full(error):
                raise
            log.error("The disk is full: no state of step %d was kept; free some space. %s", step, self.describe_last())
            return None
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return file

    def describe_last(self) -> str:
        """Where the newest state is, for messages."""
        files = self.files()
        return f"The last good state is {files[-1]}." if files else "There is no earlier state."

    def latest(self) -> dict[str, Any] | None:
        """The newest state that can be read, on the CPU; None without any.

        Raises:
            ValueError: there are states, but none is readable.
        """
        files = self.files()
        for file in reversed(files):
            try:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return state
            except Exception as error:  # torch raises many kinds for a damaged file
                log.warning("%s is damaged (%s); taking the one before it.", file, type(error).__name__)
        if files:
            raise ValueError(f"No state in {self.folder} is readable; remove the folder to begin anew.")
        return None


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk while a run works in `folder` into an OSError of one sentence that says what to do."""
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
