"""Parts of API graphs that several tests make, and what their objects look like."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from .comfyui import ROOT, Graph

INPUT = ROOT / "example_workflows" / "input"
FARM = {"name": "farm.png", "subfolder": "", "type": "input"}
DOG, COW = {"x": 140, "y": 190}, {"x": 340, "y": 225}  # in farm.png
MEADOW = {"x": 30, "y": 30}
OTHER_MODELS = {"click_to_stable_audio"}  # examples that need files of other publishers
CORE_DECODES = {"native_sampling"}  # examples whose sounds have the host's rate and length (test_native_workflow.py)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of an API graph."""
    return {"class_type": class_type, "inputs": inputs}


def state(*objects: dict[str, Any], size: tuple[int, int] | None = (512, 384)) -> dict[str, Any]:
    """The click node's state, parsed; objects without a name get one."""
    return {"version": 1, "size": size, "objects": [{"name": f"Object {i + 1}", **o} for i, o in enumerate(objects)]}


def true_mask(name: str) -> np.ndarray:
    """Where an object of farm.png is: [H, W] bool."""
    return np.asarray(Image.open(INPUT / f"farm_mask_{name}.png").convert("L")) > 127


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())


def clicked(*objects: dict[str, Any]) -> str:
    """The click node's state as it takes it."""
    return json.dumps({"version": 1, "size": [512, 384], "objects": list(objects)})


def graph_of(state: str, seed: int = 7, **settings: Any) -> Graph:
    """A click node's objects through the tiny model to sounds, one per object."""
    return {
        "load": node("SoundingLoadModel", checkpoint="tiny.safetensors"),
        "click": node("SoundingClick", picture="farm.png", state=state),
        "sound": node(
            "SoundingThisObject",
            image=["click", 0],
            mask=["click", 1],
            model=["load", 0],
            seed=seed,
            **{"seconds": 0.7, "steps": 3, **settings},
        ),
        "raw": node("SaveAudio", audio=["sound", 0], filename_prefix="raw"),
    }


THREE = ({"name": "dog", "positive": [DOG]}, {"name": "off", "positive": [MEADOW], "on": False},
         {"name": "nothing clicked"}, {"name": "cow", "positive": [COW], "negative": [MEADOW]})  # fmt: skip
