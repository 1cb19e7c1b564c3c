"""Make this repository's images from real runs of the starter.

    uv run --group test python docs/tools/images.py

README's first image is the demo's overview. Each example workflow is run by a real ComfyUI; its thumbnail shows what
its sounds were made from, and their spectrograms. The nodes' help pages get screenshots of the real page, with the
nodes after a run. Without --server, the tests' copy of ComfyUI is started for it. With
`--stamps data/stamps` the demo's scene is drawn anew first.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import node_images
import numpy as np
import soundfile
import torch
from harness import harness
from PIL import Image
from torch import Tensor

import sounding
from sounding.audio.mel import MelSpectrogram
from sounding.cli.demo import OBJECTS, SCENE, write_demo
from sounding.client.answers import OutputFile, output_files
from sounding.client.graph import Graph, read_graph
from sounding.client.run import run_graph
from sounding.client.server import ComfyServer
from sounding.config import AudioConfig
from sounding.images.drawing import mel_image, overlay
from sounding.utils.files import write_atomic

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "example_workflows"
SELECTIONS = ("SoundingThisObject", "SoundingVideo", "SoundingGroundMask", "SoundingGroundText")
SCREENSHOTS = {"click_to_stable_audio"}  # needs other publishers' files: a picture of the page, made by hand
FRAME_SHOWN = 9  # of a video
SOUNDS_SHOWN = 4  # of one selection
SIDE, GAP = 512, 8  # pixels of a thumbnail, which the page shows as a square
IMAGE = 0.72  # of a thumbnail's height


def sources(graph: Graph, node: str) -> list[str]:
    """Nodes that a node's inputs come from; for parts made anew, those of the selection that makes them."""
    inputs = graph[node]["inputs"]
    if graph[node]["class_type"] == "SoundingInpaint":
        inputs = {"condition": inputs["condition"]}
    return [value[0] for value in inputs.values() if isinstance(value, list)]


def selection_of(graph: Graph, node: str) -> str | None:
    """The selection that a sound was made from: the nearest before it, or None if several are as near (a mix)."""
    level = [node]
    while level:
        found = sorted({name for name in level if graph[name]["class_type"] in SELECTIONS})
        if found:
            return found[0] if len(found) == 1 else None
        level = [before for name in level for before in sources(graph, name)]
    return None


def with_previews(graph: Graph, selections: list[str]) -> Graph:
    """The graph, with what each selection was made in saved by nodes "NAME image" and "NAME mask" or "NAME shown"."""
    watched = json.loads(json.dumps(graph))

    def preview(name: str, link: list[Any]) -> None:
        watched[name] = {"class_type": "PreviewImage", "inputs": {"images": link}}

    for name in selections:
        inputs = graph[name]["inputs"]
        if graph[name]["class_type"] == "SoundingGroundText":
            preview(f"{name} shown", [name, 2])
            continue
        if graph[name]["class_type"] == "SoundingVideo":
            one = {"batch_index": FRAME_SHOWN, "length": 1}
            watched[f"{name} grey"] = {"class_type": "MaskToImage", "inputs": {"mask": inputs["masks"]}}
            for kind, link in (("image", inputs["images"]), ("mask", [f"{name} grey", 0])):
                watched[f"{name} {kind} frame"] = {"class_type": "ImageFromBatch", "inputs": {"image": link, **one}}
                preview(f"{name} {kind}", [f"{name} {kind} frame", 0])
            continue
        encoder = graph[inputs["patches"][0]]["inputs"] if "patches" in inputs else inputs
        preview(f"{name} image", encoder["image"])
        watched[f"{name} grey"] = {"class_type": "MaskToImage", "inputs": {"mask": inputs["mask"]}}
        preview(f"{name} mask", [f"{name} grey", 0])
    return watched


def with_images(server: ComfyServer, graph: Graph) -> Graph:
    """The graph with its example images uploaded, under the names that they have on the server."""
    for node in graph.values():
        for key in ("image", "picture"):
            value = node["inputs"].get(key)
            if isinstance(value, str):
                node["inputs"][key] = server.upload(value, (WORKFLOWS / "input" / value).read_bytes())
    return graph


def thumbnail(server: ComfyServer, graph: Graph) -> Tensor:
    """What the sounds of a graph were made from, and their spectrograms: [SIDE, SIDE, 3], a column per selection."""
    saving = [name for name, node in graph.items() if node["class_type"].endswith(("Audio", "SoundingSave"))]
    sounds = {name: selection_of(graph, name) for name in saving}
    selections = list(dict.fromkeys(name for name in sounds.values() if name is not None))
    together = not selections  # every file is of several: its tracks are in the selections' order
    if together:
        selections = [name for name, node in graph.items() if node["class_type"] in SELECTIONS]
    files = output_files(run_graph(server, with_previews(graph, selections), timeout=3600))
    width = (SIDE - GAP * (len(selections) + 1)) // len(selections)
    columns = []
    for name in selections:
        shown = saved_image(server, files, f"{name} shown")
        if shown is None:
            image, mask = saved_image(server, files, f"{name} image"), saved_image(server, files, f"{name} mask")
            assert image is not None
            assert mask is not None
            shown = image if mask.min() > 0.99 else overlay(image[None], mask[None, ..., 0])[0]
        if together:
            heard = [[file for file in files if file.node == next(iter(sounds))][len(columns)]]
        else:
            heard = [file for file in files if file.is_sound and sounds.get(file.node) == name][:SOUNDS_SHOWN]
        columns.append(column(shown, [spectrogram(server.fetch(file)) for file in heard], width))
    return framed(torch.cat(columns, dim=1)[: SIDE - 2 * GAP])


