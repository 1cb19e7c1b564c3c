"""The click node in a real Chromium, in both of the page's renderers: what people do with it, from click to sound.

With SOUNDING_SCREENSHOTS=FOLDER the pictures of the documentation are written there.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from sounding.audio.loudness import true_peak

from .browser import PATIENCE, browser, open_page, wait_until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent.parent
INPUT = ROOT / "example_workflows" / "input"
WORKFLOW = json.loads((ROOT / "example_workflows" / "click_and_hear.json").read_text())
NODES = len(WORKFLOW["nodes"])
STAGE = "canvas.sounding-click-stage"
DOG, COW = (140, 190), (340, 225)
TRACKS, WHOLE = "3", "7"  # the nodes of the example that save the tracks and their mix
MASK = {"value": 1.0, "width": 512, "height": 384}
READY = (
    "() => window.app?.graph && window.LiteGraph?.registered_node_types.SoundingClick && app.extensionManager?.setting"
)
# The one click node of the graph, wherever it is.
CLICK = """() => {
  window.theClick = () => {
    const root = app.graph.rootGraph ?? app.graph;
    const all = [app.graph, ...root.subgraphs?.values() ?? []].flatMap((graph) => [...graph.nodes]);
    return all.find((node) => node.soundingClick);
  };
}"""
SHORT = """() => {
  for (const node of app.graph.nodes) for (const widget of node.widgets ?? []) {
    if (widget.name === "seconds") widget.value = 1;
    if (widget.name === "steps") widget.value = 4;
  }
}"""


class Page:
    """One tab, with the click node's doings as methods."""

    def __init__(self, context: Any, server: Any):
        # Else the first visit opens a dialog of templates.
        known = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.EnableTooltips": False}
        server.post("/settings", known)
        self.page = open_page(context, server.url)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self._heard(message))
        self.ready()

    def _heard(self, message: Any) -> None:
        ours = "/extensions/sounding-objects/" in message.text + str(message.location)
        if message.type == "error" and ours and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def front(self) -> None:
        """A tab behind another one paints no frames, and what waits for one would wait long."""
        self.page.bring_to_front()

    def ready(self) -> None:
        wait_until(self.page, READY)
        self.page.evaluate(CLICK)

    def settings(self, **values: Any) -> None:
        for name, value in values.items():
            self.page.evaluate(
                "([name, value]) => app.extensionManager.setting.set(name, value)", [name.replace("__", "."), value]
            )

    def load(self, workflow: dict[str, Any] = WORKFLOW) -> None:
        """As a person who drops the file on the page."""
        self.page.evaluate(
            """async (text) => {
              for (const node of app.graph.nodes) node.isOfBefore = true;
              const file = new File([text], "click.json", {type: "application/json"});
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(file);
              document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
            }""",
            json.dumps(workflow),
        )
        wait_until(
            self.page,
            "(id) => theClick() && app.graph.nodes.length === id && !app.graph.nodes.some((node) => node.isOfBefore)",
            arg=NODES,
        )
        self.page.evaluate(SHORT)
        self.show()

    def show(self) -> None:
        """Bring the node into view at its own size."""
        self.page.evaluate(
            """() => {
              const node = theClick();
              app.canvas.ds.scale = 1;
              app.canvas.ds.offset = [120 - node.pos[0], 120 - node.pos[1]];
              app.canvas.setDirty(true, true);
            }"""
        )
        wait_until(self.page, "() => theClick().soundingClick.image")
        self.page.locator(STAGE).wait_for()
        self.page.wait_for_timeout(400)

    def frame(self) -> tuple[float, float, float]:
        """Left and top of the picture on the screen, and screen pixels a pixel of it."""
        self.front()
        box = self.page.locator(STAGE).bounding_box()
        width, height = self.page.evaluate("() => theClick().soundingClick.editor.size")
        scale = min(box["width"] / width, box["height"] / height)
        left, top = box["x"] + (box["width"] - scale * width) / 2, box["y"] + (box["height"] - scale * height) / 2
        return left, top, scale

    def click(self, place: tuple[float, float], **options: Any) -> None:
        left, top, scale = self.frame()
        self.page.mouse.click(left + place[0] * scale, top + place[1] * scale, **options)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        left, top, scale = self.frame()
        self.page.mouse.move(left + start[0] * scale, top + start[1] * scale)
        self.page.mouse.down()
        self.page.mouse.move(left + end[0] * scale, top + end[1] * scale, steps=5)
        self.page.mouse.up()

    def drawn(self) -> None:
        """Wait until the masks of all clicks are on the screen."""
        self.front()
        wait_until(
            self.page,
            """() => {
              const click = theClick().soundingClick;
              return click.editor.state.objects.every((o) => !(o.positive.length || o.box) || click.maskOf(o));
            }""",
        )
        self.page.evaluate(
            """() => Promise.race([
              new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
              new Promise((done) => setTimeout(done, 3000)),
            ])"""
        )

    def picture(self) -> np.ndarray:
        """The screen where the picture is: [H, W, 3] in the picture's own size."""
        left, top, scale = self.frame()
        width, height = self.page.evaluate("() => theClick().soundingClick.editor.size")
        clip = {"x": left, "y": top, "width": width * scale, "height": height * scale}
        shot = Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
        return np.asarray(shot.resize((width, height), Image.Resampling.BILINEAR), np.int32)

    def state(self) -> dict[str, Any]:
        return dict(
            json.loads(self.page.evaluate("() => theClick().widgets.find((w) => w.name === 'state').value") or "{}")
        )

    def points(self) -> list[tuple[int, int, bool]]:
        """Of each object how many points are on it and outside, and whether it has a box."""
        objects = self.state().get("objects", [])
        return [(len(o["positive"]), len(o["negative"]), o["box"] is not None) for o in objects]

    def button(self, name: str) -> Any:
        self.front()
        return self.page.locator(".sounding-click-panel").get_by_role("button", name=name, exact=True)

    def status(self) -> str:
        return str(self.page.locator(".sounding-click-panel .sounding-click-status").text_content())

    def told(self, words: str) -> None:
        """Wait until the line below the picture has those words."""
        said = ".sounding-click-panel .sounding-click-status"
        wait_until(
            self.page, "([said, words]) => document.querySelector(said).textContent.includes(words)", [said, words]
        )

    def latencies(self) -> str:
        return str(
            self.page.evaluate(
                """() => performance.getEntriesByType("measure").filter((m) => m.name.startsWith("sounding-click"))
                  .map((m) => [m.name.slice(15), Math.round(m.duration), m.detail ? `(server ${m.detail.server})` : ""])
                  .map((words) => words.join(" ").trim()).join(", ")"""
            )
        )

    def hear(self, name: str) -> None:
        """Press an object's button and wait until the player has its sound."""
        self.button(f"Hear {name}").click()
        self.shown(name)

    def shown(self, name: str) -> None:
        wait_until(
            self.page,
            """(name) => {
              const panel = document.querySelector(".sounding-click-panel");
              return panel.querySelector('.sounding-click-chip[aria-pressed="true"]')?.textContent === name;
            }""",
            arg=name,
        )

    def silent(self) -> None:
        """Wait until nothing is played any more."""
        wait_until(self.page, "() => !theClick().soundingClick.preview.player.playback.playing")

    def heard(self, name: str | None = None) -> np.ndarray:
        """Samples [T] that are played, or those of one of the player's buttons."""
        self.front()
        if name:
            self.button(f"Play {name}").click()
            self.shown(name)
        return np.asarray(
            self.page.evaluate("() => Array.from(theClick().soundingClick.preview.player.sound.channels[0])"), np.float32
        )

    def run(self, server: Any) -> dict[str, Any]:
        """The whole workflow: its history."""
        self.page.evaluate(
            """() => {
              window.ended = undefined;
              const hear = ({detail}) => (window.ended = detail.prompt_id);
              app.api.addEventListener("execution_success", hear, {once: true});
              app.queuePrompt(0, 1);
            }"""
        )
        entry = server.wait(wait_until(self.page, "() => window.ended").json_value())
        assert entry["status"]["status_str"] == "success", entry["status"]
        return dict(entry)

    def photograph(self, name: str, folder: str | None = os.environ.get("SOUNDING_SCREENSHOTS")) -> None:
        """A picture for the documentation, if they are wanted."""
        if folder:
            box = self.page.locator(".sounding-click-panel").bounding_box()
            clip = {"x": box["x"] - 14, "y": box["y"] - 184, "width": box["width"] + 28, "height": box["height"] + 198}
            shot = Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
            shot.save(Path(folder) / f"{name}.jpg", quality=85)


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with browser() as opened:
        context = opened.new_context(viewport={"width": 1500, "height": 1100})
        context.set_default_timeout(PATIENCE)
        yield context


