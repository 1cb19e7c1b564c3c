"""Make the pictures in this repository from real runs of the starter: `uv run python docs/pictures.py`.

README's first screen is the demo's overview; each example workflow gets a thumbnail with its own picture,
selection, seed and length, read from its API file. With `--stamps data/stamps` the demo's scene is drawn anew first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sounding
from sounding.demo import OBJECTS, SCENE, frame_row, write_demo
from sounding.pictures import mel_picture, overlay, read_mask, write_image

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / "example_workflows"


def inputs_of(graph: dict[str, dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Inputs of all nodes of a class, in order."""
    return [node["inputs"] for node in graph.values() if node["class_type"] == kind]


def load_image(path: Path) -> tuple[Tensor, Tensor]:
    """As ComfyUI's LoadImage: the picture under its transparency [1, H, W, 3], and 1 - alpha [1, H, W]."""
    pixels = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    return torch.from_numpy(pixels[None, ..., :3]), torch.from_numpy(1 - pixels[None, ..., 3])


def thumbnail(model: sounding.SoundingModel, graph: dict[str, dict[str, Any]]) -> Tensor:
    """What the workflow selects and what it makes of it: [H, W, 3]."""
    picture, alpha_mask = load_image(WORKFLOWS / "input" / inputs_of(graph, "LoadImage")[0]["image"])
    size = (picture.shape[1], picture.shape[2])
    settings = (inputs_of(graph, "SoundingSampler") or inputs_of(graph, "SoundingThisObject"))[0]
    seconds = (inputs_of(graph, "SoundingEmptyLatent") or inputs_of(graph, "SoundingThisObject"))[0]["seconds"]
    patches = model.see(picture)
    texts = inputs_of(graph, "SoundingGroundText")
    if texts:
        condition = model.ground(patches, text=texts[0]["text"])
        shown = condition.attention_map(size)
    else:
        files = [WORKFLOWS / "input" / node["image"] for node in inputs_of(graph, "LoadImageMask")]
        shown = torch.cat([read_mask(file) for file in files]) if files else alpha_mask
        condition = model.ground(patches, mask=shown, image_size=size)
    noise = model.noise(seconds, [settings["seed"] + i for i in range(len(condition))])
    mel = model.decode(model.sample(condition, noise, steps=settings["steps"], cfg=settings["cfg"]))
    spectrograms = mel_picture(mel[:, : model.config.mel_frames(seconds)])
    rows = [frame_row([selected, sound]) for selected, sound in zip(overlay(picture, shown), spectrograms, strict=True)]
    return torch.cat(rows)


def draw_scene(stamps: Path, number: int = 500_020) -> None:
    """The demo's picture and masks: a held-out scene of its objects, taken for its photographic background."""
    from training.data.scenes import make_scene, scene_rng
    from training.data.stamps import Stamps

    data = Stamps(stamps)
    labels = {stamp.name: stamp.label for stamp in data.stamps}
    wanted = tuple(labels[name] for name in OBJECTS)
    scene = make_scene(data, scene_rng("held-out", number), size=(512, 384), labels=wanted)
    Image.fromarray(scene.image).save(WORKFLOWS / "input" / f"{SCENE}.png")
    for name, mask in zip(OBJECTS, scene.masks, strict=True):
        Image.fromarray(mask).save(WORKFLOWS / "input" / f"{SCENE}_mask_{name}.png")


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, help="draw the demo's scene from this data set first")
    stamps = parser.parse_args().stamps
    if stamps:
        draw_scene(stamps)
    model = sounding.load("starter", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        overview = write_demo(model, Path(folder))
        (ROOT / "docs" / "first-screen.jpg").write_bytes(overview.read_bytes())
    for file in sorted((WORKFLOWS / "api").glob("*.json")):
        write_image(WORKFLOWS / f"{file.stem}.jpg", thumbnail(model, json.loads(file.read_text())))


if __name__ == "__main__":
    main()
