"""The report on raters whose opinions are known."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from training.__main__ import app
from training.evaluate.study.database import Database, Trial, read_answers
from training.evaluate.study.plan import Settings, scales_of
from training.evaluate.study.report import make_report
from training.evaluate.study.samples import CONTROL, read_samples

from .material import write_samples

SYSTEMS = ("audioldm", "ours", "ssv2a")
LEVEL = {"audioldm": 2, "ssv2a": 3, "ours": 4, CONTROL: 1}
RATERS = 7  # the last one rates at random


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"), items=8, systems=SYSTEMS)


def opinion(rng: np.random.Generator, rater: int, trial: Trial) -> int:
    """1 to 5: what the system is worth, give or take one."""
    if rater == RATERS:
        return int(rng.integers(3, 6))
    return 1 if trial.system == CONTROL else int(np.clip(LEVEL[trial.system] + rng.integers(-1, 2), 1, 5))


def preference(rng: np.random.Generator, rater: int, trial: Trial) -> int:
    """The better system's side, or sometimes no difference; noise is always known. One rater says the contrary."""
    better = int(np.sign(LEVEL[trial.system] - LEVEL[trial.other]))
    if rater == RATERS:
        return -better
    unsure = CONTROL not in (trial.system, trial.other) and rng.random() < 0.25
    return 0 if unsure else better


def answer_all(samples: Path, path: Path, settings: Settings) -> None:
    database = Database(path, read_samples(samples), settings)
    items = {item.name: item for item in database.items}
    rng = np.random.default_rng(5)
    for number in range(1, RATERS + 1):
        rater = database.rater(database.start(f"rater|{number}"))
        assert rater == number
        while trial := database.show_next(rater):
            scales = scales_of(items[trial.item], settings.protocol)
            if settings.protocol == "rate":
                values = {scale: opinion(rng, rater, trial) for scale in scales}
            else:
                values = {"preference": preference(rng, rater, trial)}
            database.rate(rater, trial.position, values)
    database.close()


