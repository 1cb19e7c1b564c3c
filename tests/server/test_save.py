"""Sounds and soundscapes as files, on the real server; what the real page makes of files that are dropped on it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
import rpp
import soundfile

from .browser import wait_until
from .click_page import Page
from .comfyui import PATIENCE, Graph
from .graphs import COW, DOG, clicked, graph_of, node

pytestmark = pytest.mark.server

TWO = clicked({"name": "dog", "positive": [DOG]}, {"name": "big cow", "positive": [COW], "gain_db": -6})
WORKFLOW = json.loads((Path(__file__).parents[2] / "example_workflows" / "stems.json").read_text())


def saved(**inputs: Any) -> Graph:
    graph = graph_of(TWO)
    del graph["raw"]
    return graph | {"save": node("SoundingSave", audio=["sound", 0], filename_prefix="audio/kept", **inputs)}


def paths(server: Any, entry: dict[str, Any], name: str = "save") -> list[Path]:
    files = entry["outputs"][name]["audio"]
    return [server.folder / "output" / file["subfolder"] / file["filename"] for file in files]


def run_of_page(server: Any, graph: Graph) -> dict[str, Any]:
    """As the page sends it, with the workflow."""
    body = {"prompt": graph, "client_id": "tests", "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
    answer = requests.post(server.url + "/prompt", json=body, timeout=PATIENCE).json()
    return dict(server.wait(answer["prompt_id"]))


def told(path: Path) -> dict[str, str]:
    with av.open(str(path)) as file:
        return {**file.metadata, **file.streams[0].metadata}


@pytest.fixture(scope="module")
def files(server: Any) -> dict[str, list[Path]]:
    """By format: of two sounds with names, each a file."""
    found = {}
    for kind, bits, rate in (("wav", "float", "48000"), ("flac", "24", "44100"), ("ogg", "24", "as it is")):
        graph = saved(format=kind, bits=bits, sample_rate=rate, names=["click", 2])
        found[kind] = paths(server, run_of_page(server, graph))
    return found


def test_each_sound_is_a_file_with_its_name_and_the_graph(files: dict[str, list[Path]]) -> None:
    expected = {"wav": (48_000, "FLOAT"), "flac": (44_100, "PCM_24"), "ogg": (16_000, "VORBIS")}
    for number, (kind, (dog, cow)) in enumerate(files.items(), start=1):  # the host counts files of all endings
        assert [dog.name, cow.name] == [f"kept_{name}_0000{number}_.{kind}" for name in ("dog", "big_cow")]
        for path, name in ((dog, "dog"), (cow, "big cow")):
            info = soundfile.info(path)
            assert (info.samplerate, info.subtype) == expected[kind]
            assert info.frames == round(0.7 * info.samplerate)
            metadata = told(path)
            assert metadata["title"] == name
            found = json.loads(metadata["comment"]) if kind == "wav" else metadata
            graph = {key: found[key] if kind == "wav" else json.loads(found[key]) for key in ("workflow", "prompt")}
            assert graph["workflow"] == WORKFLOW
            assert graph["prompt"]["save"]["inputs"]["format"] == kind


def test_nothing_is_overwritten(server: Any, files: dict[str, list[Path]]) -> None:
    before = files["wav"][0].read_bytes()
    again = paths(server, server.run(saved(format="wav", names="dog\nbig cow", bits="16")))
    assert again[0].name == "kept_dog_00004_.wav"
    assert files["wav"][0].read_bytes() == before
    assert "comment" not in told(again[0]) or "workflow" not in told(again[0])["comment"]


def test_a_graph_that_no_flac_file_takes_is_refused_before_the_sound_is_made(server: Any) -> None:
    answer = server.queue(saved(format="flac", names="x" * 2**24))
    entry = server.wait(answer.json()["prompt_id"])
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert "but a FLAC file takes at most 16777215; save as WAV or OGG" in error["exception_message"]
    assert "sound" not in error["executed"]


DROP = """async ([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, {type}));
  app.graph.clear();
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
}"""


SHOW = """(saved) => {
  const node = app.graph.nodes.find((each) => each.type === "SoundingSave");
  window.player = () => node.widgets.find((each) => each.name === "player").element;
  window.chips = () => [...player().querySelectorAll(".sounding-click-chip")];
  node.onExecuted({ sounding_saved: saved });
}"""


def test_files_dropped_on_the_page_bring_the_graph_back_and_the_node_plays_them(
    plain_tab: Page, files: dict[str, list[Path]]
) -> None:
    """FLAC and OGG; the page knows no metadata of WAV files and takes them for nothing."""
    page = plain_tab.page
    types = sorted(each["type"] for each in WORKFLOW["nodes"])
    for kind, mime in (("wav", "audio/wav"), ("flac", "audio/flac"), ("ogg", "audio/ogg")):
        path = files[kind][0]
        page.evaluate(DROP, [path.name, mime, base64.b64encode(path.read_bytes()).decode()])
        if kind == "wav":
            page.wait_for_timeout(1000)
            assert page.evaluate("() => app.graph.nodes.length") in (0, 1)  # newer pages load it into a node
            continue
        wait_until(page, "(count) => app.graph.nodes.length === count", len(types))
        assert sorted(page.evaluate("() => app.graph.nodes.map((each) => each.type)")) == types
    # The node plays each file that it has saved, and no mix of them.
    shown = [
        {"filename": path.name, "subfolder": "audio", "type": "output", "name": path.name}
        for paths in files.values()
        for path in paths
    ]
    page.evaluate(SHOW, shown)
    wait_until(
        page,
        "(names) => String(chips().map((chip) => chip.textContent)) === String(names)",
        [each["name"] for each in shown],
    )
    for number in range(len(shown)):
        page.evaluate("(number) => chips()[number].click()", number)
        wait_until(page, "(number) => chips()[number].getAttribute('aria-pressed') === 'true'", number)
        assert page.evaluate("() => player().querySelector('.sounding-click-time').textContent").endswith("/ 0.7 s")


@pytest.mark.parametrize("kind", ["dry", "placed"])
def test_stems_of_a_scene(server: Any, kind: str) -> None:
    graph = graph_of(TWO, seed=21) | {
        "scene": node(
            "SoundingSoundscape",
            audio=["sound", 0],
            mask=["click", 1],
            gains=["click", 3],
            offsets="0, 0.5",
            distance=0.0,
        ),
        "mix": node("SaveAudio", audio=["scene", 1], filename_prefix="mix"),
        "stems": node(
            "SoundingSaveStems",
            scene=["scene", 2],
            filename_prefix=f"audio/{kind}",
            format="wav",
            bits="float",
            stems=kind,
            names=["click", 2],
        ),
    }
    entry = server.run(graph)
    dog, cow, mix = paths(server, entry, "stems")
    assert dog.parent == server.folder / "output" / "audio" / f"{kind}_00001_"
    assert [dog.name, cow.name, mix.name] == ["01_dog.wav", "02_big_cow.wav", "mix.wav"]
    listed = json.loads((dog.parent / "stems.json").read_text())
    assert [each["seed"] for each in listed["stems"]] == [21, 22]
    assert [each["gain_db"] for each in listed["stems"]] == [0, -6]
    assert [each["offset"] for each in listed["stems"]] == [0, 0.5]
    assert [each["mask_size"] for each in listed["stems"]] == [[512, 384]] * 2
    for each, (x, y) in zip(listed["stems"], ((DOG["x"], DOG["y"]), (COW["x"], COW["y"])), strict=True):
        left, top, right, bottom = each["box"]
        assert left < x < right
        assert top < y < bottom
    session = rpp.loads((dog.parent / "session.rpp").read_text())
    assert [track.find("NAME")[1] for track in session.findall(".//TRACK")] == ["dog", "big cow"]
    assert [float(item.find("POSITION")[1]) for item in session.findall(".//ITEM")] == [0, 0.5]
    sounds = server.sounds(entry)
    raw = sounds["raw"][0][0]
    stem = soundfile.read(dog)[0]
    assert stem.ndim == (1 if kind == "dry" else 2)
    np.testing.assert_allclose(
        stem if kind == "dry" else np.sqrt((stem**2).sum(axis=1)), np.abs(raw) if kind != "dry" else raw, atol=2**-14
    )
    np.testing.assert_allclose(soundfile.read(mix)[0], sounds["mix"][0][0], atol=2**-14)
    assert paths(server, server.run(graph | {"click": graph["click"]}), "raw")
    assert (dog.parent.parent / f"{kind}_00002_").exists() is False  # the host keeps what has not changed


def test_stems_know_the_seed_of_the_sampler(server: Any, tiny_graph: Any) -> None:
    """It goes with the latent, the spectrogram and the sound."""
    graph = tiny_graph("text_grounded", seed=5) | {
        "all": node("SolidMask", value=1.0, width=64, height=64),
        "quieter": node("SoundingIntensity", audio=["9", 0], curve="0:0.5"),
        "scene": node("SoundingSoundscape", audio=["quieter", 0], mask=["all", 0]),
        "stems": node("SoundingSaveStems", scene=["scene", 2], filename_prefix="audio/sampled"),
    }
    stem, _ = paths(server, server.run(graph), "stems")
    assert [each["seed"] for each in json.loads((stem.parent / "stems.json").read_text())["stems"]] == [5]


def test_variants_of_one_sound(server: Any) -> None:
    def sounds(**inputs: Any) -> list[np.ndarray]:
        return [sound for sound, _ in server.sounds(server.run(graph_of(TWO, **inputs)))["raw"]]

    own = sounds()
    near, far = sounds(variation="0, 5", variation_strength=0.2), sounds(variation="4", variation_strength=1.0)
    np.testing.assert_array_equal(near[0], own[0])
    np.testing.assert_array_equal(sounds(variation="9, 5", variation_strength=0.2)[1], near[1])
    assert 0 < np.abs(near[1] - own[1]).mean() < np.abs(far[1] - own[1]).mean()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "names": ({"names": "a\nb\nc"}, "There are 3 names for 2 sounds"),
    "format": ({"format": "mp3"}, "mp3"),
    "float in flac": ({"format": "flac", "bits": "float"}, "FLAC files keep 16 or 24 bits"),
    "rate": ({"sample_rate": "12345"}, "12345"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_sentence(server: Any, case: str) -> None:
    inputs, words = WRONG[case]
    said = server.error(saved(**inputs))
    assert words in said


@pytest.mark.parametrize("value", ["1, 2, 3", "-1", "a", "1.5", str(2**64)])
def test_variations_that_do_not_fit_are_named(server: Any, value: str) -> None:
    assert "variation" in server.error(graph_of(TWO, variation=value))
