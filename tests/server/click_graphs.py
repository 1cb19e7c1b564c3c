"""Graphs with the click node, requests to its route, and what both answer."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import requests
from PIL import Image

from .graphs import DOG, FARM, node, state


def click(inputs: dict[str, Any], **others: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A graph that saves the masks, and shows the other outputs."""
    graph = {
        "click": node("SoundingClick", **inputs),
        "grey": node("MaskToImage", mask=["click", 1]),
        "masks": node("PreviewImage", images=["grey", 0]),
        "image": node("PreviewImage", images=["click", 0]),
    }
    for i, name in enumerate(("names", "gains", "positive_coords", "negative_coords"), start=2):
        graph[name] = node("PreviewAny", source=["click", i])
    return graph | others


def images(server: Any, entry: dict[str, Any], name: str) -> list[np.ndarray]:
    """The images [H, W, 3] that a node of the graph has saved."""
    files = entry["outputs"][name]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.get("/view", **file).content)).convert("RGB")) for file in files]


def shown(entry: dict[str, Any], name: str) -> list[str]:
    """The texts that a node of the graph has shown."""
    return list(entry["outputs"][name]["text"])


def ask(server: Any, body: Any, **headers: str) -> requests.Response:
    """Send something to the route."""
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    headers = {"Content-Type": "application/json", **headers}
    return requests.post(server.url + "/sounding/click", data=data, headers=headers, timeout=600)


def mask_of(answer: dict[str, Any]) -> np.ndarray:
    """A mask of the route's answer: [H, W] bool."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png"]))).getchannel("A")) > 127


BODY = {"picture": FARM, "state": state({"positive": [DOG]})}