@pytest.fixture(scope="module")
def rated(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rated") / "study.db"
    answer_all(samples, path, Settings(minimum_seconds=0, controls=4))
    return path


@pytest.fixture(scope="module")
def compared(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compared") / "study.db"
    answer_all(samples, path, Settings("prefer", minimum_seconds=0, controls=8))
    return path


def rows(path: Path, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_means_intervals_and_tests_are_those_of_the_answers(rated: Path):
    report = make_report(rated, ours="ours")
    assert report["raters"] == RATERS
    assert report["rated"] == RATERS * 8 * 3
    for system in SYSTEMS:
        for scale in ("OVL", "RET", "REI", "REO"):
            found = report["systems"][system][scale]
            values = np.array(
                rows(
                    rated,
                    "SELECT avg(value), count(*) FROM trials JOIN ratings USING (rater, position) "
                    f"WHERE system = '{system}' AND scale = '{scale}'",
                )
            )[0]
            assert (found["value"], found["count"]) == (pytest.approx(values[0]), values[1])
            assert found["count"] == RATERS * (4 if scale == "REO" else 8)
            assert found["crossed_low"] < found["low"] < found["value"] < found["high"] < found["crossed_high"]
    assert len(report["tests"]) == 2 * 4
    test = next(each for each in report["tests"] if (each["scale"], each["other"]) == ("OVL", "ssv2a"))
    for over, column in (("samples", "item"), ("raters", "rater")):
        by = {
            system: [
                mean
                for _, mean in rows(
                    rated,
                    f"SELECT {column}, avg(value) FROM trials JOIN ratings USING (rater, position) "
                    f"WHERE system = '{system}' AND scale = 'OVL' GROUP BY {column} ORDER BY {column}",
                )
            ]
            for system in SYSTEMS
        }
        expected = stats.ttest_rel(by["ours"], by["ssv2a"])
        assert test[over]["t"] == pytest.approx(expected.statistic)
        assert test[over]["p"] == pytest.approx(expected.pvalue)
        assert test[over]["p"] < test[over]["p_holm"] <= 8 * test[over]["p"] * (1 + 1e-9)


def test_a_rater_who_rates_noise_high_is_named_and_can_be_left_out(rated: Path, tmp_path: Path):
    every, some = make_report(rated), make_report(rated, leave_out_failed=True)
    failed = [each["name"] for each in every["controls"] if not each["passed"]]
    assert failed == [f"rater|{RATERS}"]
    assert (every["raters"], some["raters"]) == (RATERS, RATERS - 1)
    assert every["failed_raters_left_out"] is False
    assert some["agreement"]["OVL"]["alpha"]["value"] > every["agreement"]["OVL"]["alpha"]["value"] > 0
    assert some["agreement"]["OVL"]["quadratic_kappa"]["mean"] > some["agreement"]["OVL"]["kappa"]["mean"]
    assert some["agreement"]["OVL"]["kappa"]["pairs"] == 15
    assert not [each for each in make_report(rated, control_limit=5)["controls"] if not each["passed"]]
    assert len(every["tests"]) == 3 * 4  # all pairs


def test_the_command_prints_the_papers_table_and_writes_both_files(rated: Path, tmp_path: Path):
    out = tmp_path / "report"
    options = ["--database", str(rated), "--ours", "ours", "--leave-out-failed", "--out", str(out)]
    done = CliRunner().invoke(app, ["evaluate", "study", "report", *options])
    assert done.exit_code == 0, done.output
    text = (out / "study.md").read_text()
    assert text in done.output
    figures = json.loads((out / "study.json").read_text())
    lines = text.splitlines()
    assert lines[4] == "| Method | OVL (↑) | RET (↑) | REI (↑) | REO (↑) |"
    assert [line.split("|")[1].strip() for line in lines[6:9]] == ["audioldm", "ssv2a", "ours"]
    ovl = figures["systems"]["ours"]["OVL"]
    assert f"**{ovl['value']:.2f} ± {ovl['high'] - ovl['value']:.2f}**" in lines[8]
    assert "quoted" in lines[10]
    assert f"| {RATERS} | rater\\|{RATERS} |" in text
    assert "OVL: ours - audioldm" in text


def test_preferences_are_counted_whichever_side_they_were_on(compared: Path):
    report = make_report(compared, ours="ours", leave_out_failed=True)
    assert [each["name"] for each in report["controls"] if not each["passed"]] == [f"rater|{RATERS}"]
    assert [(each["system"], each["other"]) for each in report["preferences"]] == [
        ("audioldm", "ssv2a"),
        ("ours", "audioldm"),
        ("ours", "ssv2a"),
    ]
    for each in report["preferences"]:
        wins, losses = (each["other_preferred"], each["preferred"])[:: 1 if each["system"] == "audioldm" else -1]
        assert losses == 0
        assert wins + each["no_difference"] == (RATERS - 1) * 8
        share = (each["preferred"] + each["no_difference"] / 2) / ((RATERS - 1) * 8)
        assert each["share"] == pytest.approx(share)
        assert each["crossed_low"] < share < each["crossed_high"]
    assert report["tests"][1]["raters"]["p_holm"] < 0.01
    done = CliRunner().invoke(app, ["evaluate", "study", "report", "--database", str(compared)])
    assert done.exit_code == 0, done.output
    assert "| audioldm or ours |" in done.output


def test_a_report_of_little_says_what_there_is(samples: Path, tmp_path: Path):
    path = tmp_path / "study.db"
    database = Database(path, read_samples(samples), Settings(minimum_seconds=0))
    with pytest.raises(ValueError, match="no ratings yet"):
        make_report(path)
    rater = database.rater(database.start("one"))
    assert rater is not None
    trial = database.show_next(rater)
    assert trial is not None
    while trial.system == CONTROL:  # a report needs one sound
        database.rate(rater, trial.position, {"OVL": 1})
        trial = database.show_next(rater)
        assert trial is not None
    database.rate(rater, trial.position, {"OVL": 4, "RET": 3, "REI": 2})
    report = make_report(path)  # while the study goes on
    assert report["systems"][trial.system]["OVL"]["value"] == 4
    assert report["systems"][trial.system]["OVL"]["low"] is None
    done = CliRunner().invoke(app, ["evaluate", "study", "report", "--database", str(path)])
    assert done.exit_code == 0, done.output
    assert "There is one system alone" in done.output
    database.close()


def test_what_is_no_study_is_refused_in_a_sentence(rated: Path, tmp_path: Path):
    def refused(path: Path, said: str, **options: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            make_report(path, **options)  # type: ignore[arg-type]
        assert str(caught.value).endswith(".")

    refused(tmp_path / "none.db", "is not there")
    (tmp_path / "text.db").write_text("no database " * 100)
    refused(tmp_path / "text.db", "not a database")
    (tmp_path / "empty.db").write_bytes(b"")
    refused(tmp_path / "empty.db", "no such table")
    refused(rated, "one of audioldm, ours, ssv2a", ours="nobody")
    for number, change in enumerate(
        [
            "UPDATE study SET version = 2",
            "UPDATE study SET settings = '{\"protocol\": 7}'",
            "UPDATE study SET settings = '['",
            "UPDATE trials SET system = x'00ff'",
            "UPDATE trials SET shown = NULL",
        ]
    ):
        copy = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(rated)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute(change)
            target.commit()
        refused(copy, "expected|damaged|no rater gave")
    assert len(read_answers(rated)[1]) > 100
