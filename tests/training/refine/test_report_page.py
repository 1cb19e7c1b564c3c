"""The report in a real Chromium: of a run, and of rows whose texts want to be more than text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from training.cluster.rows import Row
from training.refine.funnel import OTHERS
from training.refine.manifest import read_manifest
from training.refine.pipeline import refine
from training.refine.report import SHOWN, write_report
from training.refine.steps import steps_of

from ...pages import Opened, browser, opened
from .material import settings_of

EVIL = [
    '<script>alert("1")</script>',
    "\"><img src=x onerror='alert(2)'>",
    "javascript:alert(3)",
    "{{ 7 * 191 }} {% raw %} </style></section>",
    "\u202egnp.exe\u2066 \u200b\x1b[31m\x07",
    "&lt;b&gt; &amp;&#60;",
    "very long " * 400,
    "wide" * 400,
    "\ud800 lone",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def run(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "out"
    (out / "report" / "clips").mkdir(parents=True)
    (out / "report" / "clips" / f"{'0' * 20}.mp3").write_text("of an earlier page")
    (out / "report" / "clips" / "mine.txt").write_text("of somebody else")
    refine(settings_of(material, out))
    return out


@pytest.fixture(scope="module")
def page(chromium: Any, run: Path) -> Iterator[Opened]:
    with opened(chromium, run / "report" / "index.html") as one:
        yield one


def test_the_page_shows_and_plays_all_that_it_names(page: Opened, run: Path) -> None:
    assert page.troubles() == []
    assert len(page.sounds()) == 10  # all but those without a file, without sound or without anything
    assert len(page.images()) == 11  # and the one without sound
    assert all(width > 100 for width in page.images().values())
    # MP3 begins with up to 0.1 s of silence.
    assert all(1 <= seconds <= 3.2 for seconds in page.sounds().values())
    files = {f"clips/{file.name}" for file in (run / "report" / "clips").iterdir()}
    assert files == set(page.images()) | set(page.sounds()) | {"clips/mine.txt"}


def test_the_funnel_has_the_numbers_of_the_manifest(page: Opened, run: Path) -> None:
    rows = read_manifest(run)
    left = list(rows)
    steps = ["lists", "labels", "clips", "captions", "rephrase", "shards"]
    table = page.table("#funnel table")
    assert [line[0] for line in table] == steps
    for line in table:
        stay = [row for row in left if row["dropped_by"] != line[0]]
        hours = [sum(row["sound_seconds"] or row["seconds"] for row in some) / 3600 for some in (left, stay)]
        assert line[1:5] == [str(len(left)), str(len(stay)), *(f"{each:.3f}" for each in hours)]
        dropped = sum(int(told.rpartition("(")[2].rstrip(")")) for told in line[6].splitlines() if told)
        assert dropped == len(left) - len(stay)
        left = stay
    assert "13 clips were listed, 6 are kept" in page.text("header")
    by_category: Counter[tuple[str, str]] = Counter()
    for row in left:
        by_category[row["category"], row["subset"]] += row["sound_seconds"]
    for name, train, test, _ in page.table("#categories table"):
        assert [train, test] == [f"{by_category[name, subset] / 3600:.3f}" for subset in ("train", "test")]
    assert "0 of 6 captions are a language model's" in page.text("#captions")
    assert "no language model" in page.text("#missing")


def test_each_reason_has_clips_of_its_own(page: Opened, run: Path) -> None:
    dropped = [row for row in read_manifest(run) if row["dropped_by"]]
    sections = page.groups()
    assert {(step, reason) for step, reason, _ in sections} == {
        ("lists", "There is no video … or … in videos."),
        ("lists", "The list benchmark.txt keeps this video out."),
        ("labels", "It is labelled Guitar."),
        ("clips", "It has less than 1.9 s of sound."),
        ("clips", "It is silent."),
        ("clips", "… has no sound."),
        ("clips", next(reason for step, reason, _ in sections if reason.startswith("… cannot be decoded"))),
    }
    assert sorted(name for _, _, ids in sections for name in ids) == sorted(row["id"] for row in dropped)


def evil_rows(video: Path) -> list[Row]:
    """A kept row, more than a page shows that labels drop, and one of each of many reasons, for each text."""
    rows: list[Row] = []
    columns = (
        "id",
        "video",
        "caption",
        "category",
        "caption_by",
        "caption_problem",
        "audio_caption",
        "licence",
        "source",
    )
    for number, evil in enumerate(EVIL):
        row = {
            **dict.fromkeys(columns, evil),
            "id": f"{evil}{number}",
            "path": str(video),
            "version": evil,
            "offset": 0.0,
            "labels": [evil] * 30,
            "tags": [evil] * 10,
            "frame_captions": [evil, evil],
            "matching_score": number / len(EVIL),
            "seconds": 1.0,
            "sound_seconds": 1.0,
            "subset": "train",
            "dropped_by": "",
            "reason": "",
        }
        dropped = {**row, "dropped_by": "rephrase", "reason": f"{evil} {number}", "path": ""}
        rows += [row, {**dropped, "id": f"m{row['id']}"}]
        silent = {**dropped, "dropped_by": "labels", "reason": "It is silent."}
        rows += [{**silent, "id": f"{copy}{row['id']}"} for copy in range(SHOWN // 4)]
    return rows


def test_texts_from_outside_stay_text(chromium: Any, material: Path, tmp_path: Path) -> None:
    settings = settings_of(material, tmp_path / "out")
    rows = evil_rows(material / "videos" / "dog0.mp4")
    file = write_report(tmp_path / "out", rows, steps_of(settings), settings)
    with opened(chromium, file) as page:
        assert page.troubles() == []
        assert page.count("script, b, i, iframe, link, object, embed, form, base, [onerror], [onclick]") == 0
        assert page.count("a:not([href^='#'])") == 0
        assert page.count("section section") == 0
        assert page.addresses() <= {*page.images(), *page.sounds()}
        text = page.text("body")
        for shown in (
            '<script>alert("1")</script>',
            "javascript:alert(3)",
            "{{ 7 * 191 }}",
            "&lt;b&gt;",
            r"\u202egnp",
            r"\x1b[31m",
        ):
            assert shown in text
        assert "1337" not in text
        assert not set("\u202e\u2066\u200b\x1b\x07\ud800") & set(text)
        assert len(page.images()) == len(page.sounds()) == len(EVIL)
        for width in (1280, 600, 320):
            assert page.overflow(width) <= 0
        groups = {(step, reason): ids for step, reason, ids in page.groups()}
        assert len(groups["labels", "It is silent."]) == SHOWN
        assert f"{SHOWN} of {len(EVIL) * (SHOWN // 4)} clips" in text
        assert len(groups["rephrase", OTHERS]) == 1
