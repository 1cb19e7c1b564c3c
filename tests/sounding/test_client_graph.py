"""Filling images and values into API graphs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sounding.client.graph import Graph, GraphError, fill, read_graph, set_input
from sounding.images.files import read_mask

from ..conftest import ROOT

API = ROOT / "example_workflows" / "api"


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs} | ({"_meta": {"title": title}} if title else {})


@pytest.fixture
def graph() -> Graph:
    return {
        "1": node("LoadImage", "The scene", image="a.png"),
        "2": node("LoadImageMask", "Left", image="b.png", channel="alpha"),
        "3": node("LoadImageMask", "v1.0 right", image="c.png", channel="alpha"),
        "4": node("SoundingGroundText", text="a dog", one_sound_a_line=False),
        "5": node("SoundingSampler", seed=7, cfg=2.0, latent=["4", 0], **{"mode.depth": 1}),
    }


class Uploads:
    """Stands for the server's input folder, where names may be taken."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __call__(self, name: str, content: bytes) -> str:
        self.files[f"in/{name}"] = content
        return f"in/{name}"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 12, 3), (200, 40, 10), np.uint8)).save("scene.png")
    for name, column in {"left": 1, "right": 9}.items():
        mask = np.zeros((8, 12), np.uint8)
        mask[:, column] = 255
        Image.fromarray(mask).save(f"{name}.png")
    cutout = np.zeros((8, 12, 4), np.uint8)
    cutout[2, 3, 3] = 255
    Image.fromarray(cutout).save("cutout.png")
    Path("text.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("5.seed=3", ("5", "seed"), 3),
        ("SoundingSampler.cfg=1.5", ("5", "cfg"), 1.5),
        ("5.mode.depth=4", ("5", "mode.depth"), 4),
        ('5.latent=["2", 1]', ("5", "latent"), ["2", 1]),
        ("4.text=7", ("4", "text"), "7"),
        ("4.text=a = b.c", ("4", "text"), "a = b.c"),
        ('4.text="quoted\\n"', ("4", "text"), "quoted\n"),
        ("4.one_sound_a_line=true", ("4", "one_sound_a_line"), True),
        ("v1.0 right.channel=red", ("3", "channel"), "red"),
        ("5.scheduler=ddim", ("5", "scheduler"), "ddim"),  # known to the server only
    ],
)
def test_values_are_set(graph: Graph, assignment: str, place: tuple[str, str], value: Any) -> None:
    before = json.loads(json.dumps(graph))
    set_input(graph, assignment, {"SoundingSampler": ["seed", "scheduler"]}.get)  # type: ignore[arg-type]
    found = graph[place[0]]["inputs"][place[1]]
    assert (found, type(found)) == (value, type(value))
    before[place[0]]["inputs"][place[1]] = value
    assert graph == before


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("seed=3", "node.input=value is expected"),
        ("5.seed", "node.input=value is expected"),
        ("9.seed=3", "no node '9'; there are 1 (The scene), 2 (Left), 3 (v1.0 right), 4 (SoundingGroundText), 5"),
        ("5.sed=3", "has no input 'sed'; it has cfg, latent, mode.depth, scheduler, seed"),
        ("LoadImageMask.channel=red", "may be any of 2 (Left), 3 (v1.0 right)"),
        ("5.seed=many", "a number is expected"),
        ("5.seed=true", "a number is expected"),
        ("4.one_sound_a_line=False", "true or false is expected"),
        ("4.one_sound_a_line=1", "true or false is expected"),
    ],
)
def test_what_cannot_be_set_is_told(graph: Graph, assignment: str, words: str) -> None:
    before = json.loads(json.dumps(graph))
    with pytest.raises(GraphError) as told:
        set_input(graph, assignment, lambda _: ["scheduler"])
    assert words in str(told.value)
    assert graph == before


def test_files_go_into_the_nodes_in_order(graph: Graph, files: Path) -> None:
    uploads = Uploads()
    fill(graph, ["scene.png"], ["left.png", "cutout.png"], uploads)
    assert graph["1"]["inputs"] == {"image": "in/scene.png"}
    assert graph["2"]["inputs"] == {"image": "in/left.png", "channel": "red"}
    assert graph["3"]["inputs"] == {"image": "in/cutout.png", "channel": "red"}
    assert uploads.files["in/scene.png"] == Path("scene.png").read_bytes()
    for name in ("left", "cutout"):
        Path("uploaded.png").write_bytes(uploads.files[f"in/{name}.png"])
        channels = np.asarray(Image.open("uploaded.png").convert("RGB"))
        assert np.array_equal(channels[..., 0] / np.float32(255), read_mask(f"{name}.png")[0].numpy())


@pytest.mark.parametrize("name", ["3", "v1.0 right"])
def test_a_named_node_is_filled_and_the_others_left(graph: Graph, files: Path, name: str) -> None:
    fill(graph, [], [f"{name}=right.png"], Uploads())
    assert graph["3"]["inputs"]["image"] == "in/right.png"
    assert graph["2"]["inputs"] == {"image": "b.png", "channel": "alpha"}
    fill(graph, [], ["left.png", f"{name}=right.png"], Uploads())
    assert graph["2"]["inputs"]["image"] == "in/left.png"


