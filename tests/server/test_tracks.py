"""Clicked objects as tracks and one mix: with their gains, under the ceiling, all of them heard; and previews that are
what the run makes.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from scipy.signal import resample

pytestmark = pytest.mark.server

DOG, COW = {"x": 140, "y": 190}, {"x": 340, "y": 225}
MASK_OFF = {"x": 30, "y": 30}
LSB = 2**-15  # of the 16 bits that Save Audio writes
Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def clicked(*objects: dict[str, Any]) -> str:
    return json.dumps({"version": 1, "size": [512, 384], "objects": list(objects)})


def true_peak(samples: np.ndarray) -> float:
    """dBTP of [samples] or [samples, channels], by scipy's Fourier transform at four times the rate."""
    return float(20 * np.log10(np.abs(resample(samples, 4 * len(samples), axis=0)).max()))


def previews(server: Any, entry: dict[str, Any], name: str) -> list[np.ndarray]:
    files = entry["outputs"][name]["sounding_sounds"]
    return [soundfile.read(io.BytesIO(server.get("/view", **file).content))[0] for file in files]


def graph_of(state: str, seed: int = 7, **settings: Any) -> Graph:
    """A click node's objects through the tiny model, to tracks and mix."""
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


THREE = ({"name": "dog", "positive": [DOG]}, {"name": "off", "positive": [MASK_OFF], "on": False},
         {"name": "nothing clicked"}, {"name": "cow", "positive": [COW], "negative": [MASK_OFF]})  # fmt: skip
SETTINGS: list[dict[str, Any]] = [{}, {"cfg": 1.0, "steps": 2}, {"level": False}, {"fade_out": 0.05}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["own", "unguided", "not leveled", "short fade"])
@pytest.mark.parametrize("seed", [7, 2**64 - 1])
def test_an_object_alone_is_to_the_bit_what_it_is_in_the_run(server, settings, seed):
    """As the page does to hear one: its place among those that are on and clicked is added to the seed."""
    run = [sound for sound, _ in server.sounds(server.run(graph_of(clicked(*THREE), seed, **settings)))["raw"]]
    assert len(run) == 2
    assert not np.array_equal(*run)
    for place, index in enumerate((0, 3)):
        alone = [{**each, "on": i == index} for i, each in enumerate(THREE)]
        graph = graph_of(clicked(*alone), (seed + place) % 2**64, **settings)
        ((heard, _),) = server.sounds(server.run(graph))["raw"]
        np.testing.assert_array_equal(heard, run[place])


def test_an_object_alone_is_what_it_is_in_a_run_of_single_nodes(server):
    def graph(state: str, seed: int) -> Graph:
        return {
            "load": node("SoundingLoadModel", checkpoint="starter (in the box)"),
            "click": node("SoundingClick", picture="farm.png", state=state),
            "see": node("SoundingEncodeImage", model=["load", 0], image=["click", 0]),
            "ground": node("SoundingGroundMask", patches=["see", 0], mask=["click", 1], clamp="on"),
            "latent": node("SoundingEmptyLatent", model=["load", 0], seconds=1.0, batch_size=1),
            "sample": node(
                "SoundingSampler",
                model=["load", 0],
                condition=["ground", 0],
                latent=["latent", 0],
                seed=seed,
                steps=2,
                cfg=3.0,
                scheduler="ddim",
                denoise=1.0,
            ),
            "decode": node("SoundingDecode", model=["load", 0], latent=["sample", 0]),
            "vocode": node("SoundingVocode", model=["load", 0], mel=["decode", 0]),
            "raw": node("SaveAudio", audio=["vocode", 0], filename_prefix="chain"),
        }

    run = [sound for sound, _ in server.sounds(server.run(graph(clicked(*THREE), 3)))["raw"]]
    alone = clicked(*({**each, "on": each["name"] == "cow"} for each in THREE))
    ((heard, _),) = server.sounds(server.run(graph(alone, 4)))["raw"]
    np.testing.assert_array_equal(heard, run[1])


@pytest.mark.parametrize("linked", [True, False])
def test_the_history_says_how_sure_the_model_is(server, linked):
    graph = graph_of(clicked(*THREE), steps=1) | {"show": node("PreviewAny", source=["sound", 2])}
    graph["load"]["inputs"]["checkpoint"] = "starter (in the box)"
    if not linked:
        del graph["load"], graph["sound"]["inputs"]["model"]
    graph["see"] = node("SoundingEncodeImage", model=["more", 0], image=["click", 0])
    graph["more"] = node("SoundingLoadModel", checkpoint="starter (in the box)")
    clamp = "on" if linked else "off"  # else it would be known from the last time, and say nothing again
    graph["ground"] = node("SoundingGroundMask", patches=["see", 0], mask=["click", 1], clamp=clamp)
    graph["latent"] = node("SoundingEmptyLatent", model=["more", 0], seconds=0.2, batch_size=1)
    graph["sample"] = node("SoundingSampler", model=["more", 0], condition=["ground", 0], latent=["latent", 0], seed=1,
                           steps=1, cfg=0.0, scheduler="checkpoint", denoise=1.0)  # fmt: skip
    graph["decode"] = node("SoundingDecode", model=["more", 0], latent=["sample", 0])
    graph["saved"] = node("PreviewImage", images=["decode", 1])
    entry = server.run(graph)
    said = [outputs for outputs in entry["outputs"].values() if "sounding_sureness" in outputs]
    assert len(said) == 2
    (least,) = (float(value) for value in entry["outputs"]["show"]["text"])
    for outputs in said:
        assert min(each["sureness"] for each in outputs["sounding_sureness"]) == pytest.approx(least, abs=1e-3)
        assert len(outputs["sounding_sureness"]) == 2
        assert all(each["sure"] == (each["sureness"] >= 0.5) for each in outputs["sounding_sureness"])
        assert len(outputs["text"]) == 2


def test_what_the_model_is_unsure_of_is_said_in_words(server):
    graph = {
        "sound": node("SoundingThisObject", image=["plain", 0], mask=["mask", 0], seconds=0.2, seed=0, steps=1),
        "plain": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "mask": node("SolidMask", value=1.0, width=64, height=64),
        "raw": node("SaveAudio", audio=["sound", 0], filename_prefix="unsure"),
    }
    entry = server.run(graph)
    (said,) = (outputs for outputs in entry["outputs"].values() if "sounding_sureness" in outputs)
    assert [each["sure"] for each in said["sounding_sureness"]] == [False]
    assert "it may sound like something else" in said["text"][0]
    # Of a node that was expanded, the page is told by the name that it knows.
    shown = {each.get("display_node") for each in entry["meta"].values()}
    assert "sound" in shown


@pytest.mark.parametrize(("words", "known"), [("a dog", True), ("a spaceship taking off", False)])
def test_unknown_words_are_told_the_nearest_known_ones(server, tiny_graph, words, known):
    graph = tiny_graph("text_grounded", seconds=0.2, steps=1)
    graph["1"]["inputs"]["checkpoint"] = "starter (in the box)"
    graph["4"]["inputs"]["text"] = words
    entry = server.run(graph)
    ((said,), (line,)) = (entry["outputs"]["4"][key] for key in ("sounding_sureness", "text"))
    assert said["name"] == words
    assert ("nearest known words are" in line) == (not known and not said["sure"])
    if known:
        assert "nearest" not in said
    else:
        assert not said["sure"]
        assert len(said["nearest"]) >= 1
        assert all(name in line for name in said["nearest"])


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
