"""Hostile inputs are tried in a child process, and its behaviour is checked.

An input passes if it gives an answer, or one of the declared errors with one sentence. It fails with any other error, a
message of several lines, more than `SECONDS` or `BYTES`, a file written outside the folder, a connection elsewhere, a
program started or a class unpickled.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SECONDS = 10
BYTES = 2 * 2**30
STUCK = 3 * SECONDS  # without a word: not even a signal is heard
MOST_LETTERS = 1200
Case = Callable[[], object]
Make = Callable[[random.Random, Path], Case]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
EXECUTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class"}


class Hang(BaseException):
    """One input took too long."""


def try_inputs(
    area: str, rounds: int, folder: Path, make: Make, errors: tuple[type[Exception], ...] = (ValueError,)
) -> None:
    """Try `rounds` inputs and fail with all that went wrong.

    Args:
        area: seeds the inputs together with their number, so that each can be made again.
        rounds: how many.
        folder: where files may be written.
        make: draws an input, as a function that tries it.
        errors: that may be raised.
    """
    report = folder.parent / f"{area}.report"
    report.touch()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            _try_all(area, rounds, folder, make, errors, report)
        except BaseException as error:
            _say(report, f"trying them failed itself: {error!r}")
        finally:
            os._exit(0)
    said, since = -1, time.monotonic()
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        size = report.stat().st_size
        if size != said:
            said, since = size, time.monotonic()
        if time.monotonic() - since > STUCK:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            _say(report, f"nothing was heard for {STUCK} seconds")
            break
        time.sleep(0.02)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    bad = [line for line in lines if isinstance(line, str)]
    tried = [line for line in lines if isinstance(line, int)]
    if len(tried) < rounds and not bad:
        bad.append(f"the process ended at input {len(tried)}, without a word")
    assert not bad, "\n".join(f"{area}: {line}" for line in bad[:20])


def _say(report: Path, line: str | int) -> None:
    with report.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _try_all(
    area: str, rounds: int, folder: Path, make: Make, errors: tuple[type[Exception], ...], report: Path
) -> None:
    torch.set_num_threads(1)  # its threads did not come along
    found: list[str] = []
    sys.addaudithook(_watcher(folder, report, found))
    signal.signal(signal.SIGALRM, _out_of_time)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + BYTES + 2**29, resource.RLIM_INFINITY))
    os.chdir(folder)
    for number in range(rounds):
        draw = random.Random(f"{area} {number}")
        signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
        started = time.process_time()
        wrong: str | None = None
        try:
            make(draw, folder)()
        except errors as error:
            wrong = _wrong_words(error)
        except Hang:
            wrong = "takes too long"
        except BaseException as error:
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else ""
            wrong = f"{type(error).__name__}: {str(error)[:200]!r} ({where})"
        signal.setitimer(signal.ITIMER_REAL, 0)
        if time.process_time() - started > SECONDS:
            wrong = f"took {time.process_time() - started:.0f} s"
        for what in (wrong, *found):
            if what is not None:
                _say(report, f"input {number}: {what}")
        found.clear()
        _say(report, number)


def _out_of_time(signum: int, frame: Any) -> None:
    raise Hang


def _wrong_words(error: Exception) -> str | None:
    said = str(error)
    if not said.strip() or len(said) > MOST_LETTERS or not said.isprintable():
        return f"says {said[:300]!r} of {len(said)} letters, instead of one sentence"
    return None


def _watcher(folder: Path, report: Path, found: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    inside = (str(folder.resolve()), str(report.resolve()), "/proc/", "/dev/null", "/dev/shm/")

    def outside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        full = os.path.join(os.getcwd(), os.fsdecode(path))
        return "__pycache__" not in full and not os.path.realpath(full).startswith(inside)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & WRITING and outside(arguments[0]):
            found.append(f"opens {arguments[0]!r} for writing")
        elif event in CHANGING and any(outside(each) for each in arguments[:2]):
            found.append(f"{event} {arguments[:2]!r}")
        elif event in EXECUTING:
            found.append(f"{event} {str(arguments)[:200]}")
        elif event == "socket.connect" and not str(arguments[1]).startswith(("('127.0.0.1'", "('::1'", "/", "b'")):
            found.append(f"connects to {arguments[1]!r}")
        elif event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost", b"127.0.0.1", None):
            found.append(f"asks for the address of {arguments[0]!r}")

    return watch
