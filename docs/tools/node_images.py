"""Screenshots of the nodes for their help pages: the real page, with a part of an example workflow after its run."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from sounding.utils.files import write_atomic

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "web" / "docs" / "images"
WIDTH = 720  # pixels; the help panel is narrow, and all images are installed with the pack

# Node -> example workflow, and which of its nodes are shown together.
SHOWN: dict[str, tuple[str, tuple[int, ...]]] = {
    "SoundingThisObject": ("one_object", (1, 2, 3, 4)),
    "SoundingLoadModel": ("text_grounded", (1, 3, 6)),
    "SoundingEncodeImage": ("text_grounded", (2, 3, 4)),
    "SoundingGroundMask": ("batch_of_seeds", (2, 3, 4)),
    "SoundingGroundText": ("text_grounded", (3, 4, 5)),
    "SoundingEmptyLatent": ("text_grounded", (6, 7)),
    "SoundingSampler": ("text_grounded", (4, 6, 7, 8)),
    "SoundingDecode": ("text_grounded", (7, 8, 10)),
    "SoundingVocode": ("text_grounded", (8, 9, 11)),
    "SoundingEncodeAudio": ("vary_a_sound", (5, 7, 10)),
    "SoundingNative": ("native_sampling", (5, 6, 7, 8)),
    "SoundingClick": ("click_and_hear", (1, 2)),
    "SoundingNameObject": ("click_to_stable_audio", (1, 2)),
    "SoundingMixTracks": ("click_and_hear", (2, 6)),
    "SoundingSoundscape": ("soundscape", (2, 6)),
    "SoundingLoadSam": ("points_to_mask", (1, 3)),
    "SoundingSamMask": ("points_to_mask", (1, 2, 3, 4)),
}

LOAD = """async (workflow) => {
  const app = window.app;
  await app.loadGraphData(workflow);
  const ended = new Promise((resolve, reject) => {
    app.api.addEventListener('execution_success', () => resolve());
    app.api.addEventListener('execution_error', (event) => reject(new Error(JSON.stringify(event.detail))));
  });
  await app.queuePrompt(0, 1);
  await ended;
}"""
FRAME = """(shown) => {
  const app = window.app, nodes = shown.map((id) => app.graph.getNodeById(id));
  for (const node of [...app.graph._nodes]) if (!nodes.includes(node)) app.graph.remove(node);
  for (const group of [...app.graph._groups]) app.graph.remove(group);
  const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1])) - 30;
  const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
  const bottom = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
  app.canvas.deselectAll?.();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [200 - left, 200 - top];
  app.canvas.setDirty(true, true);
  const area = app.canvas.canvas.getBoundingClientRect(), edge = 24;
  return {x: area.left + 200 - edge, y: area.top + 200 - edge,
          width: right - left + 2 * edge, height: bottom - top + 2 * edge};
}"""
# Whatever lies over the graph: dialogs, bars, the minimap.
HIDE = """.p-dialog-mask, .p-toast, .p-popover, .side-tool-bar-container, .graph-canvas-panel, .comfyui-menu,
.p-message, .minimap-main-container, .p-buttongroup, .actionbar, .selection-toolbox { display: none !important }"""


def chromium() -> str:
    """The browser's program.

    Raises:
        FileNotFoundError: it is not installed.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("No chromium is on PATH; install one (Debian: apt-get install chromium).")


def write_all(url: str, names: list[str] | None = None) -> None:
    """Take screenshots of all nodes, or of `names`, on a server with the example images in its input folder."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 2400, "height": 1500})
        page.goto(url, wait_until="domcontentloaded", timeout=300_000)
        page.wait_for_function(
            "() => window.app?.graph && window.LiteGraph?.registered_node_types.SoundingSampler", timeout=300_000
        )
        page.add_style_tag(content=HIDE)
        for name in SHOWN if names is None else names:
            workflow, shown = SHOWN[name]
            write_atomic(IMAGES / f"{name}.webp", take(page, workflow, shown))
        browser.close()


def take(page: Page, workflow: str, shown: tuple[int, ...]) -> bytes:
    """A JPEG of some nodes of a workflow."""
    page.set_default_timeout(1_800_000)
    page.evaluate(LOAD, json.loads((ROOT / "example_workflows" / f"{workflow}.json").read_text()))
    page.wait_for_timeout(3000)  # images arrive after the run's end
    clip = page.evaluate(FRAME, list(shown))
    page.wait_for_timeout(1500)
    taken = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    if taken.width > WIDTH:
        taken = taken.resize((WIDTH, round(taken.height * WIDTH / taken.width)), Image.Resampling.LANCZOS)
    return as_webp(taken)


def as_webp(image: Image.Image) -> bytes:
    """An image as the documentation has it: small, since every clone gets every version."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=6)
    return buffer.getvalue()


def as_jpeg(image: Image.Image) -> bytes:
    """Likewise a thumbnail: the host's dialog shows no other format."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=58, optimize=True, progressive=True)
    return buffer.getvalue()
