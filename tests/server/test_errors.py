"""Bad input over the API: one sentence that helps, and the server goes on."""

from __future__ import annotations

from typing import Any

import pytest

from .graphs import node

pytestmark = pytest.mark.server


EMPTY = node("SolidMask", value=0.0, width=64, height=64)
OTHER_LATENT = node("EmptyLatentImage", width=64, height=64, batch_size=1)

# Node ids are those of example_workflows/api: (example, more nodes, {node: inputs to change}, words of the message).
CASES: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]], str]] = {
    "no such checkpoint": ("text_grounded", {}, {"1": {"checkpoint": "none.safetensors"}}, "none.safetensors"),
    "checkpoint outside": ("text_grounded", {}, {"1": {"checkpoint": "../sounding/tiny.safetensors"}}, "tiny"),
    "absolute checkpoint": ("text_grounded", {}, {"1": {"checkpoint": "/tmp/tiny.safetensors"}}, "/tmp/tiny"),
    "text file": ("text_grounded", {}, {"1": {"checkpoint": "text.safetensors"}}, "not a readable .safetensors"),
    "foreign checkpoint": ("text_grounded", {}, {"1": {"checkpoint": "foreign.safetensors"}}, "another kind of model"),
    "link out of the folder": ("text_grounded", {}, {"1": {"checkpoint": "linked.safetensors"}}, "link to a place"),
    "dtype": ("text_grounded", {}, {"1": {"dtype": "int4"}}, "dtype"),
    "picture of another type": ("text_grounded", {}, {"3": {"image": ["2", 1]}}, "IMAGE"),
    "empty text": ("text_grounded", {}, {"4": {"text": " \n "}}, "a sentence is expected"),
    "no seconds": ("text_grounded", {}, {"6": {"seconds": 0.0}}, "smaller than min"),
    "scheduler": ("text_grounded", {}, {"7": {"scheduler": "euler"}}, "euler"),
    "no steps": ("text_grounded", {}, {"7": {"steps": -1}}, "smaller than min"),
    "sampling a picture's latent": ("text_grounded", {"x": OTHER_LATENT}, {"7": {"latent": ["x", 0]}}, "frames, 16"),
    "decoding a picture's latent": ("text_grounded", {"x": OTHER_LATENT}, {"8": {"latent": ["x", 0]}}, "frames, 16"),
    "vocoding a latent": ("text_grounded", {}, {"9": {"mel": ["7", 0]}}, "SOUNDING_MEL"),
    "empty mask": ("two_objects_tracks_and_mix", {"x": EMPTY}, {"7": {"mask": ["x", 0]}}, "mask is empty"),
    "clamp": ("two_objects_tracks_and_mix", {}, {"7": {"clamp": "perhaps"}}, "clamp"),
    "picture without alpha": ("one_object", {}, {"1": {"image": "farm.png"}}, "mask is empty"),
    "empty sound": (
        "text_grounded",
        {
            "x": node("EmptyAudio", duration=0.0, sample_rate=16_000, channels=1),
            "y": node("SoundingEncodeAudio", model=["1", 0], audio=["x", 0]),
        },
        {"7": {"latent": ["y", 0]}},
        "at least one sample",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(server, tiny_graph, case):
    example, more, changes, words = CASES[case]
    graph = tiny_graph(example) | more
    for name, inputs in changes.items():
        graph[name]["inputs"] |= inputs
    assert words in server.error(graph)


def test_the_server_is_alive_afterwards(server, tiny_graph):
    server.error(tiny_graph("text_grounded") | {"7": node("SoundingSampler")})
    server.run(tiny_graph("text_grounded", seed=1234))
