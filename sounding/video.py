"""The sound of an object in a video: it sounds while it is seen, louder where it is larger, and from where it is.

Only a few frames go through the patch encoder, one per second in which the object is seen: the one in which it is
largest. Each makes a condition, and each window of the sound is denoised with the condition of one of them
(MultiDiffusion, Bar-Tal et al. 2023). The sound follows presence, size and place; it is not synchronised to actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .audio.loudness import level as leveled
from .audio.motion import DROPOUT, Motion, Sight, sight_of
from .audio.placing import pan_over_time
from .batches import share_of_steps
from .diffusion import OnStep, check_sampling, item_seeds
from .encoders.patches import check_image, check_mask
from .grounding import Condition
from .multidiffusion import window_starts

if TYPE_CHECKING:
    from .config import Masks
    from .model import OnUse, SoundingModel

FRAME_RATES = (1.0, 60.0)  # per second
RATE_SLACK = 1.01  # files of 60 frames per second have a little more by the average
MAX_SECONDS = 60.0
SLACK = 0.1  # seconds: files of a minute have some frames more
LOOK = 1.0  # seconds, of which one frame is looked at
WINDOW = 5.12  # seconds of the sound's windows
ABSENT = 1.0  # seconds: after an absence as long as this, an object's sound begins anew
LEAST = 1.0  # seconds that the model makes of an object that is seen for less


@dataclass(frozen=True)
class Frame:
    """One frame of a video; its image is read only if it is looked at."""

    mask: Tensor  # [H, W] 0..1
    image: Callable[[], Tensor]  # [H, W, 3] 0..1


@dataclass(frozen=True)
class VideoSound:
    """The sound of one object in a video, and what it was made from."""

    waveform: Tensor  # [1, 1 or 2, samples] float32, as long as the video
    sample_rate: int
    condition: Condition  # one row per window
    looked_at: list[int]  # numbers of the frames that the windows' conditions were chosen from
    times: list[tuple[float, float]]  # in seconds, from when to when the object sounds
    frames: int  # of the video


def frames_of(images: Tensor, masks: Tensor) -> Iterator[Frame]:
    """Frames of images [F, H, W, 3] and masks [F, H, W], 0..1 (ComfyUI's IMAGE and MASK); nothing is copied.

    Raises:
        ValueError: not images and masks, no frames, or another number of masks than of images.
    """
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or masks.ndim != 3 or 0 in (*images.shape, *masks.shape):
        raise ValueError(
            f"images have shape {tuple(images.shape)} and masks {tuple(masks.shape)}, but [frames, H, W, 3] and "
            "[frames, H, W] with at least one frame are expected; connect the frames of a video and their masks."
        )
    if len(images) != len(masks):
        raise ValueError(
            f"There are {len(images)} frames and {len(masks)} masks, but one mask per frame is expected; take the "
            "masks of the same frames."
        )
    return (Frame(mask, lambda image=image: image) for image, mask in zip(images, masks, strict=True))  # type: ignore[misc]


def check_frame_rate(frame_rate: float) -> None:
    """Raise ValueError unless it is within `FRAME_RATES`, or above by no more than `RATE_SLACK`."""
    low, high = FRAME_RATES
    if not low <= frame_rate <= high * RATE_SLACK:
        raise ValueError(
            f"The frame rate is {frame_rate:g}, but {low:g} to {high:g} frames per second are expected; convert the "
            "video and its masks to a rate such as 24."
        )


def check_follow(follow: float) -> None:
    """Raise ValueError unless loudness can follow the size so far."""
    if not 0 <= follow <= 1:
        raise ValueError(f"follow is {follow}, but 0 (loudness ignores the size) to 1 is expected.")


def check_length(frames: int, frame_rate: float) -> None:
    """Raise ValueError for a video longer than `MAX_SECONDS`."""
    if frames > (MAX_SECONDS + SLACK) * frame_rate:
        raise ValueError(
            f"The video has {frames} or more frames at {frame_rate:g} per second, but at most {MAX_SECONDS:g} s are "
            "expected; cut it into parts."
        )


@torch.inference_mode()
def sound_video(
    model: SoundingModel,
    frames: Iterable[Frame],
    frame_rate: float,
    *,
    text: str | None = None,
    negative_text: str | None = None,
    by: Masks | None = None,
    likely_names: int | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    follow: float = 1.0,
    place: bool = True,
    level: bool = True,
    window: float = WINDOW,
    on_step: OnStep | None = None,
    on_use: OnUse | None = None,
) -> VideoSound:
    """The sound of the masked object of a video, as long as the video.

    Memory does not grow with the video: frames are taken one after the other, and the networks work in windows. A time
    in which the object is seen has a sound of its own, made of the seed's noise at that time.

    Args:
        model: of `sounding.load`.
        frames: of `frames_of`, or of files (`images.videos.read_video`).
        frame_rate: frames per second, 1 to 60.
        text, negative_text, by, likely_names: see `SoundingModel.generate`.
        steps, cfg, sampler, seed, on_step, on_use: likewise.
        follow: how far the gain follows the object's size, 0 (not at all) to 1, see `Motion.gain`.
        place: stereo, panned to the object's centre; otherwise mono.
        level: bring the sounds to one loudness (`audio.loudness.level`), to which the gain by size is applied.
        window: seconds of the windows, which overlap by half; they are never shorter than the clips of the training.

    Raises:
        ValueError: a frame rate or a length out of range, no frames, something that is no mask, or an object that is
            in no frame; and see `SoundingModel.generate`.
    """
    check_follow(follow)
    check_frame_rate(frame_rate)
    check_sampling(model.config.diffusion, steps, cfg, sampler)
    item_seeds(seed, [])
    size = model.sampling_window(window)
    use = on_use or (lambda parts: None)

    def look(number: int, frame: Frame) -> _Look:
        image = check_image(frame.image())
        use(("patches",))
        condition, negative = model.select(
            model.see(image),
            image,
            mask=frame.mask,
            text=text,
            negative_text=negative_text,
            by=by,
            likely_names=likely_names,
            on_use=on_use,
        )
        return _Look(number, condition, negative)

    motion, looks = _watched(frames, frame_rate, look)
    config = model.config
    rate, seconds = config.audio.sample_rate, len(motion.sights) / frame_rate
    per_second = rate / (config.audio.hop * config.vae.stride)  # latent frames
    # The last time may be shorter than what is made of it, which is rounded up to what the U-Net halves.
    noise = model.noise(seconds + LEAST + config.latent_frames(LEAST) / per_second, [seed])
    runs = motion.runs(ABSENT)
    use(("grounding", "unet"))
    latents, conditions, begins = [], [], []
    for number, (first, last) in enumerate(runs):
        begin = math.floor(first / frame_rate * per_second + 1e-6)
        length = config.latent_frames(max(LEAST, last / frame_rate - begin / per_second))
        middles = [begin + start + min(size, length) / 2 for start in window_starts(length, size, size // 2)]
        there = [each for each in looks if first <= each.number < last]
        chosen = [_best(there, middle / per_second * frame_rate, size / per_second * frame_rate) for middle in middles]
        negatives = [each.negative for each in chosen if each.negative is not None]
        conditions.append(Condition.cat([each.condition for each in chosen]))
        begins.append(round(begin / per_second * rate))
        sampled = model.sample(
            conditions[-1],
            noise[:, :, begin : begin + length],
            negative=Condition.cat(negatives) if negatives else None,
            steps=steps,
            cfg=cfg,
            sampler=sampler,
            window=window,
            changing=True,
            on_step=share_of_steps(on_step, number, len(runs)),
        )
        latents.append(sampled)
    use(("vae",))
    mels = [model.decode(each) for each in latents]
    use(("vocoder",))
    waveform = torch.zeros(round(seconds * rate))
    for begin, (_, last), mel in zip(begins, runs, mels, strict=True):
        sound = model.vocode(mel)[0, 0].cpu()
        sound = leveled(sound[None], rate, fade_out=0.0)[0] if level else sound
        end = min(len(waveform), round(last / frame_rate * rate), begin + len(sound))
        waveform[begin:end] = sound[: end - begin]
    waveform = waveform * motion.gain(len(waveform), rate, follow)
    made = pan_over_time(waveform, motion.pan(len(waveform), rate)) if place else waveform[None]
    return VideoSound(
        made[None],
        rate,
        Condition.cat(conditions),
        [each.number for each in looks],
        [(first / frame_rate, last / frame_rate) for first, last in motion.runs(DROPOUT)],
        len(motion.sights),
    )


@dataclass(frozen=True)
class _Look:
    """What was seen in a frame that went through the patch encoder."""

    number: int
    condition: Condition
    negative: Condition | None


def _watched(
    frames: Iterable[Frame], frame_rate: float, look: Callable[[int, Frame], _Look]
) -> tuple[Motion, list[_Look]]:
    """The object's way through all frames, and what is seen in one frame per second: where the object is largest."""
    sights: list[Sight] = []
    looks: list[_Look] = []
    largest: tuple[int, Frame] | None = None
    for number, frame in enumerate(frames):
        check_length(number + 1, frame_rate)
        sights.append(sight_of(check_mask(frame.mask)[0]))
        if largest is not None and int(largest[0] / frame_rate / LOOK) < int(number / frame_rate / LOOK):
            looks.append(look(*largest))
            largest = None
        if sights[-1].share > (sights[largest[0]].share if largest is not None else 0.0):
            largest = (number, frame)
    if largest is not None:
        looks.append(look(*largest))
    if not looks:
        many = f"{len(sights)} masks are all empty" if sights else "video has no frames"
        raise ValueError(
            f"The {many}, but an object is expected in one frame at least; mask what is to sound (white, above half)."
        )
    return Motion(sights, frame_rate), looks


def _best(looks: Sequence[_Look], middle: float, window: float) -> _Look:
    """What conditions a window: what the model is sure of and what is near the window's middle (in frames)."""

    def fit(look: _Look) -> float:
        apart = abs(look.number + 0.5 - middle) / (window / 2)
        return (float(look.condition.sureness) + 0.01) * max(1 - apart, 0.01)

    return max(looks, key=fit)
