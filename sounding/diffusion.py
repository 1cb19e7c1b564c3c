"""Sampling latents with the paper's noise schedule and classifier-free guidance (sections 3.1 and 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .config import SAMPLERS, DiffusionConfig
from .utils.libraries import importing

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

MAX_SEED = 2**64 - 1
BLOCK = 128  # latent frames of noise drawn at once, 5 s; another number would change the sounds of all seeds
OnStep = Callable[[int, int], None]


class Denoiser(Protocol):
    """Predicts the noise (or v): diffusers' U-Net, or a closed form in tests."""

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        """Noisy latents [B, C, T, F], a step, condition [B, N, D] -> an object with `.sample`."""


def build_noise_schedule(config: DiffusionConfig) -> DDPMScheduler:
    """The forward process that training adds noise with."""
    with importing("diffusers"):
        from diffusers import DDPMScheduler

    return DDPMScheduler(**config.schedule)


def sampler_name(sampler: str | None, scheduler: str | None) -> str | None:
    """`sampler`, or `scheduler`, as that keyword of `SoundingModel.generate` and `sample` was spelled before.

    Raises:
        ValueError: both are given.
    """
    if sampler is not None and scheduler is not None:
        raise ValueError(
            f"sampler is {sampler!r} and scheduler {scheduler!r}, but they are two spellings of one setting; give "
            "sampler alone."
        )
    return scheduler if sampler is None else sampler


def item_seeds(seed: int, indices: Iterable[int]) -> list[int]:
    """The seeds of a batch's items, `seed + index` modulo 2^64.

    Raises:
        ValueError: `seed` is not one of 0 to 2^64 - 1.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}, but 0 to {MAX_SEED} (2^64 - 1) is expected; take another number.")
    return [(seed + index) % (MAX_SEED + 1) for index in indices]


def draw_noise(shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    """Noise [len(seeds), *shape] for a shape (C, T, F), drawn on the CPU so that it is the same on every device.

    There is one generator per seed, so an item does not depend on its batch. Noise is drawn in blocks of time, so a
    longer item begins like a shorter one of the same seed. (torch's generator uses only the lower 32 bits of a seed.)
    """
    channels, frames, bands = shape

    def item(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        blocks = [torch.randn(channels, BLOCK, bands, generator=generator) for _ in range(-(-frames // BLOCK))]
        return torch.cat(blocks, dim=1)[:, :frames]

    return torch.stack([item(seed) for seed in seeds])


def vary_noise(noise: Tensor, other: Tensor, strength: float) -> Tensor:
    """Noise between two, both [B, C, T, F]: their spherical interpolation per item, so that its variance stays one.

    Args:
        noise: what comes out at strength 0, bit for bit.
        other: what comes out at strength 1, likewise.
        strength: 0 to 1.

    Raises:
        ValueError: see `check_strength`.
    """
    check_strength(strength)
    if strength in (0, 1):
        return other if strength else noise
    # Noise of many values is nearly orthogonal, so the angle is about a right one; parallel noise has none.
    flat, towards = noise.flatten(1).double(), other.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat, towards).clamp(-1, 1)
    angle = torch.acos(cosine)[:, None]
    sine = torch.sin(angle)
    mixed = (torch.sin((1 - strength) * angle) * flat + torch.sin(strength * angle) * towards) / sine
    return torch.where(sine < 1e-6, flat, mixed).to(noise.dtype).reshape(noise.shape)


def check_strength(strength: float) -> None:
    """Whether `vary_noise` takes this, to be asked before long work.

    Raises:
        ValueError: it is not within 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"variation_strength is {strength}, but 0 to 1 is expected; 0.3 is a near variant.")