def column(shown: Tensor, spectrograms: list[Tensor], width: int) -> Tensor:
    """An image with its sounds below: [SIDE, width + GAP, 3]."""
    high = round(IMAGE * SIDE)
    left = SIDE - 2 * GAP - high
    parts = [covering(shown, high, width)]
    for i, each in enumerate(spectrograms):
        height = left * (i + 1) // len(spectrograms) - left * i // len(spectrograms)
        parts += [torch.ones(GAP, width, 3), resized(each, max(1, height - GAP), width)]
    return torch.nn.functional.pad(torch.cat(parts), (0, 0, 0, GAP), value=1.0)


def covering(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image [H, W, 3], cropped and resized to another shape."""
    scale = max(height / image.shape[0], width / image.shape[1])
    larger = resized(image, max(height, round(scale * image.shape[0])), max(width, round(scale * image.shape[1])))
    top, left = (larger.shape[0] - height) // 2, (larger.shape[1] - width) // 2
    return larger[top : top + height, left : left + width]


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """[H, W, 3] -> [height, width, 3]."""
    channels = image.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(channels, (height, width), mode="bilinear", antialias=True)[0].movedim(0, -1)


def framed(image: Tensor) -> Tensor:
    """In white, up to [SIDE, SIDE, 3]."""
    height, width = image.shape[:2]
    return torch.nn.functional.pad(image, (0, 0, GAP, SIDE - GAP - width, GAP, SIDE - GAP - height), value=1.0)


def saved_image(server: ComfyServer, files: list[OutputFile], node: str) -> Tensor | None:
    """The brightest value at each pixel of the images that a node saved (of masks: their union): [H, W, 3]."""
    found = [file for file in files if file.node == node]
    if not found:
        return None
    opened = [Image.open(io.BytesIO(server.fetch(file))).convert("RGB") for file in found]
    return torch.from_numpy(np.max([np.asarray(each, np.float32) for each in opened], axis=0) / 255)


def spectrogram(content: bytes) -> Tensor:
    """A sound file's mel spectrogram: [H, W, 3]."""
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return mel_image(MelSpectrogram(AudioConfig())(torch.from_numpy(samples.mean(axis=1))[None]))[0]


@contextmanager
def running(url: str | None) -> Iterator[ComfyServer]:
    """The server at an address, or one of our own."""
    if url is not None:
        yield ComfyServer(url)
        return
    with tempfile.TemporaryDirectory() as folder:
        harness.make_folder(Path(folder))
        own = harness.Server(Path(folder), ("--cpu",))
        try:
            own.wait_until_up(1800)
            yield ComfyServer(own.url)
        finally:
            own.stop()


def draw_scene(stamps: Path, number: int = 500_020) -> None:
    """The demo's image and masks: a held-out scene of its objects, taken for its photographic background."""
    from training.data.object_set import ObjectSet
    from training.data.scenes import make_scene, scene_rng

    data = ObjectSet(stamps)
    labels = {stamp.name: stamp.label for stamp in data.entries}
    wanted = tuple(labels[name] for name in OBJECTS)
    scene = make_scene(data, scene_rng("held-out", number), size=(512, 384), labels=wanted)
    Image.fromarray(scene.image).save(WORKFLOWS / "input" / f"{SCENE}.png")
    for name, mask in zip(OBJECTS, scene.masks, strict=True):
        Image.fromarray(mask).save(WORKFLOWS / "input" / f"{SCENE}_mask_{name}.png")


def main() -> None:
    """Write all images, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="address of a ComfyUI with this pack, instead of starting one")
    kinds = ("demo", "thumbnails", "nodes")
    parser.add_argument("--only", choices=kinds, action="append", help="one kind of images (may be repeated)")
    parser.add_argument("--name", action="append", help="of these workflows or nodes only")
    parser.add_argument("--stamps", type=Path, help="draw the demo's scene from this data set first")
    asked = parser.parse_args()
    if asked.stamps:
        draw_scene(asked.stamps)
    wanted = set(asked.only or kinds)
    if "demo" in wanted:
        with tempfile.TemporaryDirectory() as folder:
            overview = write_demo(sounding.load("starter", device="cpu"), Path(folder))
            write_atomic(ROOT / "docs" / "first-screen.webp", node_images.as_webp(Image.open(overview)))
    if wanted == {"demo"}:
        return
    with running(asked.server) as server:
        for path in sorted((WORKFLOWS / "api").glob("*.json")) if "thumbnails" in wanted else ():
            if path.stem in (asked.name or [path.stem]) and path.stem not in SCREENSHOTS:
                print(path.stem)
                graph = with_images(server, read_graph(path))
                pixels = (thumbnail(server, graph).clamp(0, 1) * 255).round().byte().numpy()
                write_atomic(WORKFLOWS / f"{path.stem}.jpg", node_images.as_jpeg(Image.fromarray(pixels)))
        if "nodes" in wanted:
            node_images.write_all(server.url, asked.name)


if __name__ == "__main__":
    main()
