"""Sounds that come in: videos without one, latents with a noise mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from .graphs import node

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def silent_video(server) -> Path:
    import av

    path = Path(server.folder / "input" / "silent.mp4")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in (0, 128):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("taker", ["SoundingEncodeAudio", "SoundingMixTracks"])
def test_a_video_without_sound_is_named(server, silent_video, taker):
    graph = {
        "load": node("LoadVideo", file=silent_video.name),
        "parts": node("GetVideoComponents", video=["load", 0]),
        "model": node("SoundingLoadModel", checkpoint="tiny.safetensors"),
        "taker": node(taker, audio=["parts", 1]),
    }
    if taker == "SoundingEncodeAudio":
        graph["taker"]["inputs"]["model"] = ["model", 0]
        graph["decode"] = node("SoundingDecode", model=["model", 0], latent=["taker", 0])
        graph["end"] = node("PreviewImage", images=["decode", 1])
    assert "audio is nothing, but AUDIO is expected; a video without sound" in server.error(graph)


def test_what_a_noise_mask_leaves_out_stays(server, tiny_graph):
    """The mask's upper half is the sound's first, which is kept."""
    graph = tiny_graph("vary_a_sound", seed=11, seconds=2.56)
    sampler = next(name for name, each in graph.items() if each["class_type"] == "SoundingSampler")
    settings = graph[sampler]["inputs"] | {"denoise": 1.0}
    graph |= {
        "black": node("SolidMask", value=0.0, width=16, height=64),
        "white": node("SolidMask", value=1.0, width=16, height=32),
        "half": node("MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=32, operation="add"),
        "masked": node("SetLatentNoiseMask", samples=settings["latent"], mask=["half", 0]),
        "inpaint": node("SoundingSampler", **(settings | {"latent": ["masked", 0]})),
        "whole": node("SoundingSampler", **settings),
        **{
            f"save {name}": node("SaveLatent", samples=source, filename_prefix=f"latents/{name}")
            for name, source in (("old", settings["latent"]), ("new", ["inpaint", 0]), ("other", ["whole", 0]))
        },
    }
    entry = server.run(graph)

    def latents(name: str) -> np.ndarray:
        (file,) = entry["outputs"][f"save {name}"]["latents"]
        return load_file(server.folder / "output" / file["subfolder"] / file["filename"])["latent_tensor"]

    old, new, other = (latents(name) for name in ("old", "new", "other"))
    half = old.shape[2] // 2
    np.testing.assert_array_equal(new[:, :, : half - 1], old[:, :, : half - 1])
    assert np.abs(new - old)[:, :, half + 1 :].mean() > 0.1
    assert np.abs(other - old)[:, :, : half - 1].mean() > 0.1


def test_a_noise_mask_of_another_batch_is_named(server, tiny_graph):
    graph = tiny_graph("vary_a_sound", seed=11)
    sampler = next(name for name, each in graph.items() if each["class_type"] == "SoundingSampler")
    graph |= {
        "mask": node("SolidMask", value=1.0, width=16, height=64),
        "three": node("RepeatImageBatch", image=["picture", 0], amount=3),
        "picture": node("MaskToImage", mask=["mask", 0]),
        "masks": node("ImageToMask", image=["three", 0], channel="red"),
        "masked": node("SetLatentNoiseMask", samples=graph[sampler]["inputs"]["latent"], mask=["masks", 0]),
    }
    graph[sampler]["inputs"]["latent"] = ["masked", 0]
    assert "noise_mask has 3 masks for 1 sounds" in server.error(graph)