def draw_varied_noise(
    shape: tuple[int, ...], seeds: list[int], variations: Sequence[int | None], strength: float
) -> Tensor:
    """Noise as of `draw_noise`, each item moved towards that of its variation's seed; None is no variation.

    Raises:
        ValueError: not one variation per seed, or one that is no seed; see `check_strength` too.
    """
    channels, frames, bands = shape
    check_strength(strength)
    if len(variations) != len(seeds):
        raise ValueError(
            f"There are {len(variations)} variations for {len(seeds)} sounds, but one per sound is expected; give as "
            "many."
        )
    noise = draw_noise(shape, seeds)
    for row, variation in enumerate(variations):
        if variation is None:
            continue
        # Block by block, so that here too a longer item begins like a shorter one.
        whole = (channels, -(-frames // BLOCK) * BLOCK, bands)
        own, other = (
            draw_noise(whole, [seed]).split(BLOCK, dim=2) for seed in (seeds[row], *item_seeds(variation, [0]))
        )
        blocks = [vary_noise(a, b, strength) for a, b in zip(own, other, strict=True)]
        noise[row] = torch.cat(blocks, dim=2)[0, :, :frames]
    return noise


def guided_noise(
    denoiser: Denoiser, noisy: Tensor, step: Tensor, condition: Tensor, null: Tensor, cfg: float
) -> Tensor:
    """Equation 2, `cfg * e_cond + (1 - cfg) * e_null`, both halves as one batch; at cfg 1 only the first runs."""
    if cfg == 1.0:
        return denoiser(noisy, step, encoder_hidden_states=condition).sample
    both = denoiser(torch.cat([noisy, noisy]), step, encoder_hidden_states=torch.cat([condition, null])).sample
    conditional, unconditional = both.chunk(2)
    return cfg * conditional + (1 - cfg) * unconditional


def check_sampling(config: DiffusionConfig, steps: int | None, cfg: float | None, sampler: str | None) -> None:
    """Whether `sample_latents` takes these, to be asked before long work; None stands for what is known to be right.

    Raises:
        ValueError: steps or cfg out of range, or an unknown sampler.
    """
    if steps is not None and not 1 <= steps < config.train_steps:
        raise ValueError(f"steps is {steps}, but 1 to {config.train_steps - 1} is expected.")
    if cfg is not None and not 0 <= cfg < float("inf"):
        raise ValueError(f"cfg is {cfg}, but a number of 0 or more is expected; the paper uses 2.")
    if sampler is not None and sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}, but one of {', '.join(SAMPLERS)} is expected.")


def sample_latents(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Tensor,
    null: Tensor,
    config: DiffusionConfig,
    *,
    steps: int,
    cfg: float,
    sampler: str,
    denoise: float = 1.0,
    latents: Tensor | None = None,
    renew: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Run the sampler.

    Args:
        denoiser: the U-Net.
        noise: [B, C, T, F] float32 standard normal.
        condition: [B, N, D]; `null` likewise.
        steps: sampling steps over the whole noise range.
        cfg: guidance scale; 1 is none.
        denoise: with `latents`, the share of the noise range to go through; at 1 they are ignored.
        latents: [B, C, T, F] to start from, scaled as the U-Net sees them.
        renew: [B, 1, T, F] 0..1, where `latents` are sampled again (1) or kept (0); without it sampled everywhere.
        on_step: called as `on_step(done, steps)` after each step; may raise to cancel.

    Returns:
        [B, C, T, F] float32 on the condition's device.

    Raises:
        ValueError: steps, cfg or denoise out of range, or an unknown sampler.
    """
    check_sampling(config, steps, cfg, sampler)
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}, but more than 0 and at most 1 is expected.")
    with importing("diffusers"):
        from .samplers import build_sampler

    solver = build_sampler(config, sampler)
    solver.set_timesteps(steps, device=condition.device)
    noise = noise.to(condition.device, torch.float32)
    partial = latents is not None and denoise < 1
    first = steps - max(1, round(steps * denoise)) if partial else 0
    # Given no index, the solver looks the first step up by its time, which two of Karras' steps can share.
    solver.set_begin_index(first)
    if latents is not None and partial:
        noisy = solver.add_noise(latents.to(noise), noise, solver.timesteps[first : first + 1])
    else:
        noisy = noise * solver.init_noise_sigma

    def keep(noisy: Tensor, done: int) -> Tensor:
        """`noisy`, with what is to be kept inserted at the noise that belongs to the step after `done` ones."""
        if renew is None or latents is None:
            return noisy
        kept = latents.to(noise)
        if done < total:
            after = first + done
            kept = solver.add_noise(kept, noise, solver.timesteps[after : after + 1])
        return torch.lerp(kept, noisy, renew.to(noise))

    total = steps - first
    noisy = keep(noisy, 0)
    for done, step in enumerate(solver.timesteps[first:], start=1):
        scaled = solver.scale_model_input(noisy, step).to(condition.dtype)
        predicted = guided_noise(denoiser, scaled, step, condition, null, cfg).float()
        noisy = keep(solver.step(predicted, step, noisy).prev_sample, done)
        if on_step is not None:
            on_step(done, total)
    return noisy
