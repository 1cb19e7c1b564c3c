"""The click node in a real Chromium, in both of the page's renderers: clicks, boxes, keys, masks on the screen."""

from __future__ import annotations

import numpy as np
import pytest

from .click_page import COW, DOG, NODES, STAGE, Page
from .graphs import iou, true_mask

pytestmark = pytest.mark.server


def coloured(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after - before).sum(axis=-1) > 40


def test_a_click_shows_the_mask_and_a_second_object_its_own(page: Page):
    page.drawn()
    empty = page.image()
    page.click(DOG)
    page.drawn()
    dog = page.image()
    assert iou(coloured(empty, dog), true_mask("dog")) > 0.7
    page.button("+ Object").click()
    page.page.keyboard.type("cow")
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()
    assert iou(coloured(dog, page.image()), true_mask("cow")) > 0.7
    assert page.points() == [(1, 0, False), (1, 0, False)]
    assert [each["name"] for each in page.state()["objects"]] == ["dog", "cow"]
    colours = [each["colour"] for each in page.state()["objects"]]
    assert len(set(colours)) == 2
    assert page.state()["size"] == [512, 384]
    page.told("covers")
    page.button("Switch off cow").click()
    page.drawn()
    assert coloured(dog, page.image()).mean() < 0.01
    print("milliseconds:", page.latencies())


def test_points_and_boxes_are_set_moved_removed_undone(page: Page):
    page.click(DOG)
    page.click((30, 30), button="right")
    page.page.keyboard.down("Alt")
    page.click((60, 30))
    page.page.keyboard.up("Alt")
    assert page.points() == [(1, 2, False)]
    page.drag((55, 105), (250, 315))
    assert page.points() == [(1, 2, True)]
    box = page.state()["objects"][0]["box"]
    np.testing.assert_allclose(box, (55, 105, 250, 315), atol=2)
    page.click((30, 30))  # a click on a point removes it
    assert page.points() == [(1, 1, True)]
    page.drag((60, 30), (90, 40))
    moved = page.state()["objects"][0]["negative"][0]
    np.testing.assert_allclose((moved["x"], moved["y"]), (90, 40), atol=2)
    page.click((box[2], box[1]))  # the box's cross
    assert page.points() == [(1, 1, False)]
    for expected in [(1, 1, True), (1, 1, True), (1, 2, True), (1, 2, False), (1, 1, False), (1, 0, False)]:
        page.page.keyboard.press("Control+z")
        assert page.points() == [expected]
    page.page.keyboard.press("Control+Shift+z")
    page.page.keyboard.press("Control+y")
    assert page.points() == [(1, 2, False)]
    assert page.page.evaluate("() => app.graph.nodes.length") == NODES  # the graph's own undo did not join in


def test_it_can_be_used_without_a_mouse(page: Page):
    page.page.locator(STAGE).focus()
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press("Enter")
    (first,) = page.state()["objects"][0]["positive"]
    page.page.keyboard.press("Shift+ArrowRight")
    assert first["x"] < 256
    assert first["y"] == pytest.approx(192, abs=1)
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("Shift+Enter")
    assert page.points() == [(1, 1, False)]
    page.page.keyboard.press("b")
    for key in ("ArrowDown", "ArrowRight") * 3:
        page.page.keyboard.press(key)
    page.page.keyboard.press("b")
    assert page.points() == [(1, 1, True)]
    page.page.keyboard.press("Delete")
    assert page.points() == [(0, 1, True)]
    assert page.page.evaluate("() => app.graph.nodes.length") == NODES  # Delete is not the graph's
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("() => document.activeElement.closest('.sounding-click-panel') !== null")
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll(".sounding-click-panel :is(button, input, canvas)")]
          .filter((e) => !e.hidden && !(e.ariaLabel || e.textContent.trim() || e.title)).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_zoom_and_window_keep_points_in_place(page: Page):
    page.click(DOG)
    page.page.evaluate("() => { app.canvas.selectNode(theClick()); app.canvas.copyToClipboard(); }")
    page.page.mouse.wheel(0, -600)
    page.settled()
    box = page.page.locator(STAGE).bounding_box()
    place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.move(*place)
    page.page.mouse.down(button="middle")
    page.page.mouse.move(place[0] + 60, place[1] + 40, steps=3)
    page.page.mouse.up(button="middle")
    assert page.points() == [(1, 0, False)]
    assert page.page.evaluate("() => app.graph.nodes.length") == NODES  # the button's paste did not reach the graph
    page.button("Whole image").click()
    page.button("Large window").click()
    page.settled()
    assert page.page.locator(STAGE).bounding_box()["width"] > 800
    page.button("+ Object").click()
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()
    page.button("Close the large window").click()
    page.settled()
    second = page.state()["objects"][1]["positive"][0]
    np.testing.assert_allclose((second["x"], second["y"]), COW, atol=2)
    page.click(COW)  # the same place in the small image is that point
    assert page.points() == [(1, 0, False), (0, 0, False)]


def test_a_double_click_adds_one_point(page: Page):
    left, top, scale = page.frame()
    page.page.mouse.dblclick(left + DOG[0] * scale, top + DOG[1] * scale)
    assert page.points() == [(1, 0, False)]


def test_light_theme_is_readable(plain_tab: Page):
    contrast = """(selector) => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => {
          const c = v / (colour.startsWith("color(") ? 1 : 255);
          return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const element = document.querySelector(selector);
      const ink = light(getComputedStyle(element).color);
      const face = light(getComputedStyle(document.querySelector(".sounding-click-panel")).backgroundColor);
      return (Math.max(ink, face) + 0.05) / (Math.min(ink, face) + 0.05);
    }"""
    try:
        for palette in ("light", "dark"):
            plain_tab.settings(Comfy__ColorPalette=palette)
            plain_tab.page.wait_for_timeout(500)
            for selector in (".sounding-click-name", ".sounding-click-bar button", ".sounding-click-add"):
                assert plain_tab.page.evaluate(contrast, selector) > 4.5, (palette, selector)
            plain_tab.photograph(f"click-{palette}")
    finally:
        plain_tab.settings(Comfy__ColorPalette="dark")
