"""Hearing objects in the click node, in a real Chromium: what is played is what a run saves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sounding.audio.loudness import true_peak

from .browser import wait_until
from .click_page import COW, DOG, ROOT, Page, two_objects

pytestmark = pytest.mark.server


TRACKS, WHOLE = "3", "7"  # the nodes of the example that save the tracks and their mix


MASK = {"value": 1.0, "width": 512, "height": 384}


@pytest.fixture(scope="module")
def tab(context: Any, server: Any) -> Iterator[Page]:
    """A page of its own, since these tests put themselves between it and the server."""
    page = Page(context, server)
    yield page
    page.page.close()


def pcm(samples: np.ndarray) -> np.ndarray:
    """16-bit samples as the browser's decoder scales them: both ends of their range are at one."""
    scaled = samples.astype(np.float64) * np.where(samples < 0, 32768, 32767)
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=0.01)
    return np.rint(scaled).astype(np.int32)


def saved(server: Any, entry: dict[str, Any], node: str) -> list[np.ndarray]:
    """16-bit samples of each file of a node."""
    return [np.rint(np.asarray(samples) * 32768).astype(np.int32) for samples, _ in server.sounds(entry)[node]]


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


HELD = """() => {
  window.held = [];
  window.quickFetch ??= window.fetch;
  const isSound = (url) => String(url).includes("/view?") && String(url).includes(".flac");
  window.fetch = (url, options) => {
    if (!isSound(url)) return window.quickFetch(url, options);
    return new Promise((resolve) => window.held.push(resolve)).then(() => window.quickFetch(url, options));
  };
}"""
RELEASED = """() => {
  window.fetch = window.quickFetch;
  for (const go of window.held) go();
}"""


def test_the_last_sound_asked_for_is_the_one_that_plays(page: Page):
    """Another one is asked for while the samples of the first are on their way."""
    two_objects(page)
    page.page.evaluate(HELD)
    page.page.evaluate(COUNTED)
    page.button("Hear Object 1").click()
    page.told("Made: Object 1, Object 2")
    before = page.page.evaluate("() => window.held.length")
    page.button("Hear Object 2").click()
    wait_until(page.page, "(before) => window.held.length > before", before)
    page.page.evaluate(RELEASED)
    page.shown("Object 2")
    wait_until(page.page, "() => theClick().soundingClick.preview.player.plays(1)")
    page.silent()
    assert page.page.evaluate("() => window.plays") == 1


COUNTED = """() => {
  window.plays = 0;
  const { playback } = theClick().soundingClick.preview.player;
  playback.play = function (...where) {
    window.plays += 1;
    return Object.getPrototypeOf(this).play.apply(this, where);
  };
}"""
LATE = """() => {
  const plain = window.fetch;
  const late = new Promise((resolve) => (window.answer = resolve));
  window.fetch = async (url, options) => {
    const response = await plain(url, options);
    if (options?.method === "POST" && String(url).endsWith("/prompt")) await late;
    return response;
  };
  window.ended = undefined;
  app.api.addEventListener("execution_success", ({detail}) => (window.ended = detail.prompt_id));
}"""


def test_a_run_may_end_before_the_host_has_answered_what_queued_it(page: Page, server: Any):
    """It is not taken for a run of the page, which would show its mix."""
    two_objects(page)
    page.page.evaluate(LATE)
    page.button("Hear Object 1").click()
    server.wait(wait_until(page.page, "() => window.ended").json_value())
    page.page.wait_for_timeout(1000)
    assert page.page.locator(".sounding-click-panel .sounding-click-chip").count() == 0
    page.page.evaluate("() => window.answer()")
    page.shown("Object 1")
    page.told("Made: Object 1, Object 2")


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


SOUNDSCAPE = json.loads((ROOT / "example_workflows" / "soundscape.json").read_text())
CHANNELS = "() => theClick().soundingClick.preview.player.sound.channels.map((samples) => Array.from(samples))"
IN_THE_MIDDLE = """() => {
  const [left, right] = theClick().soundingClick.preview.player.sound.channels;
  return left.every((sample, i) => sample === right[i]);
}"""
WIDTH = """(width) => {
  const { widgets } = app.graph.nodes.find((node) => node.type === "SoundingSoundscape");
  widgets.find((widget) => widget.name === "width").value = width;
}"""


