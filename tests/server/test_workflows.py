"""The workflows for the page and the same for the API may not drift apart; the real page agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sounding.cli.demo import SCENE
from sounding.weights.catalogue import CATALOGUE

from .browser import open_page, wait_until

pytestmark = pytest.mark.server

WORKFLOWS = Path(__file__).parent.parent.parent / "example_workflows"
UI = sorted(WORKFLOWS.glob("*.json"))
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
ONLY_ON_THE_PAGE = {"MarkdownNote", "Note"}
READ_PICTURES = {"LoadImage", "LoadImageMask", "SoundingClick"}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def api_of(path: Path) -> dict[str, Any]:
    return read(WORKFLOWS / "api" / path.name)


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the page would send: widgets by the order of the schema, links by name."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in ONLY_ON_THE_PAGE:
            continue
        values = list(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        info = object_info[node["type"]]["input"]
        for name, spec in [pair for group in ("required", "optional") for pair in info.get(group, {}).items()]:
            if not isinstance(spec[0], list) and spec[0].split(",")[0] not in WIDGET_TYPES:
                continue
            options = spec[1] if len(spec) > 1 else {}
            if options.get("forceInput"):
                continue
            inputs[name] = values.pop(0)
            if options.get("control_after_generate"):
                assert values.pop(0) == "fixed", "examples should repeat"
        # Upload buttons come last, after all widgets of the schema.
        assert values in ([], ["image"]), f"{node['type']} has widget values too many: {values}"
        inputs |= {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot.get("link") is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def plain(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph without titles, and without what only the page's own players add."""
    return {
        name: {
            "class_type": node["class_type"],
            "inputs": {key: value for key, value in node["inputs"].items() if key != "audioUI"},
        }
        for name, node in graph.items()
    }


def images_of(workflow: dict[str, Any]) -> list[str]:
    """Files that the workflow reads."""
    return [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in READ_PICTURES]


def test_all_are_there_in_both_forms_with_a_thumbnail():
    assert {path.stem for path in UI} >= {
        "batch_of_seeds",
        "brush_mask",
        "click_and_hear",
        "click_to_stable_audio",
        "generated_picture",
        "native_sampling",
        "one_object",
        "points_to_mask",
        "stems",
        "text_grounded",
        "texture_change",
        "two_objects_tracks_and_mix",
        "vary_a_sound",
    }
    assert {path.name for path in (WORKFLOWS / "api").glob("*.json")} == {path.name for path in UI}
    assert {path.stem for path in WORKFLOWS.glob("*.jpg")} == {path.stem for path in UI}


def test_every_image_is_used_and_small():
    used = {name for path in UI for name in images_of(read(path))}
    here = {path.name: path.stat().st_size for path in (WORKFLOWS / "input").iterdir()}
    assert used | {path.name for path in (WORKFLOWS / "input").glob(f"{SCENE}*.png")} == set(here)
    assert max(here.values()) < 400_000


@pytest.mark.parametrize("path", UI, ids=lambda path: path.stem)
def test_page_and_api_forms_agree(path, object_info):
    assert to_api(read(path), object_info) == plain(api_of(path))


@pytest.mark.parametrize("path", UI, ids=lambda path: path.stem)
def test_page_form_is_sound(path):
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_node_id"] == max(nodes)
    for number, source, output, target, slot, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number
    for node in nodes.values():
        if node["type"].startswith("Sounding"):
            assert node["properties"]["cnr_id"] == "sounding-objects"
            assert node["properties"]["ver"]
    notes = [node["widgets_values"][0] for node in nodes.values() if node["type"] == "MarkdownNote"]
    assert not any("`" in note for note in notes)  # Nodes 2.0 writes code in blue on a note's brown
    assert images_of(workflow)
    assert workflow["extra"]["sounding_pictures"] == sorted(set(images_of(workflow)))  # the page brings these in
    assert not any("color" in node or "bgcolor" in node for node in nodes.values())
    for image in images_of(workflow):
        assert (WORKFLOWS / "input" / image).is_file()
        assert any(f"**{image}**" in note for note in notes), f"no note tells of {image}"


def test_links_of_models_are_those_that_fetch_has():
    known = {file.url: (entry.name, file.path) for entry in CATALOGUE for file in entry.files}
    linked = [model for node in nodes_with_models() if node["type"].startswith("Sounding")
              for model in node["properties"]["models"]]  # fmt: skip
    assert {known[model["url"]] for model in linked} >= {
        ("sam-b", "sam_vit_b_01ec64.pth"),
        ("sam-l", "sam_vit_l_0b3195.pth"),
        ("sam-h", "sam_vit_h_4b8939.pth"),
    }
    for model in linked:
        assert model["name"] == known[model["url"]][1]
        assert model["directory"] == "sams"  # ComfyUI's folder, where Sounding Load SAM looks


def test_models_of_other_publishers_are_the_loaders_own_and_linked_in_a_note():
    notes = "".join(each["widgets_values"][0] for path in UI for each in read(path)["nodes"]
                    if each["type"] == "MarkdownNote")  # fmt: skip
    loaders = [node for node in nodes_with_models() if not node["type"].startswith("Sounding")]
    assert {node["type"] for node in loaders} == {"CheckpointLoaderSimple", "CLIPLoader"}
    for node in loaders:
        ((model),) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0]
        assert f"[{model['name']}]({model['url']}) in models/{model['directory']}" in notes


def nodes_with_models() -> list[dict[str, Any]]:
    return [node for path in UI for node in read(path)["nodes"] if node["properties"].get("models")]


def test_the_real_page_sends_the_api_form(server, chromium):
    page = open_page(chromium, server.url)
    wait_until(page, "() => window.app?.graph && window.LiteGraph?.registered_node_types.SoundingSampler")
    for path in UI:
        sent = page.evaluate(
            "async (workflow) => { await window.app.loadGraphData(workflow);"
            " return (await window.app.graphToPrompt()).output; }",
            read(path),
        )
        assert plain(sent) == plain(api_of(path)), path.name
    page.close()  # with what it says of models that are missing
