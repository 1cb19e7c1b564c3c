"""Objects in graphs of the host's own audio models: names to prompts to a sound each, by list execution."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from .comfyui import ROOT, Graph
from .graphs import COW, DOG, clicked, node

pytestmark = pytest.mark.server

NAME = "click_to_stable_audio"
CLICK, PROMPTS, LOADERS, NATIVE, SOUND, MIXER = "1", "2", ("3", "4"), tuple("3456789"), "10", "11"
LSB = 2**-15  # of the 16 bits that Save Audio writes
RATE = 44_100


def example() -> Graph:
    return dict(json.loads((ROOT / "example_workflows" / "api" / f"{NAME}.json").read_text()))


def test_only_the_model_files_are_missing(server):
    """All types and values of the real graph fit the host's own nodes."""
    problems = server.queue(example()).json()["node_errors"]
    assert set(problems) == set(LOADERS)
    assert {each["type"] for problem in problems.values() for each in problem["errors"]} == {"value_not_in_list"}


def test_every_object_gets_a_stereo_sound_of_its_own_prompt(server):
    """The model's part is replaced by core nodes: a stereo sound whose gain in dB is the prompt's length."""
    graph = example()
    assert graph[SOUND]["class_type"] == "VAEDecodeAudio"
    for name in NATIVE:
        del graph[name]
    time = np.arange(RATE // 2) / RATE
    tone = np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 660 * time)], axis=1) * 0.01
    soundfile.write(server.folder / "input" / "tone.wav", tone, RATE, subtype="FLOAT")
    graph["tone"] = node("LoadAudio", audio="tone.wav")
    graph["length"] = node("StringLength", string=[PROMPTS, 2])
    graph[SOUND] = node("AudioAdjustVolume", audio=["tone", 0], volume=["length", 0])
    graph["prompts"] = node("PreviewAny", source=[PROMPTS, 2])
    graph[CLICK]["inputs"]["state"] = clicked(
        {"name": "Object 1", "positive": [DOG]}, {"name": "white cow", "positive": [COW], "gain_db": -6}
    )
    entry = server.run(graph)
    prompts = entry["outputs"]["prompts"]["text"]
    assert prompts == ["the sound of dog", "the sound of white cow"]
    sounds = server.sounds(entry)
    expected = [tone * 10 ** ((len(prompt) + gain) / 20) for prompt, gain in zip(prompts, (0, -6), strict=True)]
    for (track, rate), one in zip(sounds["12"], expected, strict=True):
        assert rate == RATE
        np.testing.assert_allclose(track, one, atol=2 * LSB)
    ((mix, rate),) = sounds["13"]
    assert rate == RATE
    np.testing.assert_allclose(mix, sum(expected), atol=3 * LSB)
