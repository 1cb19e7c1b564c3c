"""The interaction study's figures on logs whose times, attempts and ratings are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from training.__main__ import app
from training.evaluate.study.interaction.figures import figures_of
from training.evaluate.study.interaction.log import Trial, read_trials
from training.evaluate.study.interaction.markdown import QUOTED, as_markdown
from training.evaluate.study.interaction.tasks import Task, balanced_orders, make_plan, read_conditions, read_tasks

Event = dict[str, Any]


def trial_events(
    who: str, task: str = "dog", condition: str = "mask", *, rating: int = 4, attempts: int = 2, seconds: float = 90.0
) -> list[Event]:
    """A trial in which each attempt takes ten seconds, the last one a second before the end."""
    events: list[Event] = [
        {"event": "start", "at": 0, "study": "yard", "participant": who, "task": task, "condition": condition}
        | {"sentence": "Make it sound.", "image": "ab" * 32}
    ]
    for run in range(1, attempts + 1):
        queued = seconds - 11 * (attempts - run + 1)
        events.append({"event": "edit", "at": queued - 1, "act": "point_on", "object": 0})
        events.append({"event": "queue", "at": queued, "run": run, "by": "node", "fresh": True})
        events.append({"event": "result", "at": queued + 10, "run": run, "status": "made"})
    events.append({"event": "done", "at": seconds, "reached": True})
    events.append({"event": "rated", "at": seconds + 3, "satisfaction": rating})
    return events


def lines(events: Iterable[Event], name: str, received: float = 1000.0) -> str:
    head = {"version": 1, "received": received, "trial": name}
    return "".join(json.dumps(head | {"seq": n} | event) + "\n" for n, event in enumerate(events))


def write(path: Path, *trials: str) -> Path:
    path.write_text("".join(trials))
    return path


def one(path: Path, events: list[Event]) -> Trial:
    (trial,), left_out = read_trials([write(path, lines(events, "a"))])
    assert left_out == []
    return trial


def test_a_trial_is_what_was_done_until_the_participant_was_done(tmp_path: Path):
    events: list[Event] = trial_events("P01", attempts=1, seconds=60)[:1]
    for at, event in (
        (5.0, {"event": "edit", "act": "point_on", "object": 0}),
        (6.0, {"event": "mask", "object": 0, "waited": 0.2}),
        (7.0, {"event": "edit", "act": "undo", "object": 0}),
        (8.0, {"event": "edit", "act": "box", "object": 0}),
        (10.0, {"event": "queue", "run": 1, "by": "node", "fresh": True}),
        (12.0, {"event": "queue", "run": 2, "by": "page", "fresh": True}),  # waits for the first one
        (20.0, {"event": "result", "run": 1, "status": "made"}),
        (20.5, {"event": "play", "object": 0}),
        (30.0, {"event": "result", "run": 2, "status": "stopped"}),
        (31.0, {"event": "queue", "run": 3, "by": "page", "fresh": False}),  # the first sound once more
        (32.0, {"event": "result", "run": 3, "status": "made"}),
        (33.0, {"event": "queue", "run": 4, "by": "page", "fresh": True}),  # never ran
        (33.5, {"event": "result", "run": 4, "status": "refused"}),
        (40.0, {"event": "queue", "run": 5, "by": "node", "fresh": True}),  # is not waited for
        (45.0, {"event": "done", "reached": False}),
        (49.0, {"event": "rated", "satisfaction": 2}),
    ):
        events.append({"at": at} | event)
    trial = one(tmp_path / "log.jsonl", events)
    assert (trial.minutes, trial.attempts, trial.satisfaction, trial.reached) == (0.75, 3, 2, False)
    assert (trial.unmade, trial.clicks, trial.corrections, trial.plays) == (1, 2, 1, 1)
    assert trial.first_sound == pytest.approx(20 / 60)
    assert trial.waiting == pytest.approx((20 + 1 + 5) / 60)
    assert trial.hands_on == pytest.approx(0.75 - 26 / 60)


@pytest.mark.parametrize(
    ("method", "ratings"),
    [
        ("AudioLDM 1", [1, 2, 2, 2, 3]),
        ("AudioLDM 2", [2, 2, 3, 3, 4]),
        ("FoleyCrafter", [1, 2, 3, 4, 5]),
        ("SSV2A", [2, 3, 3, 4, 5]),
        ("Ours", [3, 3, 4, 4, 4]),
    ],
)
def test_intervals_are_those_of_table_2(tmp_path: Path, method: str, ratings: list[int]):
    """Five participants with whole ratings: these give the published means and half-widths to both digits."""
    log = write(
        tmp_path / "log.jsonl",
        *(lines(trial_events(f"P{n}", rating=rating), f"t{n}") for n, rating in enumerate(ratings)),
    )
    found = figures_of(*read_trials([log]))
    own = found["conditions"]["mask"]["satisfaction"]
    assert f"{own['value']:.2f} ± {own['value'] - own['low']:.2f}" == QUOTED[method][2]
    assert f"| mask | 1.50 ± 0.00 | 2.00 ± 0.00 | {QUOTED[method][2]} |" in as_markdown(found)


def test_means_and_tests_of_two_conditions_are_those_of_scipy(tmp_path: Path):
    rng = np.random.default_rng(3)
    seconds = {c: rng.uniform(60, 120, (6, 4)) + extra for c, extra in (("mask", 0), ("text", 40))}
    ratings = {c: rng.integers(low, low + 3, (6, 4)) for c, low in (("mask", 3), ("text", 1))}
    trials = [
        lines(
            trial_events(f"P{p}", f"t{t}", c, rating=int(ratings[c][p, t]), attempts=1, seconds=seconds[c][p, t]),
            f"{p}{t}{c}",
        )
        for c in seconds
        for p in range(6)
        for t in range(4)
    ]
    halves = write(tmp_path / "a.jsonl", *trials[::2]), write(tmp_path / "b.jsonl", *trials[1::2], *trials[:3])
    found = figures_of(*read_trials(halves), ours="mask")
    assert (found["trials"], found["participants"], found["tasks"]) == (48, 6, 4)
    for condition in ("mask", "text"):
        for measure, values in (("minutes", seconds[condition] / 60), ("satisfaction", ratings[condition])):
            means = values.mean(axis=1)
            low, high = stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))
            own = found["conditions"][condition][measure]
            assert (own["value"], own["low"], own["high"]) == pytest.approx((means.mean(), low, high))
            assert own["crossed_low"] < own["value"] < own["crossed_high"]
    minutes, attempts, satisfaction = found["tests"]
    assert (minutes["scale"], minutes["system"], minutes["other"], minutes["pairs"]) == ("minutes", "mask", "text", 24)
    for test, values in ((minutes, seconds), (satisfaction, ratings)):
        for over, axis in (("participants", 1), ("tasks", 0)):
            first, second = values["mask"].mean(axis=axis), values["text"].mean(axis=axis)
            expected = stats.ttest_rel(first, second)
            assert (test[over]["t"], test[over]["p"]) == pytest.approx((expected.statistic, expected.pvalue))
        difference = (values["mask"] - values["text"]).mean(axis=1)
        assert test["wilcoxon"]["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
        assert test["wilcoxon"]["p_holm"] >= test["wilcoxon"]["p"]
    assert attempts["participants"]["t"] is None  # all made one attempt
    text = as_markdown(found)
    assert text.index("| text |") < text.index("| mask |") < text.index("*Ours (the paper's, quoted)*")


def test_what_is_damaged_is_left_out_and_named(tmp_path: Path):
    whole = lines(trial_events("P01"), "whole")
    twice = lines(trial_events("P01", rating=1), "again", received=2000.0)
    unrated = lines(trial_events("P02")[:-1], "unrated")
    gap = "".join(line + "\n" for line in lines(trial_events("P03"), "gap").splitlines() if '"queue"' not in line)
    sent_twice = "".join(line * 2 for line in lines(trial_events("P04"), "double").splitlines(keepends=True))
    odd = lines([*trial_events("P05")[:-1], {"event": "rated", "at": 95, "satisfaction": 9}], "odd")
    elsewhere = lines(trial_events("P06"), "elsewhere").replace("ab" * 32, "cd" * 32)
    mess = '{"version": 1\n[]\nnull\n' + "[" * 5000 + '\n\n{"version": 1, "trial": "x", "seq": 0, "at": NaN}\n'
    mess += f'{{"version": 1, "trial": "y", "seq": 0, "at": 1{"0" * 400}, "event": "start"}}\n'  # no float holds it
    mess += '{"version": 1, "trial": "\\u001b[2J", "seq": 1, "at": 0, "event": "start"}\n'
    log = write(tmp_path / "log.jsonl", twice, whole, unrated, gap, mess, sent_twice, odd, elsewhere)
    trials, left_out = read_trials([log])
    assert [(each.participant, each.satisfaction) for each in trials] == [("P01", 4), ("P04", 4), ("P06", 4)]
    said = "\n".join(left_out)
    told = (
        "no events: 34, 35, 36, 37, 39 and 1 more.",
        "\\x1b[2J",
        "P02, dog, mask",
        "not rated",
        "P03",
        "events are missing",
        "its rating",
    )
    for words in (*told, "again; the first time counts"):
        assert words in said
    assert any("2 different image files" in each for each in figures_of(trials, left_out)["left_out"])
    with pytest.raises(ValueError, match="No rated trial"):
        read_trials([write(tmp_path / "empty.jsonl", mess)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_orders_are_balanced(count: int):
    orders = balanced_orders(count)
    for place in range(count):
        assert len({[order[place] for order in orders].count(each) for each in range(count)}) == 1
    follows = [pair for order in orders for pair in pairwise(order)]
    assert len({follows.count((a, b)) for a in range(count) for b in range(count) if a != b}) <= 1


def test_a_plan_has_every_task_under_every_condition_in_orders_of_their_own():
    tasks = [Task(f"t{n}", "farm.png", f"Task {n}") for n in range(5)]
    plan = make_plan("yard", tasks, {"mask": "Click.", "text": ""}, 6, seed=1)
    orders = []
    for entries in plan["participants"].values():
        assert {(each["task"], each["condition"]) for each in entries} == {
            (task.name, condition) for task in tasks for condition in ("mask", "text")
        }
        assert len({each["condition"] for each in entries[:5]}) == 1
        orders.append([each["task"] for each in entries])
    assert len({tuple(each) for each in orders}) == 6
    firsts = [entries[0]["condition"] for entries in plan["participants"].values()]
    assert firsts.count("mask") == 3
    assert plan == make_plan("yard", tasks, {"mask": "Click.", "text": ""}, 6, seed=1)


def test_the_commands_plan_and_report(tmp_path: Path):
    (tmp_path / "farm.png").write_bytes(b"image")
    table = tmp_path / "tasks.csv"
    table.write_text("task,image,sentence\ndog,farm.png,Make the dog bark.\n")
    plan = tmp_path / "tasks.json"
    options = ["--tasks", str(table), "--images", str(tmp_path), "--condition", "mask=Click on it.", "--study", "yard"]
    done = CliRunner().invoke(app, ["evaluate", "study", "tasks", *options, "--participants", "3", "--out", str(plan)])
    assert done.exit_code == 0, done.output
    entry = json.loads(plan.read_text())["participants"]["P01"][0]
    assert entry == {"task": "dog", "condition": "mask", "sentence": "Make the dog bark."} | {
        "instruction": "Click on it.",
        "image": "farm.png",
    }
    log = write(tmp_path / "log.jsonl", *(lines(trial_events(f"P0{n}", rating=n), f"t{n}") for n in (1, 2, 3)))
    out = tmp_path / "report"
    done = CliRunner().invoke(app, ["evaluate", "study", "interaction", "--log", str(log), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "interaction.md").read_text() in done.output
    assert json.loads((out / "interaction.json").read_text())["conditions"]["mask"]["attempts"]["value"] == 2
    done = CliRunner().invoke(app, ["evaluate", "study", "interaction", "--log", str(log), "--study", "other"])
    assert done.exit_code == 1
    assert "choose one with --study" in done.output


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("task;image\n", "task, image, sentence are expected"),
        ("task,image,sentence\n", "0 tasks"),
        ("task,image,sentence\ndog,farm.png,Bark.\ndog,farm.png,Bark.\n", "different names"),
        ("task,image,sentence\na dog,farm.png,Bark.\n", "line 2: task is 'a dog'"),
        ("task,image,sentence\ndog,../farm.png,Bark.\n", "line 2: image is"),
        ("task,image,sentence\ndog,none.png,Bark.\n", "put it there"),
        ("task,image,sentence\ndog,farm.png\n", "sentence is ''"),
    ],
)
def test_bad_tasks_are_refused(tmp_path: Path, rows: str, said: str):
    (tmp_path / "input").mkdir()
    for folder in (tmp_path, tmp_path / "input"):
        (folder / "farm.png").write_bytes(b"image")
    path = tmp_path / "tasks.csv"
    path.write_text(rows)
    with pytest.raises(ValueError, match="expected") as caught:
        read_tasks(path, tmp_path / "input")
    assert said in str(caught.value)


@pytest.mark.parametrize("given", [[], ["mask", "mask=Click."], ["a b"], ["mask=" + "x" * 301], ["mask=a\nb"]])
def test_bad_conditions_are_refused(given: list[str]):
    with pytest.raises(ValueError, match=r"expected|characters"):
        read_conditions(given)
