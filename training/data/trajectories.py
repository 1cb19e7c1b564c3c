"""Trajectories of a trained model's sampler: the conditions of clips, and the latents on the way from noise to a sound.

Step distillation learns from them (`training.tasks.step_distillation`). Each takes many evaluations of the U-Net, so
they are made once, and training reads them as often as it wants.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sounding.config import Sampler
from sounding.diffusion import MAX_SEED, Denoiser, draw_noise, sample_latents
from sounding.model import SoundingModel, load
from sounding.utils.fields import Checked, Range

from .features import FATAL, check_features, fingerprint, weight_bytes
from .shard_folders import Folders
from .shard_format import Kind, Sample, Skipped, known_of, reason
from .shards import Shards
from .source import Source, hash_json
from .storage import StorageError

EVEN: tuple[Sampler, ...] = ("ddim", "dpm++")  # samplers whose steps are evenly spaced, as the student's are


@dataclass(frozen=True)
class TrajectorySettings(Checked):
    """How trajectories are sampled.

    Attributes:
        steps: of the sampler; a multiple of `points`.
        points: how many latents of the trajectory are kept besides the noise that it begins with, evenly spaced in
            time. A student of as many evaluations, or of a divisor, can learn from them.
        cfg: guidance scale; None is the checkpoint's own (`config.generation`), as for the sampler.
        sampler: one of `EVEN`.
        masks: share of the clips with masks that are selected by their mask, the others by a caption.
        backgrounds: share of the clips with masks in which what is no object is selected, instead.
        per_clip: trajectories of each clip, with noise and selections of their own.
        seed: of all that is random.

    Raises:
        ValueError: a number out of its range, or numbers that do not fit each other.
    """

    steps: Annotated[int, Range(1, 999)] = 16
    points: Annotated[int, Range(1, 64)] = 8
    cfg: Annotated[float, Range(0, 1000)] | None = None
    sampler: Sampler | None = None
    masks: Annotated[float, Range(0, 1)] = 0.5
    backgrounds: Annotated[float, Range(0, 1)] = 0.05
    per_clip: Annotated[int, Range(1, 10_000)] = 1
    seed: Annotated[int, Range(0, 2**31)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % self.points:
            raise ValueError(
                f"steps is {self.steps} and points {self.points}, but steps should be a multiple of points; take "
                f"{-(-self.steps // self.points) * self.points} steps."
            )
        if self.masks + self.backgrounds > 1:
            raise ValueError(
                f"masks is {self.masks:g} and backgrounds {self.backgrounds:g}, but they are shares of the same clips "
                "and at most 1 together."
            )


def conditions_fingerprint(model: SoundingModel) -> str:
    """Names what the conditions and the latents of trajectories mean: `features.fingerprint`, and the grounding."""
    return _hash(fingerprint(model), model.grounding)


def _hash(start: str, network: torch.nn.Module) -> str:
    total = hashlib.sha256(start.encode())
    for piece in weight_bytes(network):
        total.update(piece)
    return total.hexdigest()


class _Recorder:
    """A denoiser that keeps the noisy latents of each step, without their copies for guidance."""

    def __init__(self, denoiser: Denoiser, batch: int):
        self.denoiser, self.batch = denoiser, batch
        self.latents: list[Tensor] = []

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        """See `Denoiser`."""
        self.latents.append(sample[: self.batch])
        return self.denoiser(sample, timestep, encoder_hidden_states=encoder_hidden_states)


@torch.inference_mode()
def trajectories(
    model: SoundingModel, condition: Tensor, noise: Tensor, *, steps: int, points: int, cfg: float, sampler: str
) -> Tensor:
    """What the sampler makes of noise on its way: [B, points + 1, 8, T/4, 16], the noise first, the result last.

    Args:
        condition: [B, N, D].
        noise: [B, 8, T/4, 16] standard normal.
        steps: a multiple of `points`; between two latents that are kept, `steps / points` of them.
        cfg, sampler: as in `SoundingModel.sample`.
    """
    null = model.grounding.null_condition(len(condition)).to(condition).expand_as(condition)
    recorder = _Recorder(model.unet, len(noise))
    config = model.config.diffusion
    result = sample_latents(recorder, noise, condition, null, config, steps=steps, cfg=cfg, sampler=sampler)
    return torch.stack([*recorder.latents[:: steps // points], result], dim=1)


class TrajectorySource(Source):
    """Trajectories of clips whose features are there, made in this process, `batch` at a time.

    Each has its condition as `tokens` [N, D] and the latents as `trajectory` [points + 1, 8, T/4, 16]. What is random
    follows from the seed and the trajectory's number; batches of other sizes differ by rounding.

    Raises:
        ValueError: features of another model, or without captions and masks; a sampler with a spacing of its own.
    """

    kind: Kind = "features"

    def __init__(self, features: Folders, model: SoundingModel, settings: TrajectorySettings, *, batch: int = 16):
        if batch < 1:
            raise ValueError(f"batch is {batch}, but 1 or more is expected.")
        described = ("id", "captions", "licence", "source", "seconds", "frames", "queries")
        self.clips = Shards(features, described, optional=("coverage", "backdrop"))
        check_features(self.clips, model)
        self.network, self.chosen, self.batch = model.eval(), settings, batch
        own = model.config.sampling(cfg=settings.cfg, sampler=settings.sampler, plain=False)
        self.cfg, self.sampler = own.cfg, own.sampler
        if self.sampler not in EVEN:
            raise ValueError(
                f"sampler is {self.sampler!r}, but {' or '.join(EVEN)} is expected, whose steps are evenly spaced as "
                "those of the student are; give one of them."
            )
        self.model = conditions_fingerprint(model)

    def __len__(self) -> int:
        return len(self.clips) * self.chosen.per_clip

    def settings(self) -> dict[str, Any]:
        """See Source."""
        shards = [(shard.name, shard.bytes, shard.offsets) for shard in self.clips.index.shards]
        return {
            "from": "trajectories",
            **dataclasses.asdict(self.chosen),
            "cfg": self.cfg,
            "sampler": self.sampler,
            "train_seconds": self.network.config.train_seconds,
            "unet": _hash("", self.network.unet),
            "inputs": hash_json(shards),
        }

    def name(self, position: int) -> str:
        """See Source."""
        return f"trajectory {position}"

    def make(self, position: int) -> Sample:
        """See Source."""
        (made,) = self.samples(position, position + 1)
        if isinstance(made, Skipped):
            raise ValueError(made.why)
        return made

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        """See Source."""
        for start in range(first, last, self.batch):
            yield from self._made(range(start, min(start + self.batch, last)))

    @torch.inference_mode()
    def _made(self, positions: range) -> Iterator[Sample | Skipped]:
        """The samples of one batch; a clip that cannot be read is left out."""
        found: list[tuple[int, dict[str, Any], Tensor]] = []
        left: dict[int, Skipped] = {}
        for position in positions:
            try:
                clip = self.clips[position // self.chosen.per_clip]
                found.append((position, clip, self._condition(clip, position)))
            except (StorageError, *FATAL):
                raise
            except Exception as error:
                left[position] = Skipped(self.name(position), reason(error))
        made: dict[int, Sample | Skipped] = {}
        if found:
            tokens = torch.cat([condition for *_, condition in found])
            made = self._sampled([(position, clip) for position, clip, _ in found], tokens)
        for position in positions:
            yield left[position] if position in left else made[position]

    def _condition(self, clip: dict[str, Any], position: int) -> Tensor:
        """Of a clip: [1, N, D], by a mask or a caption as generation has it."""
        model, settings = self.network, self.chosen
        rng = np.random.default_rng([settings.seed, 0, position])
        like = next(model.grounding.parameters())
        patches = clip["frames"][int(rng.integers(len(clip["frames"])))][None].to(like)
        drawn, caption = float(rng.random()), float(rng.random())
        name = "backdrop" if drawn < settings.backgrounds else "coverage"
        by_mask = drawn < settings.backgrounds + settings.masks or not len(clip["queries"])
        if by_mask and name in clip and bool((clip[name] > 0).any()):
            return model.grounding.by_mask(clip[name][None].to(like).clamp(0, 1), patches).tokens.float()
        if not len(clip["queries"]):
            raise ValueError("It has neither a caption nor a mask, but one is needed.")
        query = clip["queries"][int(caption * len(clip["queries"]))]
        return model.grounding.by_query(query[None].to(like), patches).tokens.float()

    def _sampled(self, clips: list[tuple[int, dict[str, Any]]], tokens: Tensor) -> dict[int, Sample | Skipped]:
        config, settings = self.network.config, self.chosen
        shape = (config.vae.latent_channels, config.latent_frames(config.train_seconds), config.latent_bands)
        seeds = [_noise_seed(settings.seed, position) for position, _ in clips]
        latents = trajectories(
            self.network,
            tokens,
            draw_noise(shape, seeds),
            steps=settings.steps,
            points=settings.points,
            cfg=self.cfg,
            sampler=self.sampler,
        )
        made: dict[int, Sample | Skipped] = {}
        for (position, clip), condition, path in zip(clips, tokens, latents, strict=True):
            arrays = {"tokens": condition.half().cpu().numpy(), "trajectory": path.half().cpu().numpy()}
            bad = [name for name, value in arrays.items() if not np.isfinite(value).all()]
            if bad:
                made[position] = Skipped(
                    self.name(position), f"In its {bad[0]} are values that are not finite as float16."
                )
                continue
            known = known_of(clip) | {"id": f"{clip['id']}-{position % settings.per_clip}"}
            made[position] = Sample(**known, features=arrays)
        return made


def _noise_seed(seed: int, position: int) -> int:
    """Of a trajectory's noise, far from those that people type."""
    return int(np.random.default_rng([seed, 1, position]).integers(MAX_SEED, dtype=np.uint64))


@dataclass(frozen=True)
class OpenTrajectories:
    """Opens a `TrajectorySource` in any process: folders of features, and the model from its file."""

    features: tuple[str, ...]
    model: str
    settings: TrajectorySettings
    batch: int = 16

    def __call__(self, device: str) -> TrajectorySource:
        """The source, its model on a device.

        Raises:
            ValueError, OSError: the model's file or the features cannot be read.
        """
        model = load(self.model, device=device, dtype=torch.float32)
        return TrajectorySource(self.features, model, self.settings, batch=self.batch)
