"""The example for ComfyUI's own sampler on the real server: its sound is that of our own nodes."""

from __future__ import annotations

import numpy as np
import pytest

from .comfyui import Graph
from .graphs import node

pytestmark = pytest.mark.server


def test_ksampler_and_our_sampler_make_the_same_sound(server, tiny_graph):
    """The host's nodes and ours in one graph, from one seed; a latent of 128 frames is one block of our noise."""
    graph: Graph = tiny_graph("native_sampling", seed=11, seconds=5.12, steps=5)
    graph |= {
        "ours": node(
            "SoundingSampler",
            model=["1", 0],
            condition=["5", 0],
            latent=["6", 0],
            seed=11,
            steps=5,
            cfg=graph["8"]["inputs"]["cfg"],
            scheduler="dpm++",
            denoise=1.0,
        ),
        "heard": node("VAEDecodeAudio", samples=["ours", 0], vae=["7", 3]),
        "saved": node("SaveAudio", audio=["heard", 0], filename_prefix="ours"),
        "mel": node("SoundingDecode", model=["1", 0], latent=["8", 0]),
        "back": node("VAEEncodeAudio", audio=["9", 0], vae=["7", 3]),
        "again": node("SoundingDecode", model=["1", 0], latent=["back", 0]),
        "drawn": node("PreviewImage", images=["mel", 1]),
        "drawn again": node("PreviewImage", images=["again", 1]),
    }
    entry = server.run(graph)
    sounds = server.sounds(entry)
    (samples, rate), (own, own_rate) = sounds["10"][0], sounds["saved"][0]
    assert rate == own_rate
    assert samples.shape == own.shape == (round(5.12 * rate),)
    assert np.abs(samples).max() > 0.01
    assert np.abs(samples - own).max() < 1e-3 * np.abs(own).max()
    assert len(entry["outputs"]["drawn"]["images"]) == len(entry["outputs"]["drawn again"]["images"]) == 1