@pytest.fixture(scope="module")
def tab(context: Any, server: Any) -> Page:
    return Page(context, server)


@pytest.fixture(params=["classic", "nodes 2.0"])
def page(request: pytest.FixtureRequest, tab: Page) -> Iterator[Page]:
    """The tab with the example loaded and nothing clicked."""
    tab.settings(Comfy__VueNodes__Enabled=request.param == "nodes 2.0")
    tab.load()
    tab.button("Remove all objects").click()
    tab.errors.clear()
    yield tab
    assert tab.errors == []


def true_mask(name: str) -> np.ndarray:
    return np.asarray(Image.open(INPUT / f"farm_mask_{name}.png").convert("L")) > 127


def coloured(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after - before).sum(axis=-1) > 40


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_click_shows_the_mask_and_a_second_object_its_own(page: Page):
    page.drawn()
    empty = page.picture()
    page.click(DOG)
    page.drawn()
    dog = page.picture()
    assert iou(coloured(empty, dog), true_mask("dog")) > 0.7
    page.button("+ Object").click()
    page.page.keyboard.type("cow")
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()
    assert iou(coloured(dog, page.picture()), true_mask("cow")) > 0.7
    assert page.points() == [(1, 0, False), (1, 0, False)]
    assert [each["name"] for each in page.state()["objects"]] == ["Object 1", "cow"]
    colours = [each["colour"] for each in page.state()["objects"]]
    assert len(set(colours)) == 2
    assert page.state()["size"] == [512, 384]
    assert "covers" in page.status()
    page.button("Switch off cow").click()
    page.drawn()
    assert coloured(dog, page.picture()).mean() < 0.01
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
    page.page.wait_for_timeout(200)
    box = page.page.locator(STAGE).bounding_box()
    place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.move(*place)
    page.page.mouse.down(button="middle")
    page.page.mouse.move(place[0] + 60, place[1] + 40, steps=3)
    page.page.mouse.up(button="middle")
    assert page.points() == [(1, 0, False)]
    assert page.page.evaluate("() => app.graph.nodes.length") == NODES  # the button's paste did not reach the graph
    page.button("Whole picture").click()
    page.button("Large window").click()
    page.page.wait_for_timeout(300)
    assert page.page.locator(STAGE).bounding_box()["width"] > 800
    page.button("+ Object").click()
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()
    page.button("Close the large window").click()
    page.page.wait_for_timeout(300)
    second = page.state()["objects"][1]["positive"][0]
    np.testing.assert_allclose((second["x"], second["y"]), COW, atol=2)
    page.click(COW)  # the same place in the small picture is that point
    assert page.points() == [(1, 0, False), (0, 0, False)]


