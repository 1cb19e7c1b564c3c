"""The log of a study: events are checked, lines are whole, and its size is bounded."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NODES = Path(__file__).parents[2] / "nodes"


@pytest.fixture(scope="module")
def study_log() -> Iterator[ModuleType]:
    """The module alone: its package wants the host."""
    package = ModuleType("logpack")
    package.__path__ = [str(NODES)]
    sys.modules["logpack"] = package
    yield importlib.import_module("logpack.click.study_log")
    for name in [name for name in sys.modules if name.split(".")[0] == "logpack"]:
        del sys.modules[name]


TRIAL = "0123456789abcdef" * 2
START = {
    "event": "start",
    "seq": 0,
    "at": 0,
    "study": "yard",
    "participant": "P01",
    "task": "dog",
    "condition": "mask",
    "sentence": "Make the dog bark: wau, öhm.",
    "picture": {"name": "farm.png", "subfolder": "", "type": "input"},
}
EVENTS: list[dict[str, Any]] = [
    START,
    {"event": "edit", "seq": 1, "at": 1.25, "act": "point_on", "object": 0},
    {"event": "mask", "seq": 2, "at": 1.5, "object": 0, "waited": 0.25},
    {"event": "queue", "seq": 3, "at": 2, "run": 1, "by": "node", "fresh": True},
    {"event": "result", "seq": 4, "at": 9.5, "run": 1, "status": "made"},
    {"event": "play", "seq": 5, "at": 9.75, "object": -1},
    {"event": "done", "seq": 6, "at": 12, "reached": True},
    {"event": "rated", "seq": 7, "at": 15, "satisfaction": 5},
]


def test_every_kind_of_event_is_kept_as_it_came(study_log: ModuleType, tmp_path: Path):
    trial, events = study_log.read_events({"trial": TRIAL, "events": EVENTS})
    assert {each["event"] for each in events} == set(study_log.FIELDS)
    path = tmp_path / "user" / "log.jsonl"
    size = study_log.append(path, study_log.as_lines(trial, events, 1000.0))
    assert size == path.stat().st_size
    head = {"version": 1, "received": 1000.0, "trial": TRIAL}
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [head | event for event in EVENTS]
    assert path.stat().st_mode & 0o077 == 0 or os.name == "nt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"event": "spy"}, "is no event"),
        ({"event": ["start"]}, "is no event"),
        ({"more": 1}, "other fields"),
        ({"at": -1}, r"\.at"),
        ({"at": float("nan")}, r"\.at"),
        ({"at": True}, r"\.at"),
        ({"seq": 1.0}, r"\.seq"),
        ({"participant": "Jane Doe"}, r"\.participant"),
        ({"participant": "../x"}, r"\.participant"),
        ({"sentence": "a\nb"}, r"\.sentence"),
        ({"sentence": "x" * 301}, r"\.sentence"),
        ({"picture": "farm.png"}, r"\.picture"),
        ({"picture": {"name": "farm.png", "pixels": "AAAA"}}, r"\.picture"),
    ],
)
def test_an_event_of_another_form_is_refused(study_log: ModuleType, change: dict[str, Any], said: str):
    with pytest.raises(study_log.StudyError, match=said):
        study_log.read_events({"trial": TRIAL, "events": [START | change]})


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"trial": TRIAL, "events": []}, {"trial": "../x", "events": EVENTS}, {"trial": TRIAL, "events": {}},
     {"trial": TRIAL, "events": EVENTS * 9}, {"trial": TRIAL, "events": EVENTS, "more": 1}],
)  # fmt: skip
def test_a_request_of_another_form_is_refused(study_log: ModuleType, data: Any):
    with pytest.raises(study_log.StudyError, match="expected"):
        study_log.read_events(data)


def test_a_line_that_was_cut_off_spoils_no_other(study_log: ModuleType, tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"version": 1, "tri')
    study_log.append(path, b"{}\n")
    study_log.append(path, b"[]\n")
    assert path.read_bytes().splitlines()[1:] == [b"{}", b"[]"]


def test_the_log_is_bounded_and_no_link(study_log: ModuleType, tmp_path: Path):
    path = tmp_path / "log.jsonl"
    study_log.append(path, b"12345678\n", most=20)
    with pytest.raises(study_log.LogFull):
        study_log.append(path, b"123456789012\n", most=20)
    assert path.read_bytes() == b"12345678\n"
    if hasattr(os, "O_NOFOLLOW"):
        (tmp_path / "link").symlink_to(path)
        with pytest.raises(OSError, match="link"):
            study_log.append(tmp_path / "link", b"{}\n")
