"""The work on the device: images are seen and selections grounded job by job, and batches of jobs become sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..audio.placing import Place
from ..cost import WINDOW_SECONDS
from ..diffusion import item_seeds
from ..grounding import Condition
from ..model import SoundingModel
from .inputs import Inputs
from .job import Job
from .planning import Sampling, image_key, rows_of


@dataclass(frozen=True)
class Grounded:
    """A job whose selection has become a condition."""

    job: Job
    condition: Condition  # one row per selection
    negative: Condition | None
    places: list[Place | None] | None


class Grounder:
    """Sees each image once, and grounds jobs.

    Args:
        model: that does it.
        uses: how many jobs each image has; after the last one its patches are forgotten.
    """

    def __init__(self, model: SoundingModel, uses: Counter[str]):
        self._model, self._left = model, uses
        self._patches: dict[str, Tensor] = {}

    def ground(self, job: Job, inputs: Inputs) -> Grounded:
        """The condition of a job.

        Raises:
            ValueError: such as an empty mask.
        """
        key, options = image_key(job), job.options
        if key not in self._patches:
            self._patches[key] = self._model.see(inputs.image)
        condition, negative = self._model.select(
            self._patches[key],
            inputs.image,
            mask=inputs.selection,
            text=options.text,
            negative_mask=inputs.negative,
            negative_text=options.negative_text,
            by=options.masks_by,
            likely_names=options.likely_names,
        )
        return Grounded(job, condition, negative, inputs.places)

    def leave(self, job: Job) -> None:
        """A job needs its image no more, whether or not it could be grounded."""
        key = image_key(job)
        self._left[key] -= 1
        if self._left[key] <= 0:
            self._patches.pop(key, None)


class Synthesizer:
    """Samples, decodes and vocodes batches, of fewer rows at once where memory is short."""

    def __init__(self, model: SoundingModel):
        self._model = model
        self._most: dict[int, int] = {}  # rows that have been found to fit, per latent frames

    def sounds(self, jobs: list[Grounded], sampling: Sampling, at_once: int) -> list[Tensor]:
        """The sounds of each job, [B, 1, samples] on the device, as the vocoder gives them.

        Raises:
            MemoryError, RuntimeError: there is too little memory for a single row, or the device failed.
        """
        rows = [rows_of(each.job) for each in jobs]
        noise = torch.cat([self._noise(each.job) for each in jobs])
        condition = Condition.cat([_repeated(each.condition, rows_of(each.job)) for each in jobs])
        negative = None
        if sampling.negative:
            negatives = [_repeated(each.negative, rows_of(each.job)) for each in jobs if each.negative is not None]
            negative = Condition.cat(negatives)
        made = torch.cat(list(self._chunks(condition, negative, noise, sampling, at_once)))
        if sampling.loop is not None:
            return list(made.split(rows))
        rate = self._model.config.audio.sample_rate
        return [
            sound[..., : round(each.job.options.seconds * rate)]
            for each, sound in zip(jobs, made.split(rows), strict=True)
        ]

    def _chunks(
        self, condition: Condition, negative: Condition | None, noise: Tensor, sampling: Sampling, at_once: int
    ) -> Iterator[Tensor]:
        done = 0
        while done < len(noise):
            many = min(at_once, self._most.get(sampling.frames, at_once), len(noise) - done)
            chosen = slice(done, done + many)
            try:
                yield self._made(
                    _rows(condition, chosen),
                    None if negative is None else _rows(negative, chosen),
                    noise[chosen],
                    sampling,
                )
            except (MemoryError, RuntimeError) as error:
                if many == 1 or not is_memory_error(error):
                    raise
            else:
                done += many
                continue
            # Outside of the handler, whose traceback holds what has to be freed.
            self._most[sampling.frames] = many // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _noise(self, job: Job) -> Tensor:
        options, items = job.options, range(rows_of(job))
        variations = None if options.variation is None else item_seeds(options.variation, items)
        seeds = item_seeds(options.seed, items)
        return self._model.noise(options.seconds, seeds, variations, options.variation_strength)

    def _made(self, condition: Condition, negative: Condition | None, noise: Tensor, sampling: Sampling) -> Tensor:
        model, loop = self._model, sampling.loop is not None
        latents = model.sample(
            condition,
            noise,
            negative=negative,
            steps=sampling.steps,
            cfg=sampling.cfg,
            sampler=sampling.sampler,
            window=WINDOW_SECONDS if sampling.window is None else sampling.window,
            loop=loop,
        )
        return model.vocode(model.decode(latents, loop=loop), sampling.loop, loop=loop)


def is_memory_error(error: BaseException) -> bool:
    """Whether a device or the machine has too little memory: torch says so by a RuntimeError."""
    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "out of memory" in said or "not enough memory" in said
    )


def _repeated(condition: Condition, rows: int) -> Condition:
    return condition if len(condition) == rows else Condition.cat([condition] * rows)


def _rows(condition: Condition, chosen: slice) -> Condition:
    """Some rows, as far as sampling needs them."""
    return Condition(
        condition.tokens[chosen], condition.weights[chosen], condition.sureness[chosen], condition.sources[chosen]
    )
