"""Which jobs are sampled together: those whose latents are equally long and which are sampled in the same way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..config import SoundingConfig
from ..cost import activations
from .job import Fault, Job

MOST_ROWS = 64  # sounds that are sampled at once, however small they are
SHARE = 0.5  # of a GPU's free memory, since estimates of memory are within a factor of two


@dataclass(frozen=True)
class Sampling:
    """What all rows of a batch share."""

    frames: int  # of the latents
    steps: int
    cfg: float
    sampler: str
    window: float | None  # seconds, where the sound is longer than one window
    negative: bool  # whether guidance leads away from a condition of their own
    loop: float | None  # seconds of loops, which their spectrogram is stretched to


@dataclass(frozen=True)
class Batch:
    """Jobs that are sampled together; a single job may have more rows than are sampled at once."""

    sampling: Sampling
    jobs: tuple[Job, ...]
    at_once: int  # rows


def rows_of(job: Job) -> int:
    """Sounds that a job makes."""
    return len(job.options.tracks)


def sampling_of(job: Job, config: SoundingConfig) -> Sampling:
    """How a job is sampled, with the checkpoint's own settings where it names none."""
    options = job.options
    negative = options.negative_mask is not None or options.negative_text is not None
    chosen = config.sampling(options.steps, options.cfg, options.sampler, plain=not negative)
    frames = config.latent_frames(options.seconds)
    windowed = frames > config.latent_frames(max(options.window, config.train_seconds))
    return Sampling(
        frames,
        chosen.steps,
        chosen.cfg,
        chosen.sampler,
        options.window if windowed else None,
        negative,
        options.seconds if options.loop else None,
    )


def plan(jobs: Iterable[Job], config: SoundingConfig, device: torch.device, at_once: int | None = None) -> list[Batch]:
    """All jobs in batches: in the order in which their kinds first come, and within one kind image by image.

    Args:
        jobs: in the order of the file.
        config: of the checkpoint.
        device: where they are sampled.
        at_once: rows of a batch at most, instead of what `rows_at_once` gives.
    """
    jobs = list(jobs)
    first: dict[str, int] = {}
    kinds: dict[Sampling, list[Job]] = {}
    for job in jobs:
        first.setdefault(image_key(job), len(first))
        kinds.setdefault(sampling_of(job, config), []).append(job)
    batches = []
    for sampling, alike in kinds.items():
        most = at_once or rows_at_once(config, sampling, device)
        batch: list[Job] = []
        for job in sorted(alike, key=lambda job: first[image_key(job)]):
            if batch and sum(map(rows_of, batch)) + rows_of(job) > most:
                batches.append(Batch(sampling, tuple(batch), most))
                batch = []
            batch.append(job)
        batches.append(Batch(sampling, tuple(batch), most))
    return batches


def rows_at_once(config: SoundingConfig, sampling: Sampling, device: torch.device) -> int:
    """How many rows fit into the memory of a device; on a CPU one, since it takes them one by one anyway.

    Longer batches on a CPU would only let results wait for each other, and lose more of them when a run is killed.
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return rows_within(config, sampling, free * SHARE)


def rows_within(config: SoundingConfig, sampling: Sampling, memory: float) -> int:
    """How many rows fit into `memory` bytes, by `cost.activations`."""
    from ..cost import WINDOW_SECONDS

    window = max(WINDOW_SECONDS, config.train_seconds, sampling.window or 0)
    share = sampling.frames / config.latent_frames(max(WINDOW_SECONDS, config.train_seconds))
    most = max(size for part, size in activations(config).items() if part != "segmenter")
    windows = config.latent_frames(window) / config.latent_frames(max(WINDOW_SECONDS, config.train_seconds))
    row = most * 2 * min(share, windows)  # the conditional and the unconditional half
    return max(1, min(MOST_ROWS, int(memory // max(1.0, row))))


def shares(jobs: Sequence[Job | Fault], rank: int, size: int) -> list[Job | Fault]:
    """The jobs of process `rank` of `size`: every process gets as many of each length, within one."""
    if size == 1:
        return list(jobs)

    def length(job: Job | Fault) -> float:
        return job.options.seconds if isinstance(job, Job) else 0.0

    mine = {job.line for job in sorted(jobs, key=length)[rank::size]}
    return [job for job in jobs if job.line in mine]


def image_key(job: Job) -> str:
    """What an image that several jobs share is known by."""
    return os.path.abspath(job.options.image)


def uses(jobs: Iterable[Job]) -> Counter[str]:
    """How many jobs each image has."""
    return Counter(map(image_key, jobs))
