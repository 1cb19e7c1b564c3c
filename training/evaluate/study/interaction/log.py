"""Trials of an interaction study from the click node's log.

`nodes/click/study_log.py` describes the log. What is damaged is left out and named; it never ends the reading.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sounding.utils.messages import printable

VERSION = 1
MAX_FILE = 256 * 1024 * 1024  # bytes
MAX_LINE = 64 * 1024
MAX_TIME = 1e12  # seconds, far beyond any clock; integers of a log may be too large for a float
Event = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One participant's work on one task under one condition; times in minutes from its start.

    Attributes:
        received: when the server noted its start, in seconds since 1970.
        minutes: until the participant said to be done.
        attempts: runs that were to make a sound which no earlier run of the trial had made, stopped and failed ones
            included.
        unmade: attempts among them that were stopped or failed.
        satisfaction: 1 to 5.
        reached: whether the participant has the sound; otherwise the task was given up.
        waiting: how long any run waited or ran.
        first_sound: when the first run had made something, NaN where none did.
        clicks: points and boxes that were set. `corrections`: those that were moved, removed or undone.
        plays: sounds played in the node.
    """

    study: str
    participant: str
    task: str
    condition: str
    image: str
    received: float
    minutes: float
    attempts: int
    unmade: int
    satisfaction: int
    reached: bool
    waiting: float
    first_sound: float
    clicks: int
    corrections: int
    plays: int

    @property
    def hands_on(self) -> float:
        """Minutes in which no run waited or ran."""
        return self.minutes - self.waiting


def read_trials(paths: Sequence[Path]) -> tuple[list[Trial], list[str]]:
    """Rated trials of log files, the earliest first, and a sentence about each thing that was left out.

    A trial that is in several files counts once. So does a task that a participant did twice under one condition: the
    first time counts.

    Raises:
        ValueError: a file that is too large, or no rated trial in any.
    """
    left_out: list[str] = []
    events: dict[str, dict[int, Event]] = {}
    for path in paths:
        for event in _events(path, left_out):
            events.setdefault(event["trial"], {}).setdefault(event["seq"], event)
    trials = []
    for name, by_number in events.items():
        try:
            trials.append(_trial([by_number[number] for number in sorted(by_number)]))
        except (KeyError, TypeError, ValueError) as error:
            left_out.append(f"Trial {printable(name[:8])}{_whose(by_number)} is left out: {_why(error)}.")
    trials.sort(key=lambda each: each.received)
    kept: dict[tuple[str, ...], Trial] = {}
    for trial in trials:
        key = (trial.study, trial.participant, trial.task, trial.condition)
        if key in kept:
            left_out.append(f"{trial.participant} did {trial.task} by {trial.condition} again; the first time counts.")
        kept.setdefault(key, trial)
    if not kept:
        raise ValueError(f"No rated trial is in {', '.join(map(str, paths))}; {' '.join(left_out[:3])}")
    return list(kept.values()), left_out


def _events(path: Path, left_out: list[str]) -> Iterator[Event]:
    """The events of a file that have a trial, a number and a time."""
    if (size := path.stat().st_size) > MAX_FILE:
        raise ValueError(f"{path} has {size} bytes, but at most {MAX_FILE} are expected of a log.")
    damaged = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                event: Any = json.loads(line) if len(line) <= MAX_LINE else None
            except (ValueError, RecursionError):
                event = None
            if _is_event(event):
                yield event
            elif line.strip():
                damaged.append(str(number))
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        left_out.append(f"{path.name} has lines that are no events: {', '.join(damaged[:5])}{more}.")


def _is_event(event: Any) -> bool:
    fine = isinstance(event, dict) and event.get("version") == VERSION and isinstance(event.get("trial"), str)
    return fine and type(event.get("seq")) is int and _is_time(event.get("at")) and isinstance(event.get("event"), str)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < MAX_TIME


def _trial(events: list[Event]) -> Trial:
    """The trial of all its events, in their order.

    Raises:
        ValueError: it was not rated, or events are missing.
    """
    if [event["seq"] for event in events] != list(range(len(events))):
        raise ValueError("events are missing")
    start, done, rated = _only(events, "start"), _only(events, "done"), _only(events, "rated")
    end = float(done["at"])
    before = [event for event in events if event["at"] <= end]
    results = {event["run"]: event for event in _of(before, "result")}
    queued = [event for event in _of(before, "queue") if _status(results, event) != "refused"]
    attempts = [event for event in queued if event["fresh"] is True]
    made = [float(event["at"]) for event in results.values() if event["status"] == "made"]
    acts = [event["act"] for event in _of(before, "edit")]
    satisfaction, received = rated["satisfaction"], start["received"]
    if type(satisfaction) is not int or not 1 <= satisfaction <= 5 or not _is_time(received):
        raise ValueError("its rating or its time is none")
    spans = [(float(event["at"]), float(results.get(event["run"], done)["at"])) for event in queued]
    return Trial(
        study=printable(start["study"], 80),
        participant=printable(start["participant"], 80),
        task=printable(start["task"], 80),
        condition=printable(start["condition"], 80),
        image=printable(start["image"], 80),
        received=float(received),
        minutes=end / 60,
        attempts=len(attempts),
        unmade=sum(_status(results, event) in ("stopped", "failed") for event in attempts),
        satisfaction=satisfaction,
        reached=done["reached"] is True,
        waiting=_covered(spans) / 60,
        first_sound=min(made, default=math.nan) / 60,
        clicks=sum(act in ("point_on", "point_outside", "box") for act in acts),
        corrections=sum(act in ("move", "undo", "remove_point", "remove_box", "remove_points") for act in acts),
        plays=len(_of(before, "play")),
    )


def _of(events: Iterable[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def _only(events: Iterable[Event], kind: str) -> Event:
    found = _of(events, kind)
    if not found:
        raise ValueError({"start": "its start is missing", "done": "it was not finished"}.get(kind, "it was not rated"))
    return found[0]


def _status(results: dict[Any, Event], queued: Event) -> str:
    return str(results[queued["run"]]["status"]) if queued["run"] in results else ""


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans of time."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _whose(events: dict[int, Event]) -> str:
    start = events.get(0, {})
    named = [start.get(key) for key in ("participant", "task", "condition")]
    return f" ({printable(', '.join(map(str, named)), 120)})" if all(named) else ""


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else printable(str(error), 120)
