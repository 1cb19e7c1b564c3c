"""Text within masks and negative selections, through the nodes."""

from __future__ import annotations

from typing import Any

import pytest

from .comfyui import Graph
from .graphs import node

pytestmark = pytest.mark.server

SAMPLING = {"seed": 1, "steps": 2, "cfg": 3.0, "scheduler": "checkpoint", "denoise": 1.0}
MASKS = {"dog": "farm_mask_dog.png", "cow": "farm_mask_cow.png"}


def farm() -> Graph:
    """The farm, its two masks, and the tiny model."""
    masks = {name: node("LoadImageMask", image=file, channel="red") for name, file in MASKS.items()}
    loaded = {
        "load": node("SoundingLoadModel", checkpoint="tiny.safetensors"),
        "image": node("LoadImage", image="farm.png"),
    }
    return loaded | masks


def said(entry: dict[str, Any], name: str) -> dict[str, Any]:
    """What a node reported of its only selection."""
    (one,) = entry["outputs"][name]["sounding_sureness"]
    return dict(one)


def test_a_negative_condition_changes_the_latent(server):
    graph = farm() | {
        "see": node("SoundingEncodeImage", model=["load", 0], image=["image", 0]),
        "wanted": node("SoundingGroundMask", patches=["see", 0], mask=["dog", 0], text="a dog"),
        "unwanted": node("SoundingGroundText", patches=["see", 0], image=["image", 0], text="a cow", mask=["cow", 0]),
        "empty": node("SoundingEmptyLatent", model=["load", 0], seconds=0.3, batch_size=1),
    }
    for name, negative in (("plain", {}), ("guided", {"negative": ["unwanted", 0]})):
        sampled = {"model": ["load", 0], "condition": ["wanted", 0], "latent": ["empty", 0], **SAMPLING, **negative}
        graph[name] = node("SoundingSampler", **sampled)
        graph[f"{name} mel"] = node("SoundingDecode", model=["load", 0], latent=[name, 0])
        graph[f"{name} sound"] = node("SoundingVocode", model=["load", 0], mel=[f"{name} mel", 0], level=False)
        graph[f"{name} saved"] = node("SaveAudio", audio=[f"{name} sound", 0], filename_prefix=name)
    entry = server.run(graph)
    assert (said(entry, "wanted")["source"], said(entry, "wanted")["name"]) == ("text", "a dog")
    sounds = server.sounds(entry)
    (plain, _), (guided, _) = sounds["plain saved"][0], sounds["guided saved"][0]
    assert abs(plain - guided).max() > 1e-4


@pytest.mark.parametrize("linked", [True, False])
def test_all_in_one_node(server, linked):
    """Without a model the node expands to a loader and itself, and hands everything on."""
    inputs: dict[str, Any] = {"image": ["image", 0], "mask": ["dog", 0], "seconds": 0.3, "seed": 1, "steps": 1}
    inputs |= {"text": "a dog", "negative_text": "a cow", "negative_mask": ["cow", 0], "by": "grounding"}
    if linked:
        inputs["model"] = ["load", 0]
    graph = farm() | {
        "sound": node("SoundingThisObject", **inputs),
        "saved": node("SaveAudio", audio=["sound", 0], filename_prefix="joined"),
    }
    if not linked:
        del graph["load"]
    entry = server.run(graph)
    (outputs,) = (each for each in entry["outputs"].values() if "sounding_sureness" in each)
    assert outputs["sounding_sureness"][0]["name"] == "a dog"
