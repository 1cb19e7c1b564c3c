"""Blueprints: listed by the host, whole, and run by the real page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .browser import wait_until
from .click_page import Page
from .graphs import COW, DOG, clicked, graph_of, node

pytestmark = pytest.mark.server

SUBGRAPHS = Path(__file__).parents[2] / "subgraphs"
NAMES = sorted(path.stem for path in SUBGRAPHS.glob("*.json"))
# Again where the page has put its own first graph in the place of this one meanwhile.
QUEUED = """async (blueprint) => {
  await app.loadGraphData(blueprint);
  const { output } = await app.graphToPrompt();
  const wanted = blueprint.definitions.subgraphs[0].nodes.map((node) => node.type).sort();
  return String(Object.values(output).map((node) => node.class_type).sort()) === String(wanted) && output;
}"""


def listed(server: Any) -> dict[str, dict[str, Any]]:
    """The pack's blueprints as the host hands them out, by their names."""
    entries = server.get("/global_subgraphs").json()
    ours = {entry["name"]: key for key, entry in entries.items()
            if entry["info"]["node_pack"] == "custom_nodes.sounding-objects"}  # fmt: skip
    return {name: json.loads(server.get(f"/global_subgraphs/{key}").json()["data"]) for name, key in ours.items()}


@pytest.fixture
def page(plain_tab: Page) -> Any:
    return plain_tab.page


def sent(page: Any, blueprint: dict[str, Any]) -> dict[str, Any]:
    """What the page queues of a graph with a blueprint alone."""
    graph = wait_until(page, QUEUED, blueprint).json_value()
    assert page.evaluate("() => app.graph.nodes.filter((node) => node.has_errors).length") == 0
    return dict(graph)


def the(graph: dict[str, Any], kind: str) -> str:
    """The id of the one node of a type."""
    (found,) = (key for key, each in graph.items() if each["class_type"] == kind)
    return found


def test_the_host_lists_them(server):
    assert list(sorted(listed(server))) == NAMES == ["Name and Prompt", "Name and Sound", "Sound Each Object"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_sound(server, object_info, name):
    blueprint = listed(server)[name]
    (top,), (inner,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert top["type"] == inner["id"]
    assert top["title"] == inner["name"] == name
    for side in ("inputs", "outputs"):
        assert [(each["name"], each["type"]) for each in top[side]] == [(e["name"], e["type"]) for e in inner[side]]
    nodes = {each["id"]: each for each in inner["nodes"]}
    for each in nodes.values():
        info = object_info[each["type"]]
        assert [slot["type"] for slot in each["outputs"]] == info["output"]
        known = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert {slot["name"] for slot in each["inputs"]} <= known.keys()
    for link in inner["links"]:
        if link["origin_id"] in nodes:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in inner["inputs"][link["origin_slot"]]["linkIds"]
        if link["target_id"] in nodes:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        else:
            assert inner["outputs"][link["target_slot"]]["linkIds"] == [link["id"]]
    for number, widget in top["properties"]["proxyWidgets"]:
        known = object_info[nodes[int(number)]["type"]]["input"]
        assert widget in {**known.get("required", {}), **known.get("optional", {})}


def test_each_object_is_sounded_and_mixed(server, page):
    graph = sent(page, listed(server)["Sound Each Object"])
    sound, mixer = (the(graph, name) for name in ("SoundingThisObject", "SoundingMixTracks"))
    graph |= graph_of(clicked({"name": "dog", "positive": [DOG]}, {"name": "cow", "positive": [COW], "gain_db": -6}))
    graph["raw"]["inputs"]["audio"] = [sound, 0]
    del graph["sound"]
    graph[sound]["inputs"] |= {"image": ["click", 0], "mask": ["click", 1], "model": ["load", 0]}
    graph[sound]["inputs"] |= {"seconds": 0.5, "steps": 2}
    graph[mixer]["inputs"]["gains"] = ["click", 3]
    graph["tracks"] = node("SaveAudio", audio=[mixer, 0], filename_prefix="tracks")
    sounds = server.sounds(server.run(graph))
    for (track, _), (raw, _), gain in zip(sounds["tracks"], sounds["raw"], (0, -6), strict=True):
        assert track.shape == (8000,)
        np.testing.assert_allclose(track, raw * 10 ** (gain / 20), atol=2**-14)


def test_named_objects_go_through_a_native_model(server, page):
    """Only the file of the model is missing: all types and values fit the host's nodes."""
    graph = sent(page, listed(server)["Name and Sound"])
    graph["load"] = node("CheckpointLoaderSimple", ckpt_name="none.safetensors")
    graph["image"] = node("LoadImage", image="farm.png")
    graph[the(graph, "SoundingNameObject")]["inputs"]["image"] = ["image", 0]
    graph[the(graph, "KSampler")]["inputs"]["model"] = ["load", 0]
    graph[the(graph, "VAEDecodeAudio")]["inputs"]["vae"] = ["load", 2]
    for each in graph.values():
        if each["class_type"] == "CLIPTextEncode":
            each["inputs"]["clip"] = ["load", 1]
    assert set(server.queue(graph).json()["node_errors"]) == {"load"}


def test_name_and_prompt_makes_a_prompt_per_object(server, page):
    graph = sent(page, listed(server)["Name and Prompt"])
    name = the(graph, "SoundingNameObject")
    encoders = {key: each for key, each in graph.items() if each["class_type"] == "CLIPTextEncode"}
    assert sorted(str(each["inputs"]["text"]) for each in encoders.values()) == [str([name, 2]), "music, voices"]
    for key in encoders:  # they need a model's text encoder
        del graph[key]
    graph["image"] = node("LoadImage", image="farm.png")
    graph["mask"] = node("LoadImageMask", image="farm_mask_dog.png", channel="red")
    graph["lines"] = node("StringConcatenate", string_a="Rex", string_b="", delimiter="")
    graph[name]["inputs"] |= {"image": ["image", 0], "mask": ["mask", 0], "names": ["lines", 0]}
    graph["prompts"] = node("PreviewAny", source=[name, 2])
    assert server.run(graph)["outputs"]["prompts"]["text"] == ["the sound of Rex"]
