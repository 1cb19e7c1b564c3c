"""Soundscapes on the real server: tracks where their masks are, mixes of them, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
from PIL import Image

from .comfyui import Graph
from .graphs import COW, DOG, clicked, graph_of, node, true_mask
from .test_tracks import LSB, previews

pytestmark = pytest.mark.server

TWO = clicked({"name": "dog", "positive": [DOG], "gain_db": -6}, {"name": "cow", "positive": [COW]})
NEAR = {"distance": 0.0}  # panned alone


def scene(**inputs: Any) -> Graph:
    return graph_of(TWO) | {
        "scene": node("SoundingSoundscape", **{"audio": ["sound", 0], "mask": ["click", 1], **inputs}),
        "tracks": node("SaveAudio", audio=["scene", 0], filename_prefix="track"),
        "mix": node("SaveAudio", audio=["scene", 1], filename_prefix="mix"),
    }


def run(server: Any, graph: Graph) -> dict[str, list[np.ndarray]]:
    """Sounds by node."""
    return {name: [sound for sound, _ in found] for name, found in server.sounds(server.run(graph)).items()}


def pan_of(name: str) -> float:
    """Of an object of farm.png, by its true mask."""
    mask = true_mask(name)
    return float(2 * (mask.nonzero()[1].mean() + 0.5) / mask.shape[1] - 1)


def pan_in(sound: np.ndarray) -> float:
    """Of a stereo sound, by the law of sine and cosine."""
    left, right = np.sqrt((sound**2).mean(axis=0))
    return float(4 / np.pi * np.arctan2(right, left) - 1)


def test_each_object_sounds_where_it_is_seen(server):
    entry = server.run(scene(gains=["click", 3], **NEAR))
    sounds = {name: [sound for sound, _ in found] for name, found in server.sounds(entry).items()}
    dog, cow = sounds["tracks"]
    assert dog.shape == cow.shape == (len(sounds["raw"][0]), 2)
    assert pan_in(dog) == pytest.approx(pan_of("dog"), abs=0.03)  # the clicked mask is not the true one
    assert pan_in(cow) == pytest.approx(pan_of("cow"), abs=0.03)
    for placed, raw, gain in ((dog, sounds["raw"][0], 10 ** (-6 / 20)), (cow, sounds["raw"][1], 1)):
        np.testing.assert_allclose(np.sqrt((placed**2).sum(axis=1)), gain * np.abs(raw), atol=3 * LSB)
    np.testing.assert_allclose(sounds["mix"][0], dog + cow, atol=3 * LSB)
    heard = previews(server, entry, "scene")
    for sound, file in zip(heard, [*sounds["mix"], *sounds["tracks"]], strict=True):
        np.testing.assert_allclose(sound, file, atol=2 * LSB)


def test_masks_and_sounds_of_any_nodes_at_any_rate(server):
    """Stereo at 44.1 kHz with core's masks: one of the left half, one empty."""
    path = server.folder / "input" / "stereo.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.05, (44_100, 2)), 44_100, subtype="FLOAT")
    graph = {
        "load": node("LoadAudio", audio=path.name),
        "black": node("SolidMask", value=0.0, width=200, height=100),
        "white": node("SolidMask", value=1.0, width=100, height=100),
        "left": node("MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=0, operation="add"),
    }
    for mask in ("left", "black"):
        graph[mask + " scene"] = node("SoundingSoundscape", audio=["load", 0], mask=[mask, 0], distance=0.0)
        graph[mask + " mix"] = node("SaveAudio", audio=[mask + " scene", 1], filename_prefix=mask)
    sounds = server.sounds(server.run(graph))
    ((left, rate),) = sounds["left mix"]
    assert rate == 44_100
    assert pan_in(left) == pytest.approx(-0.5, abs=0.01)
    assert not sounds["black mix"][0][0].any()


def test_a_depth_map_makes_what_is_darker_quieter(server):
    depth = np.full((384, 512, 3), 255, np.uint8)
    depth[:, 256:] = 64  # the cow's half: four times as far
    Image.fromarray(depth).save(server.folder / "input" / "depth.png")
    graph = scene(distance=1.0, depth=["depth", 0]) | {"depth": node("LoadImage", image="depth.png")}
    plain, deep = run(server, scene(**NEAR)), run(server, graph)
    levels = [
        [np.abs(np.fft.rfft(each.sum(axis=1))[1:40]).sum() for each in sounds["tracks"]] for sounds in (plain, deep)
    ]
    assert levels[1][0] / levels[0][0] == pytest.approx(1, abs=0.05)
    assert levels[1][1] / levels[0][1] == pytest.approx(64 / 255, rel=0.05)


def test_offsets_solo_and_loudness(server):
    sounds = run(server, scene(offsets="0, 0.5", solo="2", loudness=-30.0, fade_out=0.1, **NEAR))
    dog, cow = sounds["tracks"]
    assert len(dog) == len(cow) == len(sounds["raw"][0]) + 8000
    assert not dog.any()
    assert not cow[:8000].any()
    assert np.abs(cow[8000:]).max() > 0.01
    (mix,) = sounds["mix"]
    assert pyloudnorm.Meter(16_000).integrated_loudness(mix) == pytest.approx(-30, abs=0.1)


def test_loops_stay_loops_and_a_blend_is_one_sound_of_all_masks(server):
    """A reflection beyond the end is heard at the beginning, so that a scene of rolled loops is the rolled scene."""
    samples = np.random.default_rng(0).normal(0, 0.02, (16_000, 1))
    graph = {
        "black": node("SolidMask", value=0.0, width=200, height=100),
        "white": node("SolidMask", value=1.0, width=100, height=100),
        "left": node("MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=0, operation="add"),
        "right": node("MaskComposite", destination=["black", 0], source=["white", 0], x=100, y=0, operation="add"),
    }
    masks = {
        "left images": node("MaskToImage", mask=["left", 0]),
        "right images": node("MaskToImage", mask=["right", 0]),
    }
    masks["images"] = node("ImageBatch", image1=["left images", 0], image2=["right images", 0])
    graph |= masks | {"both": node("ImageToMask", image=["images", 0], channel="red")}
    placed = {"distance": 0.0, "reflections": 1.0, "loop": True}
    for name, sound in (("plain", samples), ("rolled", np.roll(samples, 5000, axis=0))):
        soundfile.write(server.folder / "input" / f"{name}.wav", sound, 16_000, subtype="FLOAT")
        graph[name] = node("LoadAudio", audio=f"{name}.wav")
        graph[f"{name} scene"] = node("SoundingSoundscape", audio=[name, 0], mask=["left", 0], **placed)
        graph[f"{name} mix"] = node("SaveAudio", audio=[f"{name} scene", 1], filename_prefix=name)
    graph["blend"] = node("SoundingSoundscape", audio=["plain", 0], mask=["both", 0], distance=0.0, blend=True)
    graph["blend mix"] = node("SaveAudio", audio=["blend", 1], filename_prefix="blend")
    sounds = run(server, graph)
    np.testing.assert_allclose(np.roll(sounds["plain mix"][0], 5000, axis=0), sounds["rolled mix"][0], atol=2 * LSB)
    assert pan_in(sounds["blend mix"][0]) == pytest.approx(0, abs=0.01)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one mask": ({"mask": ["one", 0]}, "There are 1 masks for 2 sounds, but one per sound is expected"),
    "offsets": ({"offsets": "0, 1, 2"}, "There are 3 offsets for 2 tracks"),
    "late": ({"offsets": "601"}, "offsets has 601.0, but seconds from 0 to 600"),
    "no track": ({"mute": "3"}, "mute has 3.0, but tracks 1 to 2 are expected"),
    "half a track": ({"solo": "1.5"}, "solo has 1.5, but tracks 1 to 2 are expected"),
    "too loud": ({"loudness": -1.0}, "loudness is -1.0, but -60 to -5 LUFS are expected"),
    "a loop's offset": ({"loop": True, "offsets": "1"}, "offset is 1 s in a scene of loops"),
    "two depth maps": ({"depth": ["two", 0]}, "depth has 2 images, but one is expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_sentence(server, case):
    inputs, words = WRONG[case]
    graph = scene(**inputs) | {
        "one": node("SolidMask", value=1.0, width=64, height=64),
        "farm": node("LoadImage", image="farm.png"),
        "two": node("RepeatImageBatch", image=["farm", 0], amount=2),
    }
    said = server.error(graph)
    assert words in said
    assert "\n" not in said.strip()
