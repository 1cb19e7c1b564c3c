"""The log of a study of how people work with the click node: its events, checked, and the file that they are added to.

Independent of the host. The file has one JSON object per line, and is never changed but by adding lines:

    {"version": 1, "received": 1767225600.1, "trial": "<32 hex digits>", "seq": 0, "at": 0.0, "event": "start",
     "study": "yard", "participant": "P01", "task": "dog", "condition": "mask", "sentence": "Make the dog bark.",
     "image": "<SHA-256 of the image file>"}

`received` is the server's time in seconds since 1970, `at` the page's in seconds since the trial's start, and `seq`
counts a trial's events, so that one that was sent twice or is missing can be told. No pixels, points, file names,
prompts or names that somebody typed are in it. `training/evaluate/study/interaction` reads it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = 1
MAX_EVENTS = 64  # per request
MAX_LOG = 16 * 1024 * 1024  # bytes
MAX_SECONDS = 86_400.0  # of a trial
MAX_SENTENCE = 300

POINTS = ("point_on", "point_outside", "box", "move", "remove_point", "remove_box", "remove_points", "stretch")
OBJECTS = ("add_object", "remove_object", "rename", "unname", "colour", "switch", "gain")
ACTS = frozenset((*POINTS, *OBJECTS, "clear", "undo", "redo"))  # as in web/click/editor.js
Check = Callable[[Any], bool]


class StudyError(ValueError):
    """An event that does not belong into a log."""


class LogFull(Exception):
    """The log has reached its greatest size."""


def _whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _is_key(value: Any) -> bool:
    """Whether it is a short name as a study's plan has them."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", value) is not None


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_SENTENCE and value.isprintable()


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= MAX_SECONDS


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_reference(value: Any) -> bool:
    """Whether it is {name, subfolder, type} of an image file; the file itself is looked for later."""
    fine = isinstance(value, dict) and value.keys() <= {"name", "subfolder", "type"} and "name" in value
    return fine and all(isinstance(each, str) and len(each) <= 1024 for each in value.values())


_OBJECT, _RUN = _whole(-1, 31), _whole(1, 100_000)  # -1: no object, or the mix
FIELDS: dict[str, dict[str, Check]] = {
    "start": {
        "study": _is_key,
        "participant": _is_key,
        "task": _is_key,
        "condition": _is_key,
        "sentence": _is_sentence,
        "picture": _is_reference,
    },
    "edit": {"act": _one_of(*ACTS), "object": _OBJECT},
    "mask": {"object": _OBJECT, "waited": _is_seconds},
    "queue": {"run": _RUN, "by": _one_of("node", "page"), "fresh": _is_flag},
    "result": {"run": _RUN, "status": _one_of("made", "failed", "stopped", "refused")},
    "play": {"object": _OBJECT},
    "done": {"reached": _is_flag},
    "rated": {"satisfaction": _whole(1, 5)},
}
SHARED: dict[str, Check] = {"seq": _whole(0, 1_000_000), "at": _is_seconds}


def read_events(data: Any) -> tuple[str, list[dict[str, Any]]]:
    """A trial and its events from parsed JSON, `{"trial": 32 hex digits, "events": [...]}`.

    Raises:
        StudyError: another form; one sentence says what is wrong and where.
    """
    if not isinstance(data, dict) or data.keys() != {"trial", "events"}:
        raise StudyError("The request has not just the fields trial and events, which are expected; send both.")
    trial, events = data["trial"], data["events"]
    if not isinstance(trial, str) or not re.fullmatch(r"[0-9a-f]{32}", trial):
        raise StudyError("trial is not 32 hexadecimal digits, but these are expected; start the trial again.")
    if not isinstance(events, list) or not 0 < len(events) <= MAX_EVENTS:
        raise StudyError(f"events is not a list of 1 to {MAX_EVENTS} events, which is expected; send fewer at once.")
    for number, event in enumerate(events):
        _check(event, f"events[{number}]")
    return trial, events


def _check(event: Any, what: str) -> None:
    kind = event.get("event") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise StudyError(f"{what} is no event, but one of {', '.join(FIELDS)} is expected; reload the page.")
    fields = SHARED | FIELDS[kind]
    if event.keys() != fields.keys() | {"event"}:
        raise StudyError(f"{what} has other fields than {', '.join(fields)}, which are expected; reload the page.")
    for name, fits in fields.items():
        if not fits(event[name]):
            raise StudyError(f"{what}.{name} is not as a {kind} event has it; reload the page, or check the plan.")


def as_lines(trial: str, events: list[dict[str, Any]], received: float) -> bytes:
    """Checked events as lines of the log."""
    head = {"version": VERSION, "received": round(received, 3), "trial": trial}
    return "".join(json.dumps(head | event, allow_nan=False) + "\n" for event in events).encode()


def append(path: Path, lines: bytes, most: int = MAX_LOG) -> int:
    """Add whole lines to the log, on the disk when this returns; its size in bytes.

    A line that was cut off, as by a full disk, is ended first, so that it spoils no other.

    Raises:
        LogFull: the log would have more than `most` bytes.
        OSError: it cannot be written, or is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                lines = b"\n" + lines
        if size + len(lines) > most:
            raise LogFull
        file.write(lines)
        os.fsync(file.fileno())
    return size + len(lines)
