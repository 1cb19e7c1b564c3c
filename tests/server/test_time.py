"""Loops, parts made anew and intensity over time on the real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile

from .comfyui import Graph
from .graphs import node
from .test_tracks import LSB

pytestmark = pytest.mark.server

RATE = 16_000


def only(server: Any, graph: Graph) -> tuple[np.ndarray, int]:
    ((files,),) = [server.sounds(server.run(graph)).values()]
    ((samples, rate),) = files
    return np.asarray(samples), rate


@pytest.mark.parametrize(("chain", "switch"), {"one_object": "2", "text_grounded": "6"}.items())
def test_a_loop_is_a_switch_that_latents_carry(server, tiny_graph, chain, switch):
    plain, looped = tiny_graph(chain, seconds=1.0), tiny_graph(chain, seconds=1.0)
    assert "loop" in looped[switch]["inputs"]
    looped[switch]["inputs"]["loop"] = True
    (faded, _), (loop, rate) = only(server, plain), only(server, looped)
    assert (len(loop), rate) == (RATE, RATE)
    assert np.abs(faded[-80:]).max() < 0.05 * np.abs(faded).max()
    assert np.abs(loop[-80:]).max() > 0.1 * np.abs(loop).max()  # it does not fade
    steps = np.abs(np.diff(np.concatenate([loop, loop[:1]])))
    assert steps[-1] <= steps[:-1].max()  # from its end to its beginning


def stereo(server: Any, seconds: float = 1.0) -> np.ndarray:
    """A sound in the server's input folder."""
    samples = np.random.default_rng(0).normal(0, 0.05, (round(seconds * 44_100), 2))
    soundfile.write(server.folder / "input" / "noise.wav", samples, 44_100, subtype="PCM_16")
    return np.asarray(soundfile.read(server.folder / "input" / "noise.wav")[0])


def inpainting(tiny_graph: Any, **inputs: Any) -> Graph:
    graph: Graph = tiny_graph("inpaint")
    graph["load"] = node("LoadAudio", audio="noise.wav")
    graph["8"]["inputs"] |= {"audio": ["load", 0], **inputs}
    return graph


def test_what_is_not_made_anew_stays_sample_by_sample(server, tiny_graph):
    given = stereo(server)
    made, rate = only(server, inpainting(tiny_graph, start=0.4, end=0.5, after=0.2, before=0.1))
    assert (made.shape, rate) == ((44_100 + 13_230, 2), 44_100)
    stays = made[4410:-8820]
    for part in (slice(1400, 16_300), slice(23_400, 42_700)):
        np.testing.assert_allclose(stays[part], given[part], atol=LSB)
    assert np.abs(stays[17_640:22_050] - given[17_640:22_050]).mean() > 0.01


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"start": 0.0, "end": 0.0, "after": 0.0}, "Nothing is to be made anew"),
        ({"start": 0.5, "end": 0.4}, "The region is 0.5 to 0.4 s"),
        ({"start": 2.0, "end": 3.0}, "The region begins at 2 s, but the sound ends at 1 s"),
    ],
)
def test_regions_that_do_not_fit_are_one_sentence(server, tiny_graph, inputs, words):
    stereo(server)
    said = server.error(inpainting(tiny_graph, **inputs))
    assert words in said
    assert "\n" not in said.strip()


def test_intensity_by_keyframes_and_masks(server):
    given = stereo(server)
    graph = {
        "load": node("LoadAudio", audio="noise.wav"),
        "absent": node("SolidMask", value=0.0, width=8, height=8),
        "there": node("SolidMask", value=1.0, width=8, height=8),
        "images": node("ImageBatch", image1=["first", 0], image2=["second", 0]),
        "first": node("MaskToImage", mask=["absent", 0]),
        "second": node("MaskToImage", mask=["there", 0]),
        "masks": node("ImageToMask", image=["images", 0], channel="red"),
        "curve": node(
            "SoundingIntensity", audio=["load", 0], curve="0:2, 1:2", mask=["masks", 0], frame_rate=2.0, loop=False
        ),
        "save": node("SaveAudio", audio=["curve", 0], filename_prefix="curve"),
    }
    made, rate = only(server, graph)
    assert (made.shape, rate) == (given.shape, 44_100)
    assert not made[:11_025].any()  # half of the first frame, at whose middle the curve begins to rise
    np.testing.assert_allclose(made[33_075:], 2 * given[33_075:], atol=2 * LSB)
    graph["curve"]["inputs"]["curve"] = "loud"
    assert "'loud' is no keyframe" in server.error(graph)
