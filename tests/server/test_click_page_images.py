"""Images and clicks of the click node's page: files, connected nodes, copies, subgraphs, a reload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .browser import wait_until
from .click_page import DOG, Page
from .graphs import INPUT

pytestmark = pytest.mark.server


def test_wrong_files_are_refused_and_right_ones_shown(page: Page, server: Any, tmp_path: Path):
    page.click(DOG)
    page.drawn()  # else what is said of the mask may come after what is said of the first file
    for name in ("song.mp3", "words.png"):
        wrong = tmp_path / name
        wrong.write_text("no picture")
        page.page.set_input_files(".sounding-click-bar input[type=file]", wrong)
        page.page.locator(".sounding-click-panel .sounding-click-status.error").wait_for()
        assert "expected" in page.status()
        assert not (server.folder / "input" / name).exists()
        assert page.points() == [(1, 0, False)]
    other = tmp_path / "taller.png"
    Image.open(INPUT / "farm.png").crop((0, 0, 200, 384)).save(other)
    page.page.set_input_files(".sounding-click-bar input[type=file]", other)
    wait_until(page.page, "() => theClick().soundingClick.editor.size?.[0] === 200")
    alert = page.page.get_by_role("alert").filter(has_text="512 x 384")
    alert.wait_for()
    alert.get_by_role("button", name="Clear").click()
    assert page.points() == [(0, 0, False)]
    page.click((140, 190))
    assert page.state()["size"] == [200, 384]
    page.drawn()


def test_an_image_of_another_node_is_shown_after_a_run(page: Page):
    """The run fails since nothing is clicked, and tells so; the image is there all the same."""
    page.page.evaluate(
        """() => {
          const load = LiteGraph.createNode("LoadImage"), turn = LiteGraph.createNode("ImageInvert");
          app.graph.add(load); app.graph.add(turn);
          load.widgets.find((w) => w.name === "image").value = "dog.webp";
          load.connect(0, turn, 0);
          load.connect(0, theClick(), theClick().inputs.findIndex((i) => i.name === "image"));
          window.turn = turn;
        }"""
    )
    wait_until(page.page, "() => theClick().soundingClick.reference?.name === 'dog.webp'")
    page.page.evaluate("() => turn.connect(0, theClick(), theClick().inputs.findIndex((i) => i.name === 'image'))")
    wait_until(page.page, "() => !theClick().soundingClick.reference")
    assert "Run the workflow once" in page.page.locator(".sounding-click-hint").text_content()
    page.page.evaluate("() => app.queuePrompt(0, 1)")
    wait_until(page.page, "() => theClick().soundingClick.reference?.type === 'temp'")
    told = page.page.locator(".p-dialog-mask")
    told.wait_for()
    page.page.keyboard.press("Escape")
    told.wait_for(state="detached")


def test_copies_keep_their_own_clicks(page: Page):
    page.click(DOG)
    page.drawn()
    before = page.state()
    page.page.evaluate(
        "() => { app.canvas.selectNode(theClick()); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); }"
    )
    copies = """() => app.graph.nodes.filter((n) => n.soundingClick)
      .map((n) => n.widgets.find((w) => w.name === "state").value)"""
    assert [json.loads(text) for text in page.page.evaluate(copies)] == [before, before]
    page.page.evaluate(
        """() => app.graph.nodes.filter((n) => n.soundingClick)[1]
          .soundingClick.editor.addPoint("positive", {x: 5, y: 5})"""
    )
    first, second = (json.loads(text) for text in page.page.evaluate(copies))
    assert first == before
    assert len(second["objects"][0]["positive"]) == 2


def test_a_subgraph_keeps_the_clicks(page: Page):
    page.click(DOG)
    page.drawn()
    before = page.state()
    page.page.evaluate("() => { app.graph.convertToSubgraph(new Set([theClick()])); }")
    workflow = page.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    page.page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)
    sent = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    (click,) = (node for node in sent.values() if node["class_type"] == "SoundingClick")
    assert json.loads(click["inputs"]["state"]) == before


def test_reloading_the_page_keeps_the_clicks(plain_tab: Page):
    plain_tab.click((100, 300), button="right")
    before = plain_tab.state()
    assert plain_tab.points()[0] == (1, 1, False)
    plain_tab.page.wait_for_timeout(1500)  # the page keeps drafts after a pause
    plain_tab.page.reload(wait_until="domcontentloaded")
    plain_tab.ready()
    wait_until(plain_tab.page, "() => theClick()")
    assert plain_tab.state() == before
    plain_tab.show()
    plain_tab.drawn()
