"""Train grounding and U-Net together on scenes (equations 1 to 4), encoders and VAE frozen.

Patches, queries, masks and latents of all scenes are computed once and kept in one file. A caption's attention
over the patches conditions the U-Net, as in section 3.2; a share of items (`mask_training`) takes the mask of
the sounding objects instead, and a tenth of all items takes the null condition.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio import MelSpectrogram
from sounding.config import SoundingConfig
from sounding.diffusion import build_noise_schedule
from sounding.files import replacing
from sounding.grounding import Grounding
from sounding.model import SoundingModel
from sounding.networks import build_unet
from sounding.vision import mask_to_grid

from .data.scenes import as_tensors, make_scene, scene_caption, scene_rng, scene_sound
from .data.stamps import Stamps
from .loop import LoopConfig, run

log = logging.getLogger("training")


@dataclass(frozen=True)
class GroundedRecipe:
    """Settings of `train_grounded`.

    `snr_gamma` weighs the loss by min(SNR, gamma) / SNR (Hang et al. 2023); 0 is the plain loss of equation 1.
    """

    loop: LoopConfig
    scenes: int = 6000
    captions: int = 2
    drop: float = 0.1
    snr_gamma: float = 5.0


class Grounded(nn.Module):
    """What learns in this stage, named as in a SoundingModel."""

    def __init__(self, config: SoundingConfig):
        super().__init__()
        self.grounding = Grounding(config.grounding, config.patches.width, config.patches.grid**2)
        self.unet = build_unet(config)


def start_from_encoders(grounding: Grounding) -> None:
    """Begin with the attention that the encoders were trained for: W_Q and W_K are identities.

    The encoders' contrastive loss scored sentences against patches by the plain dot product over sqrt(L)
    (section 3.3 treats the two as one), so grounding starts where they ended instead of from noise.
    """
    for projection in (grounding.to_query, grounding.to_key):
        nn.init.eye_(projection.weight)


@torch.no_grad()
def build_cache(model: SoundingModel, recipe: GroundedRecipe, data: Stamps, file: Path) -> dict[str, Tensor]:
    """Features of `recipe.scenes` training scenes, from `file` if it is there.

    Returns:
        patches [N, P, L], coverage [N, P] (union of sounding objects), queries [N, captions, L] and latents
        [N, 8, T/4, 16] with their deviations, all but the last as float16.
    """
    from safetensors.torch import load_file, save_file

    if file.is_file():
        return load_file(file)
    config, size = model.config, model.config.patches.image_size
    samples = round(config.train_seconds * config.audio.sample_rate)
    to_mel = MelSpectrogram(config.audio)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("patches", "coverage", "queries", "mean", "std")}
    for first in range(0, recipe.scenes, 16):
        rngs = [scene_rng("train", i) for i in range(first, min(first + 16, recipe.scenes))]
        scenes = [make_scene(data, rng, size=(size, size)) for rng in rngs]
        drawn = [as_tensors(scene) for scene in scenes]
        captions = [
            scene_caption(data, scene, rng)
            for scene, rng in zip(scenes, rngs, strict=True)
            for _ in range(recipe.captions)
        ]
        sounds = [scene_sound(data, scene, samples, rng) for scene, rng in zip(scenes, rngs, strict=True)]
        mel = (to_mel(torch.stack(sounds)) - config.vae.mel_mean) / config.vae.mel_std
        pictures = torch.cat([image for image, _ in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.vae.encode(mel[:, None]).latent_dist
            parts["patches"].append(model.patches(pictures).half())
        parts["queries"].append(model.query.encode(captions).unflatten(0, (-1, recipe.captions)).half())
        for scene, (_, masks) in zip(scenes, drawn, strict=True):
            union = masks[list(scene.sounding)].amax(dim=0, keepdim=True)
            parts["coverage"].append(mask_to_grid(union, (size, size), config.patches))
        parts["mean"].append(posterior.mean.float() * config.vae.scale)
        parts["std"].append((posterior.std.float() * config.vae.scale).half())
        if first % 512 == 0:
            log.info("features of scene %d/%d", first, recipe.scenes)
    cache = {name: torch.cat(values).contiguous() for name, values in parts.items()}
    with replacing(file) as temporary:
        save_file(cache, temporary)
    return cache


def train_grounded(
    model: SoundingModel,
    recipe: GroundedRecipe,
    data: Stamps,
    folder: Path,
    *,
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train from `start` (from scratch without) with `model`'s frozen encoders and VAE.

    Returns:
        Weights of `grounding.*` and `unet.*`.
    """
    torch.manual_seed(recipe.loop.seed)
    config = model.config
    cache = build_cache(model, recipe, data, folder / "grounded_scenes.safetensors")
    learning = Grounded(config)
    if start is not None:
        learning.load_state_dict(start)
    else:
        start_from_encoders(learning.grounding)
    schedule = build_noise_schedule(config.diffusion)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weight = snr.clamp(max=recipe.snr_gamma) / snr if recipe.snr_gamma else torch.ones_like(snr)

    def losses(step: int, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        batch = recipe.loop.batch
        rows = torch.from_numpy(rng.integers(0, len(cache["mean"]), batch))
        mean, std = cache["mean"][rows], cache["std"][rows].float()
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        patches = cache["patches"][rows].float()
        query = cache["queries"][rows, torch.from_numpy(rng.integers(0, recipe.captions, batch))].float()
        coverage = cache["coverage"][rows].clamp(min=1e-6)

        attended = learning.grounding.by_query(query, patches)
        masked = learning.grounding.by_mask(coverage, patches)
        by_mask = torch.from_numpy(rng.random(batch) < config.grounding.mask_training)[:, None, None]
        dropped = torch.from_numpy(rng.random(batch) < recipe.drop)[:, None, None]
        condition = torch.where(by_mask, masked.tokens, attended.tokens)
        condition = torch.where(dropped, learning.grounding.null_condition(batch), condition)

        times = torch.randint(0, config.diffusion.train_steps, (batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = schedule.add_noise(latents, noise, times)
        predicted = learning.unet(noisy, times, encoder_hidden_states=condition).sample.float()
        errors = functional.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))
        on_target = (attended.weights * (coverage > 0.3)).sum(-1).mean()
        return {
            "loss": (errors * weight[times]).mean(),
            "mse": errors.mean(),
            "on_target": on_target.detach(),
            "weight_std": learning.grounding.weight_std.clone(),
        }

    return run(learning, losses, recipe.loop, folder / "grounded.state")
