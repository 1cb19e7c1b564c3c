"""Each kind of failure is detected."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import sandbox
from .sandbox import Case, try_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes, and how they are watched")


def raising(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def sleep_on() -> None:
    while True:
        try:
            time.sleep(1)
        except Exception:
            continue


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "another error": (raising(KeyError("x")), "KeyError"),
    "several lines": (raising(ValueError("a\nb")), "instead of one sentence"),
    "escape sequences": (raising(ValueError("\x1b[31m")), "instead of one sentence"),
    "no end of letters": (raising(ValueError("x" * 5000)), "of 5000 letters"),
    "nothing": (raising(ValueError()), "instead of one sentence"),
    "a hang": (sleep_on, "takes too long"),
    "memory": (lambda: bytearray(4 * 2**30), "MemoryError"),
    "a file outside": (lambda: Path("../outside").write_text("x"), "for writing"),
    "a folder outside": (lambda: os.mkdir("../folder"), "os.mkdir"),
    "a network": (lambda: socket.create_connection(("192.0.2.1", 9), timeout=0.1), "connects to|asks for"),
    "a program": (lambda: subprocess.run(["true"], check=True), "subprocess.Popen"),
    "death": (lambda: os._exit(3), "without a word"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_bad_is_seen(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    run, words = BAD[kind]
    with pytest.raises(AssertionError, match=words):
        try_inputs("bad", 1, folder, lambda draw, folder: run)


def test_what_is_good_passes(folder: Path) -> None:
    def make(draw: random.Random, folder: Path) -> Case:
        if draw.random() < 0.5:
            return raising(ValueError("x is 5, but 6 is expected; give that."))
        return lambda: (folder / "inside").write_text("x")

    try_inputs("good", 20, folder, make)
