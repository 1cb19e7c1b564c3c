"""Random training clips of sounds: cut from long recordings, or mixed from single objects as scenes have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from sounding.audio.mel import normalize
from sounding.audio.resampling import fit_length, resample

from .object_set import ObjectSet
from .settings import DataSettings
from .shard_folders import Folders
from .shard_format import SAMPLE_RATE
from .shards import Shards
from .waveforms import fill, mix


class Clips(Protocol):
    """Sounds by number; `crop` gives `samples` of one at 16 kHz, whatever is random drawn from `rng`."""

    def __len__(self) -> int: ...

    def ids(self) -> Sequence[str]:
        """Of all sounds, in their order.

        Raises:
            ValueError: crops are made of several sounds, so that none of them can be held out.
        """
        ...

    def crop(self, index: int, samples: int, rng: np.random.Generator) -> Tensor:
        """[samples] float."""
        ...


def find_clips(data: DataSettings) -> Clips:
    """The clips that a recipe's data settings name: those of shards, or of a set of objects."""
    return ShardClips(data.shards) if data.shards else ObjectClips(ObjectSet(Path(data.stamps)), data.plain)


class ShardClips:
    """Crops of the recordings in shards, each brought to AudioLDM's training level."""

    def __init__(self, folders: Folders):
        self.shards = Shards(folders, ("id", "waveform"))

    def __len__(self) -> int:
        return len(self.shards)

    def ids(self) -> Sequence[str]:
        """Of the recordings."""
        return self.shards.ids()

    def crop(self, index: int, samples: int, rng: np.random.Generator) -> Tensor:
        """[samples] around a place where there is sound."""
        return cut_where_sounding(normalize(self.shards[index]["waveform"]), samples, rng)


class ObjectClips:
    """The recordings of a set of objects, single and mixed.

    A share `plain` of the crops comes from single recordings as they are. Of the rest, mixes at many levels, a
    third is played faster or slower (0.8 to 1.25 times): more pitches than the recordings have.
    """

    def __init__(self, objects: ObjectSet, plain: float = 0.5):
        self.recordings, self.plain = objects.all_recordings, plain

    def __len__(self) -> int:
        return len(self.recordings)

    def ids(self) -> Sequence[str]:
        """None: crops are mixed."""
        raise ValueError("validation.share holds sounds out, but these are mixed with each other; set it to 0.")

    def crop(self, index: int, samples: int, rng: np.random.Generator) -> Tensor:
        """[samples] in which recording `index` sounds, alone or with others."""
        if rng.random() < self.plain:
            return cut_where_sounding(fill(self.recordings[index], 2 * samples, rng), samples, rng)
        clip = self.mixed(index, 2 * samples, rng)
        if rng.random() < 1 / 3:
            clip = resample(clip, int(SAMPLE_RATE * rng.choice([0.8, 0.9, 1.1, 1.25])), SAMPLE_RATE)
        return cut_where_sounding(clip, samples, rng)

    def mixed(self, index: int, samples: int, rng: np.random.Generator) -> Tensor:
        """[samples]: half the time the one recording, else with one or two others; peak 0.5, 0 to 12 dB down."""
        others = [i for i in range(len(self.recordings)) if i != index]
        count = min(int(rng.choice([0, 0, 1, 2])), len(others))
        chosen = [index, *(int(i) for i in rng.choice(others, count, replace=False))] if count else [index]
        clip = mix([fill(self.recordings[i], samples, rng) for i in chosen], list(rng.uniform(-6, 6, len(chosen))))
        return clip * float(10 ** (-rng.uniform(0, 12) / 20))


def cut_where_sounding(clip: Tensor, samples: int, rng: np.random.Generator) -> Tensor:
    """[any] -> [samples] around a random place that is not silent, so that batches are not mostly gaps."""
    clip = fit_length(clip, max(samples, len(clip)))
    loud = (clip.abs() > 0.02 * clip.abs().max()).nonzero()[:, 0]
    centre = int(loud[int(rng.integers(len(loud)))]) if len(loud) else samples // 2
    start = min(max(0, centre - samples // 2), len(clip) - samples)
    return clip[start : start + samples]
