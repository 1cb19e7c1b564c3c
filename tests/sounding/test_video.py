"""The sound of an object in a video, with the tiny model: presence, windows and their conditions, what is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sounding.audio.seams import change_at
from sounding.grounding import Condition
from sounding.model import SoundingModel
from sounding.multidiffusion import window_starts
from sounding.video import Frame, VideoSound, frames_of, sound_video

RATE = 16_000


def video(frames: int, seen: Iterator[int] | range, columns: slice = slice(8, 24)) -> tuple[Tensor, Tensor]:
    """Frames of noise with a mask on some of them."""
    images = torch.rand(frames, 24, 32, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(frames, 24, 32)
    for number in seen:
        masks[number, 4:20, columns] = 1
    return images, masks


def made(model: SoundingModel, images: Tensor, masks: Tensor, frame_rate: float, **options: Any) -> VideoSound:
    return sound_video(model, frames_of(images, masks), frame_rate, **{"steps": 2, **options})


def test_it_sounds_while_the_object_is_seen(tiny_model: SoundingModel) -> None:
    images, masks = video(40, [*range(8, 16), *range(32, 40)])
    sound = made(tiny_model, images, masks, 8.0)
    assert (sound.waveform.shape, sound.sample_rate, sound.frames) == ((1, 2, 5 * RATE), RATE, 40)
    assert sound.times == [(1.0, 2.0), (4.0, 5.0)]
    assert sound.looked_at == [8, 32]
    wave = sound.waveform[0]
    for start, end in ((0, 1), (2, 4)):
        assert not wave[:, start * RATE : end * RATE].any()
    for start, end in sound.times:
        assert wave[:, round((start + 0.2) * RATE) : round((end - 0.2) * RATE)].square().mean().sqrt() > 0.01
    assert torch.equal(made(tiny_model, images, masks, 8.0).waveform, sound.waveform)
    assert not torch.equal(made(tiny_model, images, masks, 8.0, seed=1).waveform, sound.waveform)


def test_a_time_does_not_depend_on_others(tiny_model: SoundingModel) -> None:
    """An object that comes back sounds as it would have without having been there before."""
    images, masks = video(40, [*range(8, 16), *range(32, 40)])
    both = made(tiny_model, images, masks, 8.0).waveform
    masks[:16] = 0
    assert torch.equal(made(tiny_model, images, masks, 8.0).waveform[..., 2 * RATE :], both[..., 2 * RATE :])


def test_gain_and_pan_follow(tiny_model: SoundingModel) -> None:
    images, masks = video(48, range(0))
    for number in range(48):  # from a small one at the left to a large one at the right
        half = 2 + number // 8
        middle = 6 + round(number / 47 * 18)
        masks[number, 12 - half : 12 + half, max(0, middle - half) : middle + half] = 1
    plain = made(tiny_model, images, masks, 12.0, follow=0.0, place=False).waveform
    assert plain.shape == (1, 1, 4 * RATE)
    followed = made(tiny_model, images, masks, 12.0, place=False).waveform
    loud = plain[0, 0].abs() > 1e-3
    ratio = (followed / plain)[0, 0][loud]
    area = masks.mean(dim=(1, 2))[torch.arange(4 * RATE) * 48 // (4 * RATE)][loud]
    assert torch.corrcoef(torch.stack([ratio, area.sqrt()]))[0, 1] > 0.99
    stereo = made(tiny_model, images, masks, 12.0).waveform[0]
    torch.testing.assert_close(stereo.square().sum(dim=0).sqrt(), followed[0, 0].abs(), atol=1e-6, rtol=1e-4)
    left, right = stereo.abs().unflatten(1, (8, -1)).mean(dim=2)
    assert ((right / left).diff() > 0).all()


def test_windows_have_conditions_of_their_own(tiny_model: SoundingModel) -> None:
    """What the U-Net attends to at a time is what was seen near it; the first window's is that of the first image."""
    images, masks = video(32, range(32))
    images[:16], images[16:] = images[0] * 0.2, 1 - images[0]
    sound = made(tiny_model, images, masks, 4.0, window=2.56, place=False)
    starts = window_starts(200, 64, 32)
    assert sound.looked_at == [0, 4, 8, 12, 16, 20, 24, 28]
    assert len(sound.condition) == len(starts)
    first, last = (tiny_model.ground(tiny_model.see(images[n : n + 1]), mask=masks[:1]).tokens for n in (0, 31))
    torch.testing.assert_close(sound.condition.tokens[0], first[0])
    torch.testing.assert_close(sound.condition.tokens[-1], last[0])
    uniform = made(tiny_model, images[:1].expand(32, -1, -1, -1), masks, 4.0, window=2.56, place=False).waveform
    close = slice(0, RATE)
    assert (sound.waveform[..., close] - uniform[..., close]).abs().max() < (sound.waveform - uniform)[
        ..., -RATE:
    ].abs().max()


