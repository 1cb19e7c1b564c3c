"""Frames and masks of a video to its sound, on the real server, and into a video file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from .graphs import node

pytestmark = pytest.mark.server

RATE = 16_000


def test_the_example_is_silent_where_nothing_is_seen_and_goes_into_a_video(server, tiny_graph):
    av = pytest.importorskip("av")
    entry = server.run(tiny_graph("video"))
    ((samples, rate),) = server.sounds(entry)["5"]
    assert (samples.shape, rate) == ((72_000, 2), RATE)
    for start, end in ((0.0, 0.5), (3.75, 4.5)):  # the elephant is seen in frames 2 to 14, 4 per second
        assert not samples[round(start * RATE) : round(end * RATE)].any()
    left, right = np.square(samples).reshape(18, -1, 2).mean(axis=1).T
    assert right[3] > 4 * left[3] > 0  # it walks to the left
    assert left[12] > 2 * right[12] > 0
    assert "heard from 0.5 to 3.8 s; 4 of 18 frames looked at" in entry["outputs"]["2"]["text"][0]
    (file,) = (each for outputs in entry["outputs"].values() for each in outputs.get("images", []))
    with av.open(io.BytesIO(server.get("/view", **file).content)) as container:
        (stream,) = container.streams.audio
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
    assert abs(sound.shape[1] / stream.rate - 4.5) < 0.2
    assert np.abs(sound[:, : round(0.3 * stream.rate)]).max() < 0.01 < np.abs(sound).max()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"masks": ["empty", 0]}, "The 18 masks are all empty"),
        ({"masks": ["one", 0]}, "There are 18 frames and 1 masks"),
    ],
)
def test_what_does_not_fit_is_one_sentence(server: Any, tiny_graph: Any, inputs: dict[str, Any], words: str) -> None:
    graph = tiny_graph("video") | {
        "one": node("SolidMask", value=1.0, width=8, height=8),
        "none": node("SolidMask", value=0.0, width=224, height=168),
        "grey": node("MaskToImage", mask=["none", 0]),
        "many": node("RepeatImageBatch", image=["grey", 0], amount=18),
        "empty": node("ImageToMask", image=["many", 0], channel="red"),
    }
    graph["2"]["inputs"] |= inputs
    said = server.error(graph)
    assert words in said
    assert "\n" not in said.strip()
