"""The raters' page in a real Chromium, with scripted raters who know what they think of each system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.evaluate.study.samples import CONTROL

from ...server.browser import browser, wait_until
from .material import Study, running, write_samples

PATIENCE = 60_000
OPINION = {"good": 5, "poor": 2, CONTROL: 1}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


class Rater:
    """A browser of its own, with a study's page."""

    def __init__(self, chromium: Any, study: Study, name: str):
        self.study, self.name = study, name
        self.context = chromium.new_context()
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(study.url)

    def begin(self) -> None:
        self.page.get_by_label("Your name or number").fill(self.name)
        self.page.get_by_role("button", name="Begin").click()
        self.loaded(0)

    def loaded(self, done: int) -> None:
        """Wait for the sample (or the end) after `done` ratings."""
        wait_until(
            self.page,
            """n => !document.getElementById("end").hidden ||
              (!document.getElementById("trial").hidden &&
                document.getElementById("count").textContent.startsWith(`${n + 1} of `))""",
            done,
        )

    def asked(self) -> tuple[str, str, str]:
        """Item and system(s) of the sample that is shown, which the page itself does not know."""
        found = (
            "SELECT item, system, other FROM trials JOIN raters ON raters.id = rater "
            "WHERE name = ? AND rated IS NULL AND shown IS NOT NULL"
        )
        return self.study.query(found, self.name)[0]

    def listen(self) -> None:
        """Play all sounds to their ends."""
        self.page.evaluate(
            """async () => { for (const audio of document.querySelectorAll("audio")) {
              const ended = new Promise((resolve) => audio.addEventListener("ended", resolve));
              await audio.play();
              await ended;
            } }"""
        )

    def choose(self, legend: str, label: str) -> None:
        self.page.get_by_role("group", name=legend).get_by_label(label).check()

    def next_enabled(self) -> bool:
        return self.page.get_by_role("button", name="Next").is_enabled()

    def missing(self) -> str:
        return self.page.locator("#missing").inner_text()

    def go_on(self) -> None:
        wait_until(self.page, "() => !document.getElementById('next').disabled")
        self.page.get_by_role("button", name="Next").click()

    def close(self) -> None:
        assert self.errors == []
        self.context.close()


def rate(rater: Rater, done: int) -> None:
    """Give the scripted opinion of the sample that is shown."""
    item, system, _ = rater.asked()
    masked = item == "item0"
    page = rater.page
    assert page.locator("#text").inner_text() == f"a dog barks <b>{item[-1]}</b>"  # a text, not HTML
    assert page.locator("#selected").is_visible() == masked
    groups = page.get_by_role("group").count()
    assert groups == (4 if masked else 3)
    for index in range(groups):
        page.get_by_role("group").nth(index).get_by_label(str(OPINION[system])).check()
    assert not rater.next_enabled()  # nothing was heard yet
    rater.listen()
    rater.go_on()
    rater.loaded(done + 1)


def test_scripted_raters_rate_every_sample(chromium: Any, samples: Path, tmp_path: Path):
    with running(samples, tmp_path / "study.db", "--minimum-seconds", "0.4", "--controls", "1") as study:
        for name in ("anna", "ben"):
            rater = Rater(chromium, study, name)
            rater.begin()
            assert "answer" in rater.missing()
            assert "listen" in rater.missing()
            assert not rater.next_enabled()
            for done in range(5):
                if done == 2:  # the page goes on where it was
                    before = rater.asked()
                    rater.page.reload()
                    rater.loaded(done)
                    assert rater.asked() == before
                rate(rater, done)
            assert rater.page.get_by_text("Thank you").is_visible()
            rater.page.reload()
            rater.page.get_by_text("All 5 samples are rated").wait_for()
            rater.close()
        rows = study.query("SELECT system, value, rated - shown FROM ratings JOIN trials USING (rater, position)")
        assert len(rows) == 2 * (2 * 4 + 2 * 3 + rows_of_control(study))
        assert all(value == OPINION[system] and seconds >= 0.4 for system, value, seconds in rows)


def rows_of_control(study: Study) -> int:
    (item,) = study.query("SELECT DISTINCT item FROM trials WHERE system = ?", CONTROL)
    return 4 if item == ("item0",) else 3


def lose_the_answer(route: Any) -> None:
    assert route.fetch().status == 200
    route.abort()


def test_preferences_name_the_object_and_both_sounds(chromium: Any, samples: Path, tmp_path: Path):
    options = ("--minimum-seconds", "0", "--controls", "1", "--protocol", "prefer")
    with running(samples, tmp_path / "study.db", *options) as study:
        rater = Rater(chromium, study, "carla")
        rater.begin()
        for done in range(3):
            item, first, second = rater.asked()
            selected = "the selected object (dog 0)" if item == "item0" else "the image"
            legend = f"Which sound fits {selected} better?"
            rater.choose(legend, "The first" if OPINION[first] > OPINION[second] else "The second")
            assert rater.page.locator("audio").count() == 2
            rater.listen()
            if done == 1:  # the rating arrives, but its confirmation is lost
                rater.page.route("**/api/rate", lose_the_answer, times=1)
                rater.go_on()
                rater.page.get_by_role("alert").get_by_text("try again").wait_for()
            rater.go_on()
            rater.loaded(done + 1)
            assert rater.page.get_by_role("alert").count() == 0
        rater.close()
        rows = study.query("SELECT system, other, value FROM ratings JOIN trials USING (rater, position)")
        assert len(rows) == 3
        assert all((value == 1) == (OPINION[system] > OPINION[other]) for system, other, value in rows)


def test_the_selected_object_is_outlined(samples: Path):
    from training.evaluate.study.material import outlined

    plain = outlined(samples / "item0.png", None)
    image = outlined(samples / "item0.png", samples / "item0_mask.png")
    changed = (plain != image).any(axis=-1)
    assert not changed[23:37, 33:47].any()  # the object's middle
    assert not changed[:17].any()
    border = np.zeros_like(changed)
    border[17:43, 27:53] = True
    assert not changed[~border].any()
    yellow = (image == (255, 221, 0)).all(axis=-1)
    assert yellow[20:23, 30:50].all()
    assert not yellow[:20].any()