def test_a_soundscape_is_heard_in_stereo(page: Page, server: Any):
    """What is heard is what a run saves: four tracks at their places, each alone, and their mix."""
    page.load(SOUNDSCAPE)
    page.drawn()
    page.page.evaluate(PROMPTS)

    def stereo(name: str) -> np.ndarray:
        page.heard(name)
        return np.asarray(page.page.evaluate(CHANNELS), np.float32)

    page.hear("dog")
    tracks, mix = [stereo(name) for name in ("dog", "crow", "fire truck", "hen")], stereo("mix")
    for sound, near in zip(tracks, (0, 0, 1, 1), strict=True):  # seen left, left, right and right
        assert np.abs(sound[near]).max() > 1.3 * np.abs(sound[1 - near]).max()
    page.photograph("soundscape")
    assert page.page.evaluate("() => window.prompts") == 1
    entry = page.run(server)
    files = [np.asarray(sound).T for sound, _ in server.sounds(entry)[TRACKS]]
    (whole,) = (np.asarray(sound).T for sound, _ in server.sounds(entry)[WHOLE])
    for heard, file in zip((*tracks, mix), (*files, whole), strict=True):
        np.testing.assert_allclose(heard, file, atol=2**-15)
    gain = page.page.get_by_label("Gain of dog in decibels")
    gain.fill("-6")
    gain.blur()
    np.testing.assert_allclose(stereo("dog"), tracks[0] * 10 ** (-6 / 20), atol=2**-14)
    assert page.page.evaluate("() => window.prompts") == 2
    page.page.evaluate(WIDTH, 0)
    page.hear("dog")
    wait_until(page.page, IN_THE_MIDDLE)
    assert page.page.evaluate("() => window.prompts") == 3


TAKES = """() => {
  const sound = app.graph.nodes.find((node) => node.type === "SoundingThisObject");
  theClick().connect(6, sound, sound.inputs.findIndex((input) => input.name === "variation"));
}"""


def test_takes_are_heard_and_the_picked_one_is_what_a_run_saves(page: Page, server: Any):
    """A take that was heard before is there without a run; an object's takes change no other object's sound."""
    two_objects(page)
    take = page.page.get_by_label("Take of Object 1")
    assert not take.is_visible()  # nothing takes them
    page.page.evaluate(TAKES)
    page.page.evaluate(PROMPTS)

    def pick(number: int) -> np.ndarray:
        page.page.evaluate("() => { window.before = theClick().soundingClick.preview.player.sound; }")
        take.fill(str(number))
        take.blur()
        wait_until(
            page.page,
            """() => {
              const { player } = theClick().soundingClick.preview;
              return player.sound && player.sound !== window.before;
            }""",
        )
        page.shown("Object 1")
        return page.heard("Object 1")

    page.hear("Object 1")
    own, other = page.heard("Object 1"), page.heard("Object 2")
    first, second = pick(1), pick(2)
    assert page.page.evaluate("() => window.prompts") == 3
    assert len({own.tobytes(), first.tobytes(), second.tobytes()}) == 3
    np.testing.assert_array_equal(pick(1), first)
    np.testing.assert_allclose(page.heard("Object 2"), other, atol=2**-14)  # files of 16 bits
    assert page.page.evaluate("() => window.prompts") == 3
    assert [each.get("take", 0) for each in page.state()["objects"]] == [1, 0]
    files = saved(server, page.run(server), TRACKS)
    np.testing.assert_array_equal(pcm(first), files[0])
    np.testing.assert_allclose(pcm(other), files[1], atol=2)


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
    image = {"image": "farm.png"}
    busy |= {"2": {"class_type": "LoadImage", "inputs": image}, "3": {"class_type": "SolidMask", "inputs": MASK}}
    inputs = {"image": ["2", 0], "mask": ["3", 0], "model": ["1", 0], "seconds": 10, "steps": 900}
    busy["4"] = {"class_type": "SoundingThisObject", "inputs": inputs | {"seed": int.from_bytes(os.urandom(3))}}
    busy["5"] = {"class_type": "PreviewAudio", "inputs": {"audio": ["4", 0]}}
    assert server.queue(busy).status_code == 200
    page.button("Hear dog").click()
    page.told("comes first")
    assert page.button("Stop making dog").count() == 1
    page.button("Stop making dog").click()
    page.told("Stopped")
    assert server.get("/queue").json()["queue_pending"] == []
    assert len(server.get("/queue").json()["queue_running"]) == 1  # not ours: it goes on
    page.button("Hear dog").click()
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


def test_two_tabs_do_not_hear_each_other(context: Any, plain_tab: Page, server: Any):
    second = Page(context, server)
    second.load()
    for each, place in ((plain_tab, DOG), (second, COW)):
        each.button("Remove all objects").click()
        each.click(place)
    for each in (plain_tab, second):
        each.drawn()
        each.rename(1, "Object 1")
        each.button("Hear Object 1").click()
    sources = []
    for each in (plain_tab, second):
        each.page.locator(".sounding-click-panel .sounding-click-chip").wait_for()
        sources.append(each.page.evaluate("() => theClick().soundingClick.preview.player.sound.url"))
    assert sources[0] != sources[1]
    second.page.close()
