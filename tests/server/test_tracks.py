"""Clicked objects as tracks and one mix: with their gains, below the ceiling, all of them playable."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import resample

from .comfyui import Graph
from .graphs import COW, DOG, clicked, graph_of, node

pytestmark = pytest.mark.server


LSB = 2**-15  # of the 16 bits that Save Audio writes


def true_peak(samples: np.ndarray) -> float:
    """dBTP of [samples] or [samples, channels], by scipy's Fourier transform at four times the rate."""
    return float(20 * np.log10(np.abs(resample(samples, 4 * len(samples), axis=0)).max()))


def previews(server: Any, entry: dict[str, Any], name: str) -> list[np.ndarray]:
    files = entry["outputs"][name]["sounding_sounds"]
    return [soundfile.read(io.BytesIO(server.get("/view", **file).content))[0] for file in files]


def mixed(state: str, gains: Any, seed: int = 7) -> Graph:
    return graph_of(state, seed) | {
        "mixer": node("SoundingMixTracks", audio=["sound", 0], gains=gains),
        "tracks": node("SaveAudio", audio=["mixer", 0], filename_prefix="track"),
        "mix": node("SaveAudio", audio=["mixer", 1], filename_prefix="mix"),
    }


TWO = clicked({"name": "dog", "positive": [DOG], "gain_db": -6}, {"name": "cow", "positive": [COW], "gain_db": -2.5})


def test_clicked_objects_come_out_as_tracks_and_mix_with_the_nodes_gains(server):
    entry = server.run(mixed(TWO, ["click", 3]))
    sounds = {name: [sound for sound, _ in found] for name, found in server.sounds(entry).items()}
    assert [len(sounds[name]) for name in ("raw", "tracks", "mix")] == [2, 2, 1]
    expected = [raw * 10 ** (gain / 20) for raw, gain in zip(sounds["raw"], (-6, -2.5), strict=True)]
    for track, one in zip(sounds["tracks"], expected, strict=True):
        assert np.abs(one).max() > 0.01
        np.testing.assert_allclose(track, one, atol=2 * LSB)
    np.testing.assert_allclose(sounds["mix"][0], sum(expected), atol=3 * LSB)
    heard = previews(server, entry, "mixer")
    assert len(heard) == 3
    for sound, file in zip(heard, [*sounds["mix"], *sounds["tracks"]], strict=True):
        np.testing.assert_allclose(sound, file, atol=2 * LSB)


@pytest.mark.parametrize("gains", ["24", "24, 24", "[24, 24]", "24\n24"])
def test_nothing_passes_the_ceiling(server, gains):
    graph = mixed(TWO, gains)
    graph["load"]["inputs"]["checkpoint"] = "starter (in the box)"  # the tiny model's noise is beyond any meter
    sounds = server.sounds(server.run(graph))
    peaks = [true_peak(sound) for name in ("tracks", "mix") for sound, _ in sounds[name]]
    assert max(peaks) <= -0.5  # this meter sees more near the highest frequency than BS.1770's short filter
    assert max(peaks) > -1.5
    first, second = (sound for sound, _ in sounds["tracks"])
    raw = [sound for sound, _ in sounds["raw"]]
    # Turned down alike: their balance is what was asked for.
    assert np.std(first) / np.std(second) == pytest.approx(np.std(raw[0]) / np.std(raw[1]), rel=1e-3)


def test_without_gains_tracks_stay_as_they_are(server):
    graph = mixed(TWO, "")
    del graph["mixer"]["inputs"]["gains"]
    sounds = server.sounds(server.run(graph))
    for (track, _), (raw, _) in zip(sounds["tracks"], sounds["raw"], strict=True):
        np.testing.assert_allclose(track, raw, atol=2 * LSB)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8000, 1), (44_101, 2)])
def test_sounds_of_any_rate_mono_and_stereo(server, rate, channels):
    generator = np.random.default_rng(0)
    smooth = resample(generator.normal(0, 1, (rate // 16, channels)), rate // 4)  # up to an eighth of the rate
    loud = smooth * np.hanning(len(smooth))[:, None] / np.abs(smooth).max()
    path = server.folder / "input" / f"loud_{rate}.wav"
    soundfile.write(path, loud, rate, subtype="FLOAT")
    graph = {
        "load": node("LoadAudio", audio=path.name),
        "mixer": node("SoundingMixTracks", audio=["load", 0], gains="-3"),
        "mix": node("SaveAudio", audio=["mixer", 1], filename_prefix="loud"),
    }
    ((mix, found),) = server.sounds(server.run(graph))["mix"]
    assert found == rate
    mix = mix[:, None] if mix.ndim == 1 else mix
    assert mix.shape == loud.shape
    assert true_peak(mix) <= -0.95
    share = (mix * loud).sum() / (loud**2).sum()
    np.testing.assert_allclose(mix, share * loud, atol=2 * LSB)


WRONG: dict[str, tuple[Any, str]] = {
    "too many": ("0, -1, -2", "3 gains for 2 tracks"),
    "words": ("loud", "gains has 'loud', but dB from -60 to 24"),
    "not finite": ("nan, 0", "gains has nan"),
    "too loud": ("25", "gains has 25.0"),
    "huge": (f"[1{'0' * 400}]", "gains has 1000"),
    "no JSON": ("[1, 2", "which is not JSON"),
    "deep": ("[" * 5000, "which is not JSON"),
    "lists in a list": ("[[0, 1], 2]", "gains has [0, 1]"),
    "no number": ("[null, 2]", "gains has None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_gains_that_do_not_fit_are_named(server, case):
    gains, words = WRONG[case]
    said = server.error(mixed(TWO, gains))
    assert words in said
    assert "expected" in said
    assert "\n" not in said.strip()
