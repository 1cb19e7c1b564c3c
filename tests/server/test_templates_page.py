"""Templates in a real Chromium: from a server that has none of their images to sounds, by one click each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sounding.audio.seams import change_at

from .browser import open_page, wait_until
from .graphs import OTHER_MODELS

pytestmark = pytest.mark.server

WORKFLOWS = Path(__file__).parent.parent.parent / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
READY = """() => window.app?.graph && window.LiteGraph?.registered_node_types.SoundingClick
  && app.extensionManager?.setting"""
SHORT = """() => {
  const values = {seconds: 0.5, steps: 2, start: 0.1, end: 0.3};
  for (const node of app.graph.nodes) for (const widget of node.widgets ?? []) {
    if (widget.name in values) widget.value = values[widget.name];
  }
}"""
# As the page's dialog opens one.
OPEN = """async (name) => {
  const workflow = await (await app.api.fetchApi(`/workflow_templates/sounding-objects/${name}.json`)).json();
  await app.loadGraphData(workflow, true, true, name, {openSource: "template"});
}"""
RUN = """() => {
  window.ended = undefined;
  for (const kind of ["execution_success", "execution_error"]) {
    app.api.addEventListener(kind, ({detail}) => (window.ended ??= detail.prompt_id), {once: true});
  }
  app.queuePrompt(0, 1);
}"""
SHOWN = """() => app.graph.nodes.every((node) => {
  const widget = node.widgets?.find((each) => each.name === "image");
  if (node.soundingClick) return node.soundingClick.image;
  return !node.type.startsWith("LoadImage") || (node.imgs?.length && widget.options.values.includes(widget.value));
})"""
# Where nodes are as they are rendered, by the number of each: left, top, width, height in units of the graph.
RECTANGLES = """(vue) => {
  const {scale} = app.canvas.ds;
  return app.graph.nodes.map((node) => {
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    if (!vue) return [node.id, node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title];
    const box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    return box && [node.id, box.left / scale, box.top / scale, box.width / scale, box.height / scale];
  });
}"""
KNOWN = {"Comfy.TutorialCompleted": True, "Comfy.EnableTooltips": False, "Comfy.VueNodes.Enabled": False}


@pytest.fixture(scope="module")
def bare_server(server: Any) -> Iterator[Any]:
    """The server with nothing in its input folder, until these tests end."""
    folder, aside = server.folder / "input", server.folder / "input of other tests"
    folder.rename(aside)
    folder.mkdir()
    server.post("/settings", KNOWN)
    yield server
    shutil.rmtree(folder)
    aside.rename(folder)


@pytest.fixture(scope="module")
def page(chromium: Any, bare_server: Any) -> Iterator[Any]:
    """Opened once, which takes seconds."""
    page = opened(chromium, bare_server)
    yield page
    page.close()


def empty(server: Any) -> None:
    shutil.rmtree(server.folder / "input")
    (server.folder / "input").mkdir()


def opened(chromium: Any, server: Any) -> Any:
    page = open_page(chromium, server.url)
    wait_until(page, READY)
    return page


def run(page: Any, server: Any) -> dict[str, Any]:
    page.evaluate(RUN)
    entry = server.wait(wait_until(page, "() => window.ended").json_value())
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return dict(entry)


def test_the_dialog_lists_them_by_the_packs_name_the_first_to_try_first(page, bare_server):
    """From there to a sound without a file manager."""
    empty(bare_server)
    page.evaluate("() => { app.extensionManager.command.execute('Comfy.BrowseTemplates'); }")
    page.get_by_text("Sounding Objects", exact=True).first.click()
    card = page.locator("[data-testid^='template-workflow-']").and_(
        page.locator(",".join(f"[data-testid$='-{name}']" for name in NAMES))
    )
    card.first.wait_for()
    assert card.first.get_attribute("data-testid") == "template-workflow-click_and_hear"
    card.first.click()
    wait_until(page, "() => app.graph.nodes.some((node) => node.soundingClick?.image)")
    assert [path.name for path in (bare_server.folder / "input").iterdir() if path.is_file()] == ["farm.png"]
    page.evaluate(SHORT)
    for sounds in bare_server.sounds(run(page, bare_server)).values():
        assert all(np.abs(samples).max() > 0.003 for samples, _ in sounds)


def test_each_opens_whole_and_runs_where_no_image_was(page, bare_server):
    for name in NAMES:
        empty(bare_server)
        page.evaluate(OPEN, name)
        wait_until(page, SHOWN)
        if name in OTHER_MODELS:
            continue
        page.evaluate(SHORT)
        sounds = bare_server.sounds(run(page, bare_server))
        assert sounds, name
        assert all(samples.size for files in sounds.values() for samples, _ in files), name
        assert page.evaluate("() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)") == []


HEARD = """() => {
  window.sources = [];
  const { createBufferSource } = AudioContext.prototype;
  AudioContext.prototype.createBufferSource = function () {
    const source = createBufferSource.call(this);
    window.sources.push(source);
    return source;
  };
  const save = app.graph.nodes.find((node) => node.type === "SoundingSave");
  window.player = save.widgets.find((widget) => widget.name === "player").element;
}"""
PLAY = """() => {
  player.querySelector("[aria-label=Repeat]").click();
  player.querySelector(".sounding-click-chip").click();
}"""
BEYOND = """() => sources[0]?.loop && sources[0].context.currentTime > 1.3 * sources[0].buffer.duration
  && player.querySelector("[aria-label=Stop]") && true"""
# What comes out of a source like the one that plays, over three times its length.
THRICE = """async () => {
  const [{ buffer, loop, loopStart, loopEnd }] = sources;
  const context = new OfflineAudioContext(1, 3 * buffer.length, buffer.sampleRate);
  const source = Object.assign(context.createBufferSource(), { buffer, loop, loopStart, loopEnd });
  source.connect(context.destination);
  source.start();
  return Array.from((await context.startRendering()).getChannelData(0));
}"""


def test_the_page_repeats_a_loop_without_a_click(chromium, bare_server):
    """What is played is the file, and across its seam it changes as it does within."""
    empty(bare_server)
    page = opened(chromium, bare_server)
    page.evaluate(OPEN, "loop")
    wait_until(page, SHOWN)
    page.evaluate("() => { app.graph.nodes.find(({type}) => type === 'SoundingThisObject').widgets[0].value = 2; }")
    page.evaluate("() => { app.graph.nodes.find(({type}) => type === 'SoundingThisObject').widgets[3].value = 8; }")
    page.evaluate(HEARD)
    ((file, rate),) = bare_server.sounds(run(page, bare_server))["4"]
    wait_until(page, "() => player.querySelector('.sounding-click-chip')")
    page.evaluate(PLAY)
    wait_until(page, BEYOND)
    heard = np.asarray(page.evaluate(THRICE), np.float32)
    assert rate == 16_000
    assert len(file) == 2 * rate
    np.testing.assert_allclose(heard, np.tile(file, 3), atol=2**-20)  # 24 bits, scaled by the browser
    seams = [len(file), 2 * len(file)]
    for seam, other in (seams, seams[::-1]):
        assert change_at(torch.from_numpy(heard), rate, seam, others=[other]).smooth
    page.evaluate("() => player.querySelector('[aria-label=Repeat]').click()")
    wait_until(page, "() => player.querySelector('[aria-label=Play]')")  # it plays to its end
    page.close()


def test_a_persons_own_file_of_the_same_name_stays(page, bare_server):
    """The example's image comes beside it, and what is saved later is a workflow like any other."""
    empty(bare_server)
    own = bare_server.folder / "input" / "dog.webp"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(own)
    before = own.read_bytes()
    names = []
    for _ in range(2):
        page.evaluate(OPEN, "one_object")
        wait_until(page, SHOWN)
        names.append(page.evaluate("() => app.graph.nodes.find((node) => node.type === 'LoadImage').widgets[0].value"))
    assert own.read_bytes() == before
    assert names[0] == names[1] != "dog.webp"
    assert (bare_server.folder / "input" / names[0]).read_bytes() == (WORKFLOWS / "input" / "dog.webp").read_bytes()
    assert len([path for path in (bare_server.folder / "input").iterdir() if path.is_file()]) == 2
    saved = page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    assert "sounding_pictures" not in saved["extra"]
    saved["nodes"] = [node for node in saved["nodes"] if node["type"] == "LoadImage"]
    saved["nodes"][0] |= {"widgets_values": ["dog.webp", "image"]}
    saved["links"] = []
    for slot in saved["nodes"][0]["outputs"]:
        slot["links"] = []
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", saved)
    assert page.evaluate("() => app.graph.nodes[0].widgets[0].value") == "dog.webp"


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes 2.0"])
def test_no_nodes_lie_on_each_other(request, chromium, bare_server, vue):
    bare_server.post("/settings", {"Comfy.VueNodes.Enabled": vue})
    page = opened(chromium, bare_server) if vue else request.getfixturevalue("page")
    for name in NAMES:
        page.evaluate(OPEN, name)
        wait_until(page, SHOWN)
        wait_until(page, f"() => ({RECTANGLES})({json.dumps(vue)}).every((each) => each?.[4] > 0)")
        page.wait_for_timeout(500)
        nodes = page.evaluate(RECTANGLES, vue)
        assert len(nodes) >= 5
        for i, (first, left, top, width, height) in enumerate(nodes):
            for second, other, above, wide, high in nodes[:i]:
                across = min(left + width, other + wide) - max(left, other)
                down = min(top + height, above + high) - max(top, above)
                assert min(across, down) <= 0, f"{name}: {first} and {second} overlap by {across:.0f} x {down:.0f}"
    if vue:
        page.close()
    bare_server.post("/settings", KNOWN)
