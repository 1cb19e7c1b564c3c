"""Names that clicked objects get by themselves, in a real Chromium: they appear, follow the clicks, and give way to a
person's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sounding.model import SoundingModel

from .browser import wait_until
from .click_page import COW, DOG, STAGE, Page

pytestmark = pytest.mark.server

WOLVES = "wolves.safetensors"


@pytest.fixture(scope="module")
def wolves(server: Any, tiny_config: Any) -> None:
    """A checkpoint that knows other animals than the starter."""
    model = SoundingModel(dataclasses.replace(tiny_config, vocabulary=("a wolf", "a whale")))
    model.save_pretrained(server.folder / "models" / "sounding" / WOLVES)


def names(page: Page) -> list[tuple[str, bool]]:
    """Of each object its name, and whether the node has given it."""
    return [(each["name"], each.get("auto", False)) for each in page.state()["objects"]]


def test_an_object_is_named_and_a_name_that_is_typed_stays(page: Page):
    page.click(DOG)
    page.drawn()
    assert names(page) == [("dog", True)]
    assert page.name(1).input_value() == "dog"
    percent = page.page.locator(".sounding-click-panel .sounding-click-percent").first
    assert percent.text_content().endswith(" %")
    assert "dog" in page.name(1).get_attribute("title")
    page.photograph("click-names")
    page.rename(1, "Rex")
    page.click((30, 30), button="right")
    page.drawn()
    assert names(page) == [("Rex", False)]
    assert percent.text_content() == ""
    page.page.locator(STAGE).focus()
    page.page.keyboard.press("Control+z")
    page.rename(1, "")  # to have it named again
    assert names(page) == [("dog", True)]
    assert page.name(1).input_value() == "dog"


def test_undo_takes_the_name_back_with_the_click(page: Page):
    page.click(DOG)
    page.drawn()
    page.button("+ Object").click()
    assert names(page)[1] == ("Object 2", True)
    page.click(COW)
    page.drawn()
    (_, second) = [name for name, _ in names(page)]
    assert second not in ("dog", "Object 2")
    page.rename(2, "Daisy")
    page.page.locator(STAGE).focus()
    found = []
    for _ in range(4):
        page.page.keyboard.press("Control+z")
        found.append([name for name, _ in names(page)] if page.state() else [])
    assert found == [["dog", second], ["dog", "Object 2"], ["dog"], []]
    for _ in range(4):
        page.page.keyboard.press("Control+Shift+z")
    assert names(page) == [("dog", True), ("Daisy", False)]


def test_the_graphs_own_undo_gets_past_a_name(plain_tab: Page):
    """It sets the value of before; were that named again, each undo would only meet the same name."""
    plain_tab.button("Remove all objects").click()
    plain_tab.click(DOG)
    plain_tab.drawn()
    before = plain_tab.page.evaluate("() => theClick().widgets.find((w) => w.name === 'state').value")
    earlier = before.replace('"dog"', '"Object 1"')
    plain_tab.page.evaluate("(text) => { theClick().soundingClick.value = text; }", earlier)
    plain_tab.drawn()
    plain_tab.settled()
    assert names(plain_tab) == [("Object 1", True)]
    plain_tab.button("+ Object").click()  # a step of one's own
    assert names(plain_tab) == [("dog", True), ("Object 2", True)]


@pytest.mark.usefixtures("wolves")
def test_what_the_loaded_model_does_not_know_is_said(plain_tab: Page):
    mark = plain_tab.page.locator(".sounding-click-panel .sounding-click-unsure").first
    plain_tab.button("Remove all objects").click()
    plain_tab.click((DOG[0] + 9, DOG[1] + 9))
    plain_tab.drawn()
    plain_tab.told("% sure) covers")  # the starter knows dogs
    assert not mark.is_visible()
    plain_tab.page.evaluate(
        """(name) => {
          const loader = LiteGraph.createNode("SoundingLoadModel");
          app.graph.add(loader);
          loader.widgets.find((widget) => widget.name === "checkpoint").value = name;
          const sound = app.graph.nodes.find((node) => node.type === "SoundingThisObject");
          loader.connect(0, sound, sound.inputs.findIndex((input) => input.name === "model"));
        }""",
        WOLVES,
    )
    plain_tab.click((30, 30), button="right")
    wait_until(plain_tab.page, "() => document.querySelector('.sounding-click-unsure').checkVisibility()")
    plain_tab.told("not among wolves's 2; nearest: a wolf")
    assert "not among wolves's 2; nearest: a wolf" in mark.get_attribute("title")
    plain_tab.rename(1, "Rex")
    assert not mark.is_visible()