def test_conditions_of_windows_are_those_of_a_whole_where_they_are_equal(tiny_model: SoundingModel) -> None:
    """Sampling with one condition per window is sampling in windows."""
    images, masks = video(1, range(1))
    condition = tiny_model.ground(tiny_model.see(images), mask=masks)
    noise = tiny_model.noise(4.0, [3])
    size = tiny_model.sampling_window(1.28)
    count = len(window_starts(noise.shape[2], size, size // 2))
    with pytest.raises(ValueError, match=rf"There are 1 conditions for {count} windows of 1 sounds"):
        tiny_model.sample(condition, noise, steps=2, window=1.28, changing=True)
    many = Condition.cat([condition] * count)
    changing = tiny_model.sample(many, noise, steps=2, window=1.28, changing=True)
    seen: list[Tensor] = []
    handle = tiny_model.unet.register_forward_pre_hook(
        lambda module, inputs, given: seen.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    other = Condition.cat([condition, *[tiny_model.ground(tiny_model.see(1 - images), mask=masks)] * (count - 1)])
    try:
        half = tiny_model.sample(other, noise, steps=2, window=1.28, changing=True)
        tiny_model.sample(many, noise, negative=condition, steps=2, window=1.28, changing=True)
    finally:
        handle.remove()
    assert [len(each) for each in seen] == [2] * (4 * count)
    for step in range(2):  # each window its own, and the null condition in all
        torch.testing.assert_close(torch.stack(seen[step * count :][:count])[:, 0], other.tokens)
    assert all(torch.equal(each[1], condition.tokens[0]) for each in seen[2 * count :])
    near = slice(0, size // 2)
    assert (half - changing)[:, :, near].abs().max() < (half - changing)[:, :, size:].abs().max()


def test_no_click_where_windows_and_frames_meet(tiny_model: SoundingModel) -> None:
    images, masks = video(80, range(80))
    masks[40:, :, :12] = 0  # narrower, and further to the right
    images[40:] = 1 - images[40:]
    sound = made(tiny_model, images, masks, 10.0, window=2.56)
    for channel in sound.waveform[0]:
        for window in range(1, 6):
            change = change_at(channel, RATE, round(window * 1.28 * RATE))
            assert change.click <= float(change.clicks.max())


def test_few_frames_are_looked_at_and_the_others_images_are_not_read(tiny_model: SoundingModel) -> None:
    """Of 60 per second the encoder sees one: the one in which the object is largest."""
    read: list[int] = []

    def frames() -> Iterator[Frame]:
        for number in range(480):
            mask = torch.zeros(6, 8)
            if number % 60 != 7:
                mask[1:3, 2:4] = 1
            if number % 60 == 41:
                mask[1:5, 2:6] = 1
            yield Frame(mask, lambda number=number: read.append(number) or torch.rand(6, 8, 3))  # type: ignore[misc]

    sound = sound_video(tiny_model, frames(), 60.0, steps=1)
    assert sound.waveform.shape == (1, 2, 8 * RATE)
    assert sound.looked_at == read == [60 * second + 41 for second in range(8)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masks": torch.zeros(4, 6, 8)}, "The 4 masks are all empty, but an object is expected"),
        ({"masks": torch.ones(3, 6, 8)}, "There are 4 frames and 3 masks, but one mask per frame"),
        ({"masks": torch.ones(4, 8)}, r"images have shape \(4, 6, 8, 3\) and masks \(4, 8\)"),
        ({"images": torch.ones(0, 6, 8, 3), "masks": torch.ones(0, 6, 8)}, "with at least one frame"),
        ({"masks": torch.full((4, 6, 8), torch.nan)}, "mask has values nan"),
        ({"images": torch.full((4, 6, 8, 3), torch.nan)}, "image has values that are not finite"),
        ({"masks": torch.ones(4, 8, 6)}, "turned by 90 degrees"),
        ({"frame_rate": 0.5}, "The frame rate is 0.5, but 1 to 60"),
        ({"frame_rate": float("nan")}, "The frame rate is nan, but 1 to 60"),
        ({"follow": 2.0}, "follow is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_long_work(
    tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(SoundingModel, "sample", lambda *args, **options: pytest.fail("it was sampled"))
    given: dict[str, Any] = {
        "images": torch.ones(4, 6, 8, 3),
        "masks": torch.ones(4, 6, 8),
        "frame_rate": 4.0,
        **change,
    }
    with pytest.raises(ValueError, match=words) as caught:
        made(tiny_model, **given)
    assert "\n" not in str(caught.value)


def test_settings_are_checked_before_any_frame_is_read(tiny_model: SoundingModel) -> None:
    frames = (pytest.fail("a frame was read") for _ in range(1))
    nan = float("nan")
    for wrong in ({"steps": 0}, {"cfg": nan}, {"sampler": "x"}, {"window": nan}):
        with pytest.raises(ValueError, match="expected"):
            sound_video(tiny_model, frames, 8.0, **wrong)  # type: ignore[arg-type]


def test_longer_than_a_minute_is_found_while_frames_come(tiny_model: SoundingModel) -> None:
    frames = (Frame(torch.zeros(2, 2), lambda: pytest.fail("an image was read")) for _ in iter(int, 1))  # endless
    with pytest.raises(ValueError, match="The video has 61 or more frames at 1 per second, but at most 60 s"):
        sound_video(tiny_model, frames, 1.0)
    with pytest.raises(ValueError, match="The video has no frames"):
        sound_video(tiny_model, iter(()), 1.0)


@pytest.mark.parametrize(("frame_rate", "samples"), [(60.0, 267), (1.0, RATE), (23.976, 667)])
def test_a_single_frame_is_enough(tiny_model: SoundingModel, frame_rate: float, samples: int) -> None:
    sound = made(tiny_model, *video(1, range(1)), frame_rate)
    assert sound.waveform.shape == (1, 2, samples)
    assert sound.waveform.abs().max() > 1e-3