def pcm(samples: np.ndarray) -> np.ndarray:
    """16-bit samples as the browser's decoder scales them: both ends of their range are at one."""
    scaled = samples.astype(np.float64) * np.where(samples < 0, 32768, 32767)
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=0.01)
    return np.rint(scaled).astype(np.int32)


def saved(server: Any, entry: dict[str, Any], node: str) -> list[np.ndarray]:
    """16-bit samples of each file of a node."""
    return [np.rint(np.asarray(samples) * 32768).astype(np.int32) for samples, _ in server.sounds(entry)[node]]


def two_objects(page: Page) -> None:
    page.click(DOG)
    page.button("+ Object").click()
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()


PROMPTS = """() => {
  window.prompts = 0;
  window.plainFetch ??= window.fetch;
  window.fetch = (url, options) => {
    if (options?.method === "POST" && String(url).endsWith("/prompt")) window.prompts += 1;
    return window.plainFetch(url, options);
  };
}"""


def test_what_is_heard_is_what_a_run_saves(page: Page, server: Any):
    """One after the other is asked for while the first is being made; both are made once, and are kept."""
    two_objects(page)
    page.page.evaluate(PROMPTS)
    page.button("Hear Object 1").click()
    page.button("Hear Object 2").click()
    page.page.locator(".sounding-click-panel .sounding-click-chip").first.wait_for()
    assert page.page.evaluate("() => window.prompts") == 1
    page.page.locator(".sounding-click-panel .sounding-click-spectrogram").wait_for()
    first, second, mix = (page.heard(name) for name in ("Object 1", "Object 2", "mix"))
    page.photograph("click-and-hear")
    for name in ("Object 2", "Object 1"):
        page.hear(name)
    assert page.page.evaluate("() => window.prompts") == 1
    page.silent()
    entry = page.run(server)
    assert page.page.evaluate("() => window.prompts") == 2
    files = saved(server, entry, TRACKS)
    for heard, file in zip((first, second), files, strict=True):
        assert heard.shape == (16_000,)
        assert np.abs(heard).max() > 0.01
        np.testing.assert_array_equal(pcm(heard), file)
    assert np.abs(mix).max() > 0.01
    page.shown("mix")  # as after every run
    np.testing.assert_array_equal(pcm(page.heard("Object 2")), files[1])
    assert "type=output" in page.page.evaluate("() => theClick().soundingClick.preview.player.sound.url")
    page.hear("Object 1")  # the very file of the run
    np.testing.assert_array_equal(pcm(page.heard()), files[0])
    assert page.page.evaluate("() => window.prompts") == 2


