"""Parts of a sound made anew: what stays is exact, joints are smooth, lengths, rates, channels, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from sounding.audio.files import read_recording, write_audio
from sounding.editing import BLEND, CONTEXT, Edit, edit_sound, read_region
from sounding.model import SoundingModel

from .cli_runs import BOTH, MASK, folder, refused, sounding

__all__ = ["folder"]

RATE, FADE = 16_000, round(BLEND * 16_000)


@pytest.fixture(scope="module")
def condition(tiny_model: SoundingModel) -> Any:
    image = torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(0))
    return tiny_model.ground(tiny_model.see(image), mask=torch.ones(1, 60, 80))


def edited(model: SoundingModel, condition: Any, sound: Tensor, edit: Edit, rate: int = RATE, **options: Any) -> Tensor:
    return edit_sound(model, sound, rate, condition, edit, **{"steps": 2, **options})


def test_all_but_the_region_and_its_blends_is_bit_equal(tiny_model: SoundingModel, condition: Any) -> None:
    sound = 0.1 * torch.randn(1, 2 * RATE)
    made = edited(tiny_model, condition, sound, Edit(region=(0.5, 1.25)))
    first, last = 8000 - FADE, 20_000 + FADE
    assert made.shape == sound.shape
    assert torch.equal(made[:, :first], sound[:, :first])
    assert torch.equal(made[:, last:], sound[:, last:])
    assert (made[:, 8000:20_000] - sound[:, 8000:20_000]).abs().mean() > 0.02
    again = edited(tiny_model, condition, sound, Edit(region=(0.5, 1.25)))
    assert torch.equal(again, made)
    assert not torch.equal(edited(tiny_model, condition, sound, Edit(region=(0.5, 1.25)), seed=1), made)
    # What is kept has its level: the new part is brought to it.
    assert 0.02 < float(made[:, 8000:20_000].std()) < 0.5


def test_a_sound_goes_on_and_begins_earlier_in_stereo_at_any_rate(tiny_model: SoundingModel, condition: Any) -> None:
    rate = 44_100
    sound = torch.stack([0.2 * torch.randn(rate), 0.02 * torch.randn(rate)]).double()
    made = edited(tiny_model, condition, sound, Edit(region=(0.4, 0.6), after=0.5, before=0.25), rate)
    fade, early = round(BLEND * rate), 11_025
    assert made.shape == (2, early + rate + 22_050)
    assert made.dtype == torch.float64
    for first, last in ((fade, 17_640 - fade), (26_460 + fade, rate - fade)):
        assert torch.equal(made[:, early + first : early + last], sound[:, first:last])
    for part in (made[:, :early], made[:, early + rate :]):
        left, right = part.std(dim=1)
        assert float(left / right) == pytest.approx(10, rel=0.3)  # as loud as each channel beside it


def test_only_what_is_around_a_region_goes_through_the_model(
    tiny_model: SoundingModel, condition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = tiny_model.encode
    monkeypatch.setattr(tiny_model, "encode", lambda wave: encoded.append(wave.shape[1] / RATE) or encode(wave))
    sound = 0.1 * torch.randn(1, 60 * RATE)
    made = edited(tiny_model, condition, sound, Edit(region=(30.0, 30.5)), steps=1)
    assert encoded == [pytest.approx(2 * CONTEXT + 0.5, abs=0.1)]
    assert torch.equal(made[:, : 29 * RATE], sound[:, : 29 * RATE])


def test_a_crossfade_keeps_the_level_of_what_is_alike_and_of_what_is_not() -> None:
    from sounding.editing import _crossfaded

    old, other = torch.randn(2, 1, 4000)
    for new, count in ((old, 0), (other, 1)):
        made = _crossfaded(old, new, back=False)
        assert float(made.std()) == pytest.approx(1, abs=0.05)
        torch.testing.assert_close(made[:, -5:], new[:, -5:], atol=0.02, rtol=0)
        torch.testing.assert_close(made[:, :5], old[:, :5], atol=0.02, rtol=0)
        back = _crossfaded(old.flip(1), new.flip(1), back=True).flip(1)
        torch.testing.assert_close(back, made)
        assert count or torch.allclose(made, old, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Nothing is to be made anew; give a region"),
        ({"region": (2.0, 1.0)}, "The region is 2 to 1 s, but one from 0 or later to a later time is expected"),
        ({"region": (float("nan"), 1.0)}, "The region is nan to 1 s"),
        ({"after": -1.0}, r"after is -1\.0, but 0 to 600 seconds are expected"),
        ({"before": 601.0}, r"before is 601\.0"),
    ],
)
def test_edits_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Edit(**options)


def test_what_cannot_be_edited_is_one_sentence(tiny_model: SoundingModel, condition: Any) -> None:
    sound, edit = torch.zeros(1, RATE), Edit(region=(0.2, 0.5))
    with pytest.raises(ValueError, match=r"sound has shape \(1, 0\)"):
        edited(tiny_model, condition, sound[:, :0], edit)
    with pytest.raises(ValueError, match="only finite ones"):
        edited(tiny_model, condition, sound / 0, edit)
    with pytest.raises(ValueError, match="The region begins at 3 s, but the sound ends at 1 s"):
        edited(tiny_model, condition, sound, Edit(region=(3.0, 4.0)))
    with pytest.raises(ValueError, match=r"blend is -1, but 0 to 5 seconds"):
        edited(tiny_model, condition, sound, edit, blend=-1)
    assert (
        # Silence has no level that a new part could be brought to.
        edited(tiny_model, condition, sound, edit)[:, 4000:7000].std() > 1e-3
    )


def test_regions_are_read() -> None:
    assert read_region("1.0:2.5") == (1.0, 2.5)
    assert read_region(":2") == (0.0, 2.0)
    assert read_region("1:")[1] > 1e5
    for text in ("", "1", "2:1", "a:b", "-1:2", "1:nan", "nan:1", "1:2:3"):
        with pytest.raises(ValueError, match=r"The region is .* a time and a later one are expected"):
            read_region(text)


@pytest.mark.parametrize(("kind", "depth"), [("PCM_16", "16"), ("PCM_24", "24"), ("FLOAT", "float")])
def test_samples_of_files_survive_reading_and_writing(tmp_path: Path, kind: str, depth: str) -> None:
    whole = {"PCM_16": 2**15, "PCM_24": 2**23}.get(kind)
    noise = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32)
    if whole:
        noise = np.concatenate([np.round(noise * whole) / whole, [[-1, 1 - 1 / whole]]])
    path, copy = tmp_path / "sound.wav", tmp_path / "copy.wav"
    levels = 2**31
    data = (noise.astype(np.float64) * levels).astype(np.int64).astype(np.int32) if whole else noise
    soundfile.write(path, data, 44_100, subtype=kind)
    recording = read_recording(path)
    assert (recording.sample_rate, recording.depth, recording.waveform.shape[0]) == (44_100, depth, 2)
    np.testing.assert_array_equal(recording.waveform.T.numpy(), noise.astype(np.float32))
    write_audio(copy, recording.waveform, 44_100, depth=recording.depth, exact=True)
    np.testing.assert_array_equal(soundfile.read(copy, dtype="int32")[0], soundfile.read(path, dtype="int32")[0])


def test_the_command_keeps_rate_channels_and_samples(folder: Path) -> None:
    sound = np.random.default_rng(0).integers(-9000, 9000, (44_100, 2), dtype=np.int16)
    soundfile.write(folder / "in.wav", sound, 44_100)
    edit = ("--audio", str(folder / "in.wav"), "--region", "0.5:0.75", "--continue", "0.25", "--batch", "2")
    result = sounding(folder, "--mask", str(folder / "left.png"), *edit, "--out", str(folder / "out.wav"))
    assert result.exit_code == 0, result.output
    first, second = (soundfile.read(folder / f"out_{number}.wav", dtype="int16") for number in (1, 2))
    fade = round(BLEND * 44_100)
    for samples, rate in (first, second):
        assert (samples.shape, rate) == ((55_125, 2), 44_100)
        np.testing.assert_array_equal(samples[: 22_050 - fade], sound[: 22_050 - fade])
        np.testing.assert_array_equal(samples[33_075 + fade : 44_100 - fade], sound[33_075 + fade : -fade])
    assert np.abs(first[0][22_050:33_075].astype(int) - second[0][22_050:33_075]).mean() > 100  # another seed


def test_the_command_makes_loops_and_curves(folder: Path) -> None:
    masks = [argument if argument[0] == "-" else str(folder / argument) for argument in BOTH]
    curves = ("--intensity", "0:0, 0.1:0, 0.2:1", "--intensity", "0.3:1, 0.4:0")
    result = sounding(folder, *masks, *curves, "--loop", "--rate", "44100", "--out", str(folder / "out.wav"))
    assert result.exit_code == 0, result.output
    left, right = (soundfile.read(folder / f"out_{number}.wav") for number in (1, 2))
    assert (len(left[0]), left[1]) == (22_050, 44_100)
    assert not left[0][:4410].any()
    assert left[0][8820:17_640].std() > 0.01
    assert abs(right[0][17_640]) < 1e-3
    assert right[0][-2205:].std() > 0.001  # on its way up again to the first keyframe


AUDIO = ("--audio", "in.wav")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*MASK, "--region", "1:2"), "--region, --continue and --before are about a sound file"),
        ((*MASK, *AUDIO), "Nothing is to be made anew"),
        ((*MASK, *AUDIO, "--region", "2:1"), "The region is '2:1'"),
        ((*MASK, *AUDIO, "--continue", "nan"), "after is nan"),
        ((*MASK, *AUDIO, "--region", "0:1", "--loop"), "--loop came with --audio"),
        ((*MASK, *AUDIO, "--region", "0:1", "--place"), "--place came with --audio"),
        ((*MASK, *AUDIO, "--region", "0:1", "--variation", "1"), "--variation came with --audio"),
        ((*BOTH, *AUDIO, "--region", "0:1"), "A second --mask came with --audio"),
        ((*MASK, "--audio", "nothing.wav", "--region", "0:1"), "nothing.wav cannot be read as audio"),
        ((*MASK, *AUDIO, "--region", "0:1"), "in.wav has no samples"),
        ((*MASK, "--loop", "--fade-out", "1"), "--fade-out came with --loop"),
        ((*MASK, "--intensity", "loud"), "'loud' is no keyframe"),
        ((*BOTH, *(3 * ("--intensity", "0:1"))), "--intensity came 3 times with 2 masks"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    soundfile.write(folder / "in.wav", np.zeros((0, 1)), 16_000)
    assert says in refused(folder, *arguments)
