"""Parts of a sound made anew: a region within it, what comes after its end, or before its beginning.

The sound around a region is encoded, the region's latents are sampled with the others kept (`sample(renew=...)`), and
what comes out is cross-faded into the sound. All other samples stay exactly as they are, at any rate, mono or stereo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .audio.resampling import check_rate, fit_length, resample
from .batches import share_of_steps
from .diffusion import item_seeds
from .utils.messages import printable

if TYPE_CHECKING:
    from .diffusion import OnStep
    from .grounding import Condition
    from .parts import Parts

CONTEXT = 5.0  # seconds on each side of a region that the model sees; the rest of a long sound costs nothing
BLEND = 0.03  # seconds
NEAR = 1.0  # seconds beside a region whose level its sound gets
MAX_SECONDS = 600.0  # of a region
MAX_END = 1e6  # seconds, which is beyond any sound's end
LEAD = 0.2  # seconds of a new part beside a joint that keep their coarse form, at most a quarter of the part
JOINT = 0.5  # share of the noise range that those go through
SECOND_SEED = 1_000_003  # the second time, noise is drawn from the seed of another item
QUIET = 1e-3  # root mean square of what has no level to be brought to
MAX_GAIN = 20.0  # of a new part's sound


@dataclass(frozen=True)
class Edit:
    """What is made anew, in seconds of the sound."""

    region: tuple[float, float] | None = None  # from, to
    after: float = 0.0  # the sound goes on for so long
    before: float = 0.0  # the sound begins so much earlier

    def __post_init__(self) -> None:
        for name in ("after", "before"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_SECONDS:
                raise ValueError(f"{name} is {value}, but 0 to {MAX_SECONDS:g} seconds are expected.")
        if self.region is None and not self.after and not self.before:
            raise ValueError(
                "Nothing is to be made anew; give a region, such as 1.0 to 2.5 s, or seconds to add after or before."
            )
        if self.region is not None and not 0 <= self.region[0] < self.region[1] < math.inf:
            raise ValueError(
                f"The region is {self.region[0]:g} to {self.region[1]:g} s, but one from 0 or later to a later time is "
                "expected."
            )


def read_region(text: str) -> tuple[float, float]:
    """`1.0:2.5` as (1.0, 2.5); without the second number the region goes to the sound's end.

    Raises:
        ValueError: it is not of this form.
    """
    first, colon, last = text.partition(":")
    try:
        region = (float(first or 0), float(last) if last.strip() else MAX_END)
    except ValueError:
        region = (math.nan, math.nan)
    if not colon or not 0 <= region[0] < region[1] < math.inf:
        raise ValueError(
            f"The region is {printable(text[:40])!r}, but a time and a later one are expected; write seconds, such as "
            "1.0:2.5."
        )
    return region


def edit_sound(
    model: Parts,
    sound: Tensor,
    rate: int,
    condition: Condition,
    edit: Edit,
    *,
    seed: int = 0,
    negative: Condition | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    blend: float = BLEND,
    on_step: OnStep | None = None,
    on_use: Callable[[tuple[str, ...]], None] | None = None,
) -> Tensor:
    """Make parts of a sound anew.

    Args:
        model: of `sounding.load`.
        sound: [channels, samples], at any rate. New parts are mono, at the channels' own levels.
        rate: in Hz.
        condition: what sounds in the new parts, one row of `ground`.
        edit: which parts. A region that ends after the sound's end ends there.
        seed: the same seed makes the same parts.
        negative, steps, cfg, sampler: see `Parts.sample`.
        blend: seconds beside each new part over which the sound is cross-faded into it.
        on_step: progress, `on_step(done, steps)`; may raise to cancel.
        on_use: called with names of parts before they are used.

    Returns:
        [channels, samples + those added]. Outside of new parts and blends they are those of `sound`, bit by bit.

    Raises:
        ValueError: not a sound, more than one condition, a region beyond the sound's end or above `MAX_SECONDS`, or a
            blend below 0.
    """
    check_rate(rate)
    if sound.ndim != 2 or 0 in sound.shape or not sound.isfinite().all():
        raise ValueError(
            f"sound has shape {tuple(sound.shape)}, but [channels, samples] with at least one sample and only finite "
            "ones is expected."
        )
    if len(condition) != 1:
        raise ValueError(f"There are {len(condition)} conditions, but one is expected for the new parts of one sound.")
    if not 0 <= blend <= CONTEXT:
        raise ValueError(f"blend is {blend}, but 0 to {CONTEXT:g} seconds are expected.")
    parts = []
    if edit.region is not None:
        first, last = (round(time * rate) for time in edit.region)
        if first >= sound.shape[1]:
            raise ValueError(
                f"The region begins at {edit.region[0]:g} s, but the sound ends at {sound.shape[1] / rate:g} s; give "
                "an earlier one, or continue the sound."
            )
        parts.append((first, min(last, sound.shape[1])))
    if edit.after:
        parts.append((sound.shape[1], sound.shape[1] + round(edit.after * rate)))
    if edit.before:
        parts.append((-round(edit.before * rate), 0))
    for number, (first, last) in enumerate(parts):
        if not 0 < last - first <= MAX_SECONDS * rate:
            raise ValueError(
                f"A new part has {(last - first) / rate:g} s, but more than 0 and at most {MAX_SECONDS:g} are expected."
            )

        def make(mono: Tensor, renew: tuple[float, float], number: int = number) -> Tensor:
            return _sampled(
                model,
                mono,
                renew,
                condition,
                negative=negative,
                seed=seed,
                steps=steps,
                cfg=cfg,
                sampler=sampler,
                on_step=share_of_steps(on_step, number, len(parts)),
                on_use=on_use or (lambda parts: None),
            )

        sound = _replaced(sound, rate, first, last, model.config.audio.sample_rate, round(blend * rate), make)
    return sound


def _replaced(
    sound: Tensor,
    rate: int,
    first: int,
    last: int,
    to_rate: int,
    blend: int,
    make: Callable[[Tensor, tuple[float, float]], Tensor],
) -> Tensor:
    """The sound with samples `first` to `last` made anew; they may lie before its beginning or after its end.

    `make` gets what is around them, [samples] at `to_rate`, and from when to when it is to be made anew, in seconds.
    """
    before, after = max(0, -first), max(0, last - sound.shape[1])
    whole = torch.nn.functional.pad(sound, (before, after))
    first, last = first + before, last + before
    context = round(CONTEXT * rate)
    left, right = max(0, first - context), min(whole.shape[1], last + context)
    piece = whole[:, left:right].cpu().float()
    start, end, size = first - left, last - left, right - left
    times = torch.arange(left, right)
    given = (times >= before) & (times < whole.shape[1] - after)
    kept = given & ((times < first) | (times >= last))
    mono = _mirrored(piece.mean(dim=0), given)
    made = make(resample(mono, rate, to_rate), (start / rate, end / rate))
    made = fit_length(resample(made.cpu(), to_rate, rate), size)
    near = kept & (times >= first - round(NEAR * rate)) & (times < last + round(NEAR * rate))
    new = made * _gains(piece, made, (near, kept, given))
    result = whole.clone()
    result[:, first:last] = new[:, start:end].to(result)
    for count, at, back in ((min(blend, start), start, False), (min(blend, size - end), end, True)):
        if count:
            there = slice(at, at + count) if back else slice(at - count, at)
            faded = _crossfaded(piece[:, there], new[:, there], back=back)
            result[:, left + there.start : left + there.stop] = faded.to(result)
    return result


def _mirrored(mono: Tensor, given: Tensor) -> Tensor:
    """[samples], of which those that are not given become mirror images of those that are.

    The encoder sees across the border of a new part, and would see the sound break off there.
    """
    first, count = int(given.nonzero()[0]), int(given.sum())
    period = max(1, 2 * (count - 1))
    places = (torch.arange(len(mono)) - first) % period
    return mono[first + torch.minimum(places, period - places)]


def _gains(piece: Tensor, made: Tensor, places: Sequence[Tensor]) -> Tensor:
    """What brings what was made [samples] to the level of the sound's channels [channels, samples]: [channels, 1].

    Both are compared in the first of the places that is not silent: what is kept was encoded and decoded, so that both
    should be the same there. Where all are silent, the vocoder's own level stays.
    """
    for there in places:
        wanted, reached = (each[..., there].square().mean(dim=-1).sqrt() for each in (piece, made))
        if there.any() and float(wanted.max()) > QUIET and float(reached) > QUIET:
            return (wanted / reached).clamp(max=MAX_GAIN)[:, None]
    return torch.ones(len(piece), 1)


def _crossfaded(old: Tensor, new: Tensor, *, back: bool) -> Tensor:
    """From old to new [channels, samples], or with `back` from new to old, at constant power.

    Both are alike but not the same: the weights of uncorrelated sounds are divided by what their correlation adds.
    """
    angle = (torch.arange(old.shape[1]) + 0.5) / old.shape[1] * math.pi / 2
    fade_in = angle.cos() if back else angle.sin()
    fade_out = (1 - fade_in.square()).sqrt()
    power = (old.square().mean(dim=1) * new.square().mean(dim=1)).sqrt().clamp(min=1e-12)
    alike = ((old * new).mean(dim=1) / power).clamp(0, 1)[:, None]
    return (old * fade_out + new * fade_in) / (1 + 2 * alike * fade_in * fade_out).sqrt()


def _sampled(
    model: Parts,
    mono: Tensor,
    renew: tuple[float, float],
    condition: Condition,
    *,
    seed: int,
    on_step: OnStep | None,
    on_use: Callable[[tuple[str, ...]], None],
    **settings: Any,
) -> Tensor:
    """A sound [samples] at the model's rate with some seconds of it sampled anew: as many samples, as the vocoder gives
    them.

    At first what lies beside the joints stays as it is, in the new part as well (mirrored, where there was nothing), so
    that the sound does not end or begin at a joint; then all of the part is sampled again from the noise of `JOINT`.
    Latents with a strength of their own are those of differential diffusion (Levin and Fried 2023).
    """
    config = model.config
    seconds = len(mono) / config.audio.sample_rate
    # The encoder pads with silence, in which a sound would seem to end.
    frames = config.latent_frames(seconds)
    longer = math.ceil(frames * config.vae.stride * config.audio.hop)
    mono = _mirrored(fit_length(mono, longer), torch.arange(longer) < len(mono))
    on_use(("vae",))
    latents = model.encode(mono[None])
    per_second = config.audio.sample_rate / (config.audio.hop * config.vae.stride)
    first, last = math.floor(renew[0] * per_second + 1e-6), math.ceil(renew[1] * per_second - 1e-6)
    if renew[1] >= seconds - 1 / per_second:
        last = latents.shape[2]
    lead = min(round(LEAD * per_second), (last - first) // 4)
    inner = first + lead * (first > 0), last - lead * (last < latents.shape[2])
    on_use(("grounding", "unet"))
    for number, ((start, end), denoise) in enumerate(((inner, 1.0), ((first, last), JOINT))):
        mask = torch.zeros(1, 1, latents.shape[2], 1)
        mask[:, :, start:end] = 1
        noise = model.noise(seconds, item_seeds(seed, [number * SECOND_SEED]))
        latents = model.sample(
            condition,
            noise,
            latents=latents,
            renew=mask,
            denoise=denoise,
            on_step=share_of_steps(on_step, number, 2),
            **settings,
        )
    on_use(("vae",))
    mel = model.decode(latents)
    on_use(("vocoder",))
    return model.vocode(mel)[0, 0]