def test_a_gain_moves_what_is_heard(page: Page):
    two_objects(page)
    page.hear("Object 1")
    before = page.heard("Object 1"), page.heard("Object 2")
    gain = page.page.get_by_label("Gain of Object 1 in decibels")
    for value, name, moved in ((-6, "Object 1", -6), (-6, "Object 2", 0), (0, "Object 1", 0)):
        gain.fill(str(value))
        gain.press("Enter")
        gain.blur()
        now = page.heard(name)
        np.testing.assert_allclose(now, before[name == "Object 2"] * 10 ** (moved / 20), atol=1e-6)
    for value in (0, 24):
        gain.fill(str(value))
        gain.blur()
        mix = torch.from_numpy(page.heard("mix").copy())
        assert float(true_peak(mix, 16_000)) <= 10 ** (-1 / 20) * 1.01
        if not value:
            total = torch.from_numpy(before[0] + before[1])
            turned = min(1.0, 10 ** (-1 / 20) / float(true_peak(total, 16_000)))
            np.testing.assert_allclose(mix.numpy(), total.numpy() * turned, atol=2e-4)  # files of 16 bits


def test_a_gain_is_in_what_a_run_saves(page: Page, server: Any):
    two_objects(page)
    before = [file.astype(float) for file in saved(server, page.run(server), TRACKS)]
    gain = page.page.get_by_label("Gain of Object 1 in decibels")
    gain.fill("-6")
    gain.blur()
    assert page.state()["objects"][0]["gain_db"] == -6
    moved = "() => theClick().soundingClick.preview.player.sound && !theClick().soundingClick.preview.player.sound.url"
    wait_until(page.page, moved)  # no file has these gains yet
    entry = page.run(server)
    first, second = saved(server, entry, TRACKS)
    (mix,) = saved(server, entry, WHOLE)
    np.testing.assert_allclose(first, before[0] * 10 ** (-6 / 20), atol=2)
    np.testing.assert_array_equal(second, before[1])
    total = torch.from_numpy((first + second) / 32768)
    ceiling = 10 ** (-1 / 20)
    turned = min(1.0, ceiling / float(true_peak(total, 16_000)))
    np.testing.assert_allclose(mix / 32768, total.numpy() * turned, atol=2e-4)
    assert float(true_peak(torch.from_numpy(mix / 32768), 16_000)) <= ceiling + 1e-3
    wait_until(page.page, "() => theClick().soundingClick.preview.player.sound?.url?.includes('type=output')")
    for name, file in (("Object 1", first), ("Object 2", second), ("mix", mix)):
        np.testing.assert_array_equal(pcm(page.heard(name)), file)


