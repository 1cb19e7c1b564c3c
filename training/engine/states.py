"""A run's states: everything that a resumed run needs to go on exactly, the last few of them kept."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

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
            log.error("The disk is full: no state of step %d was kept; free some space. %s", step, self.last_word())
            return None
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return file

    def last_word(self) -> str:
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
