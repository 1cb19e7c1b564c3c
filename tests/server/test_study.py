"""A study's participant in a real Chromium: times, attempts and rating of the log are those of what was done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from training.evaluate.study.interaction.log import read_trials
from training.evaluate.study.interaction.tasks import Task, make_plan

from .browser import wait_until
from .click_page import COW, DOG, Page
from .graphs import INPUT

pytestmark = pytest.mark.server

SETTING = "Sounding.Study.Record"
SENTENCE = "Make the sound of the dog."


@pytest.fixture
def study(server: Any, plain_tab: Page) -> Iterator[Path]:
    """The folder of a study with a plan, as its leader sets it up; recording is still off."""
    folder = server.folder / "user" / "default" / "sounding_study"
    folder.mkdir(parents=True)
    tasks = [Task("dog", "farm.png", SENTENCE)]
    plan = make_plan("yard", tasks, {"mask": "Click on it, then press its triangle."}, 2, seed=0)
    (folder / "tasks.json").write_text(json.dumps(plan))
    yield folder
    plain_tab.settings(**{SETTING.replace(".", "__"): False})
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def panel(page: Page) -> Any:
    return page.page.locator(".sounding-study")


def press(page: Page, name: str) -> None:
    page.front()
    panel(page).get_by_role("button", name=name).click()


def post(server: Any, body: Any, **headers: str) -> requests.Response:
    return requests.post(server.url + "/sounding/study", json=body, headers=headers, timeout=600)


def test_what_a_participant_does_is_in_the_log(plain_tab: Page, server: Any, study: Path):
    page, log = plain_tab, study / "log.jsonl"
    event = {"trial": "ab" * 16, "events": [{"event": "play", "seq": 0, "at": 0, "object": 0}]}
    page.button("Remove all objects").click()
    page.click(DOG)
    page.drawn()
    assert panel(page).is_hidden()  # recording is off
    answer = post(server, event)
    assert (answer.status_code, "Recording is off" in answer.json()["error"]) == (403, True)

    page.settings(**{SETTING.replace(".", "__"): True})
    panel(page).get_by_label("Participant").select_option("P02")
    panel(page).get_by_text(SENTENCE).wait_for()
    page.settled()
    page.click(COW)  # before the start: not noted
    assert not log.exists()
    page.photograph("study-start")
    before = time.time()
    press(page, "Start")
    panel(page).get_by_text("Recording").wait_for()
    started = time.time()
    assert page.points() == []
    page.settled()
    page.click(DOG)
    page.drawn()
    page.rename(1, "Rex")
    page.hear("Rex")  # the first attempt
    page.page.reload()  # goes on with the trial
    page.ready()
    page.load()
    panel(page).get_by_text("Recording").wait_for()
    page.button("Remove all objects").click()
    page.click((DOG[0] + 12, DOG[1]))
    page.page.keyboard.press("Control+z")
    page.drag((55, 105), (250, 315))
    page.drawn()
    page.rename(1, "Rex")
    page.hear("Rex")  # the second
    page.silent()
    page.hear("Rex")  # is there already
    page.run(server)  # makes nothing new
    page.photograph("study")
    ended = time.time()
    press(page, "I have the sound")
    panel(page).get_by_text("How satisfied").wait_for()
    done = time.time()
    page.photograph("study-rating")
    press(page, "4: quite")
    panel(page).get_by_text("1 of 1 tasks are done").wait_for()

    (trial,), left_out = read_trials([log])
    assert left_out == []
    assert (trial.study, trial.participant, trial.task, trial.condition) == ("yard", "P02", "dog", "mask")
    assert trial.image == hashlib.sha256((INPUT / "farm.png").read_bytes()).hexdigest()
    assert ended - started <= trial.minutes * 60 <= done - before
    assert (trial.attempts, trial.unmade, trial.satisfaction, trial.reached) == (2, 0, 4, True)
    assert (trial.clicks, trial.corrections) == (3, 1)
    assert trial.plays >= 3
    assert 0 < trial.first_sound < trial.minutes
    assert 0 < trial.waiting < trial.minutes
    text = log.read_text()
    for hidden in ("farm.png", "Rex", '"x"', "positive"):
        assert hidden not in text
    wait_until(page.page, "() => !sessionStorage.getItem('Sounding.Study.Trial')")

    refused = {"a form": ({"Sec-Fetch-Site": "cross-site"}, event, 403), "an odd event": ({}, {"trial": 7}, 400)}
    for headers, body, status in refused.values():
        assert post(server, body, **headers).status_code == status
    assert log.read_text() == text
    panel(page).get_by_label("Participant").select_option("")
    press(page, "Delete log")
    press(page, "Delete it for good?")
    panel(page).get_by_role("button", name="Delete log").wait_for()  # named as it was before the first press
    assert not log.exists()
    assert page.errors == []