def test_waiting_and_steps_are_told_and_stopped(page: Page, server: Any):
    page.click(DOG)
    page.drawn()
    busy = {"1": {"class_type": "SoundingLoadModel", "inputs": {"checkpoint": "tiny.safetensors", "dtype": "auto"}}}
    picture = {"image": "farm.png"}
    busy |= {"2": {"class_type": "LoadImage", "inputs": picture}, "3": {"class_type": "SolidMask", "inputs": MASK}}
    inputs = {"image": ["2", 0], "mask": ["3", 0], "model": ["1", 0], "seconds": 10, "steps": 900}
    busy["4"] = {"class_type": "SoundingThisObject", "inputs": inputs | {"seed": int.from_bytes(os.urandom(3))}}
    busy["5"] = {"class_type": "PreviewAudio", "inputs": {"audio": ["4", 0]}}
    assert server.queue(busy).status_code == 200
    page.button("Hear Object 1").click()
    page.told("comes first")
    assert page.button("Stop making Object 1").count() == 1
    page.button("Stop making Object 1").click()
    page.told("Stopped")
    assert server.get("/queue").json()["queue_pending"] == []
    assert len(server.get("/queue").json()["queue_running"]) == 1  # not ours: it goes on
    page.button("Hear Object 1").click()
    server.post("/interrupt")
    page.told(" of 4")
    page.page.locator(".sounding-click-panel .sounding-click-chip").wait_for()


def test_an_object_that_is_off_is_heard_alone(page: Page):
    two_objects(page)
    page.button("Switch off Object 2").click()
    page.hear("Object 2")
    assert page.page.locator(".sounding-click-panel .sounding-click-chip").all_text_contents() == ["Object 2"]
    assert np.abs(page.heard()).max() > 0.01
    assert page.state()["objects"][1]["on"] is False


def test_a_double_click_adds_one_point(page: Page):
    left, top, scale = page.frame()
    page.page.mouse.dblclick(left + DOG[0] * scale, top + DOG[1] * scale)
    assert page.points() == [(1, 0, False)]


def test_copies_keep_their_own_clicks(page: Page):
    page.click(DOG)
    before = page.state()
    page.page.evaluate(
        "() => { app.canvas.selectNode(theClick()); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); }"
    )
    copies = """() => app.graph.nodes.filter((n) => n.soundingClick)
      .map((n) => n.widgets.find((w) => w.name === "state").value)"""
    assert [json.loads(text) for text in page.page.evaluate(copies)] == [before, before]
    page.page.evaluate(
        "() => app.graph.nodes.filter((n) => n.soundingClick)[1].soundingClick.editor.addPoint('positive', {x: 5, y: 5})"
    )
    first, second = (json.loads(text) for text in page.page.evaluate(copies))
    assert first == before
    assert len(second["objects"][0]["positive"]) == 2


def test_a_subgraph_keeps_the_clicks(page: Page):
    page.click(DOG)
    before = page.state()
    page.page.evaluate("() => { app.graph.convertToSubgraph(new Set([theClick()])); }")
    workflow = page.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    page.page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)
    sent = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    (click,) = (node for node in sent.values() if node["class_type"] == "SoundingClick")
    assert json.loads(click["inputs"]["state"]) == before


