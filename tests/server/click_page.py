"""One tab of a browser with the click node, and what people do with it as methods.

With SOUNDING_SCREENSHOTS=FOLDER the images of the documentation are written there.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .browser import open_page, wait_until

ROOT = Path(__file__).parent.parent.parent


WORKFLOW = json.loads((ROOT / "example_workflows" / "click_and_hear.json").read_text())


NODES = len(WORKFLOW["nodes"])


STAGE = "canvas.sounding-click-stage"


DOG, COW = (140, 190), (340, 225)


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
        self.settled()

    def settled(self) -> None:
        """Wait until the image has stayed where it is for a moment: the page lays nodes out in several steps."""
        self.page.evaluate("() => { window.lastPlace = undefined; }")
        wait_until(
            self.page,
            """(stage) => {
              const {x, y, width, height} = document.querySelector(stage).getBoundingClientRect();
              const place = [x, y, width, height].join(" ");
              if (window.lastPlace !== place) Object.assign(window, {lastPlace: place, placedAt: performance.now()});
              return width > 0 && performance.now() - window.placedAt > 400;
            }""",
            arg=STAGE,
        )

    def frame(self) -> tuple[float, float, float]:
        """Left and top of the image on the screen, and screen pixels per pixel of it."""
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

    def image(self) -> np.ndarray:
        """The screen where the image is: [H, W, 3] in the image's own size."""
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
        """Wait until the line below the image has those words."""
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

    def name(self, number: int) -> Any:
        """The field with an object's name."""
        return self.page.get_by_label(f"Name of object {number}")

    def rename(self, number: int, name: str) -> None:
        self.name(number).fill(name)
        self.name(number).press("Enter")

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
            self.page.evaluate("() => Array.from(theClick().soundingClick.preview.player.sound.channels[0])"),
            np.float32,
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
        """Write an image for the documentation, if they are wanted."""
        if folder:
            box = self.page.locator(".sounding-click-panel").bounding_box()
            clip = {"x": box["x"] - 14, "y": box["y"] - 184, "width": box["width"] + 28, "height": box["height"] + 198}
            shot = Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
            shot.save(Path(folder) / f"{name}.webp", quality=80, method=6)


def two_objects(page: Page) -> None:
    """A dog and a cow, under names that do not depend on what the node finds."""
    page.click(DOG)
    page.button("+ Object").click()
    page.page.keyboard.press("Enter")
    page.click(COW)
    page.drawn()
    for number in (1, 2):
        page.rename(number, f"Object {number}")