def test_a_click_node_reads_a_picture_unless_one_is_connected(files: Path) -> None:
    graph = {"1": node("SoundingClick", picture="a.png", state=""), "2": node("LoadImage", image="b.png")}
    fill(graph, ["left.png", "2=scene.png"], [], Uploads())
    assert graph["1"]["inputs"] == {"picture": "in/left.png", "state": ""}
    assert graph["2"]["inputs"] == {"image": "in/scene.png"}
    graph["1"]["inputs"]["image"] = ["2", 0]
    fill(graph, ["right.png"], [], Uploads())
    assert graph["1"]["inputs"]["picture"] == "in/left.png"
    assert graph["2"]["inputs"] == {"image": "in/right.png"}


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ([], ["left.png"], "files without a node: 1, LoadImageMask nodes to fill: 2 (2 (Left), 3 (v1.0 right))"),
        (["scene.png", "left.png"], [], "files without a node: 2, LoadImage or SoundingClick nodes to fill: 1"),
        (["none.png"], [], "none.png is not a file"),
        (["8=scene.png"], [], "there is no node '8'"),
        (["5=scene.png"], [], "reads no such file"),
        (["2=scene.png"], [], "reads no such file"),
        (["1=scene.png", "The scene=left.png"], [], "two files came for node 1 (The scene)"),
        (["text.png"], [], "cannot be read as an image"),
        ([], ["LoadImageMask=left.png"], "may be any of"),
    ],
)
def test_what_cannot_be_filled_is_told(
    graph: Graph, files: Path, images: list[str], masks: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        fill(graph, images, masks, Uploads())


def test_nothing_is_sent_before_everything_is_looked_at(graph: Graph, files: Path) -> None:
    uploads = Uploads()
    with pytest.raises(ValueError, match="cannot be read as an image"):
        fill(graph, ["scene.png"], ["left.png", "text.png"], uploads)
    assert uploads.files == {}


def test_a_mask_becomes_the_pictures_transparency(files: Path) -> None:
    """As LoadImage reads it: its mask is 1 - alpha, its image is what lies under the transparency."""
    graph = read_graph(API / "one_object.json")
    uploads = Uploads()
    fill(graph, ["scene.png"], ["left.png"], uploads)
    assert graph["1"]["inputs"]["image"] == "in/scene_masked.png"
    Path("uploaded.png").write_bytes(uploads.files["in/scene_masked.png"])
    pixels = np.asarray(Image.open("uploaded.png"))
    assert np.array_equal(255 - pixels[..., 3], np.asarray(Image.open("left.png")))
    assert np.array_equal(pixels[..., :3], np.asarray(Image.open("scene.png")))


def test_a_mask_without_a_place_is_refused(files: Path) -> None:
    text = read_graph(API / "text_grounded.json")
    with pytest.raises(GraphError, match="its mask output goes nowhere"):
        fill(text, ["scene.png"], ["left.png"], Uploads())
    with pytest.raises(GraphError, match="no LoadImageMask node"):
        fill(text, [], ["left.png"], Uploads())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no graph"),
        ("{}", "holds no graph"),
        ('{"1": {"inputs": {}}}', "holds no graph"),
        ('{"nodes": [], "links": []}', "Export (API)"),
        ("[" * 100_000, "too deep"),
        ('{"1": {"class_type": "A", "inputs": {"x": ' + "[" * 200 + "]" * 200 + "}}}", "more than 50 deep"),
        ("9" * 5000, "is not JSON"),
        ('{"1": {"class_type": "A", "inputs": {}, "_meta": null}, "2": []}', "holds no graph"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(GraphError) as told:
        read_graph(tmp_path / "graph.json")
    assert words in str(told.value)


@pytest.mark.parametrize("meta", [None, [], 5, "x", {}, {"title": None}, {"title": ["x"]}, {"title": ""}])
def test_a_node_without_a_title_goes_by_its_class(tmp_path: Path, meta: Any) -> None:
    (tmp_path / "graph.json").write_text(json.dumps({"1": {"class_type": "A", "inputs": {"x": 1}, "_meta": meta}}))
    read = read_graph(tmp_path / "graph.json")
    set_input(read, "A.x=2")
    assert read["1"]["inputs"] == {"x": 2}


def test_deep_values_are_refused(graph: Graph) -> None:
    for depth in (200, 100_000):
        with pytest.raises(GraphError, match="deep"):
            set_input(graph, "5.latent=" + "[" * depth + "]" * depth)


@pytest.mark.parametrize("name", sorted(path.name for path in API.glob("*.json")))
def test_the_examples_in_both_forms(name: str) -> None:
    assert read_graph(API / name)
    with pytest.raises(GraphError, match="page's form"):
        read_graph(API.parent / name)