def test_wrong_files_are_refused_and_right_onesshown(page: Page, server: Any, tmp_path: Path):
    page.click(DOG)
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


def test_a_picture_of_another_node_is_shown_after_a_run(page: Page):
    """The run fails since nothing is clicked, and tells so; the picture is there all the same."""
    page.page.evaluate(
        """() => {
          const load = LiteGraph.createNode("LoadImage"), turn = LiteGraph.createNode("ImageInvert");
          app.graph.add(load); app.graph.add(turn);
          load.widgets.find((w) => w.name === "image").value = "dog.png";
          load.connect(0, turn, 0);
          load.connect(0, theClick(), theClick().inputs.findIndex((i) => i.name === "image"));
          window.turn = turn;
        }"""
    )
    wait_until(page.page, "() => theClick().soundingClick.reference?.name === 'dog.png'")
    page.page.evaluate("() => turn.connect(0, theClick(), theClick().inputs.findIndex((i) => i.name === 'image'))")
    wait_until(page.page, "() => !theClick().soundingClick.reference")
    assert "Run the workflow once" in page.page.locator(".sounding-click-hint").text_content()
    page.page.evaluate("() => app.queuePrompt(0, 1)")
    wait_until(page.page, "() => theClick().soundingClick.reference?.type === 'temp'")
    page.page.keyboard.press("Escape")
    page.page.evaluate("() => app.ui?.dialog?.close?.()")


@pytest.fixture
def plain_tab(tab: Page) -> Page:
    tab.settings(Comfy__VueNodes__Enabled=False)
    tab.load()
    return tab


def test_two_tabs_do_not_hear_each_other(context: Any, plain_tab: Page, server: Any):
    second = Page(context, server)
    second.load()
    for each, place in ((plain_tab, DOG), (second, COW)):
        each.button("Remove all objects").click()
        each.click(place)
    for each in (plain_tab, second):
        each.drawn()
        each.button("Hear Object 1").click()
    sources = []
    for each in (plain_tab, second):
        each.page.locator(".sounding-click-panel .sounding-click-chip").wait_for()
        sources.append(each.page.evaluate("() => theClick().soundingClick.preview.player.sound.url"))
    assert sources[0] != sources[1]
    second.page.close()


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


@pytest.fixture(scope="module")
def own_server(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server that may be stopped, and that was told to let pages from elsewhere in."""
    server = start_server("--cpu", "--enable-cors-header", "*")
    yield server
    server.stop()


def test_other_origins_are_let_in_where_the_host_lets_them(own_server: Any):
    (state,) = (node["widgets_values"][1] for node in WORKFLOW["nodes"] if node["type"] == "SoundingClick")
    body = json.dumps({"picture": {"name": "farm.png"}, "state": json.loads(state)})
    for kind, site, status in (("application/json", "cross-site", 200), ("text/plain", "same-origin", 415)):
        headers = {"Content-Type": kind, "Sec-Fetch-Site": site}
        answer = requests.post(own_server.url + "/sounding/click", data=body, headers=headers, timeout=600)
        assert answer.status_code == status, answer.text


def test_a_server_that_comes_back_is_used_again(context: Any, own_server: Any):
    page = Page(context, own_server)
    page.load()
    page.button("Remove all objects").click()
    own_server.stop()
    page.click((DOG[0] + 9, DOG[1] + 9))  # not where the example was clicked: that mask is known
    page.page.locator(".sounding-click-panel .sounding-click-status.error").wait_for()
    assert "does not answer" in page.status()
    own_server.launch()
    own_server.wait_until_up()
    page.drawn()
    wait_until(page.page, "() => !document.querySelector('.sounding-click-panel .sounding-click-status.error')")
    page.hear("Object 1")
    assert np.abs(page.heard()).max() > 0.01
    page.page.close()
