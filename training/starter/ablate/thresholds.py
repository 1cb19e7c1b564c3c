"""Table 5: what a threshold of audio-visual matching is worth to the generator.

A collection of short videos of the chosen objects, half of which have the sounds of others, stands for what is found in
the wild. The matching network scores all of them, and one generator per threshold learns from what is kept. A clip's
captions name what is heard, as AudioSet's labels do, so captions of foreign sounds are wrong about the images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sounding.model import SoundingModel
from sounding.utils.files import hash_file, write_atomic

from ...data.features import FeatureSource
from ...data.shard_format import INDEX, SAMPLE_RATE, Kind, Sample, known_of
from ...data.shard_writer import make_shards
from ...data.shards import DESCRIBED, Shards
from ...data.source import Source, hash_json
from ...evaluate.matching import in_circle
from ...matching.score import Matcher
from ..matching_scenes import VideoSceneSource
from .rows import COLLECTED, THRESHOLDS, TRUE_PAIRS

log = logging.getLogger("training")
FOREIGN = 0.5  # share of clips with foreign sounds
SEED = 5  # of which clips these are
STORED = ("patches", "queries", "mean", "std")


@dataclass(frozen=True)
class Kept:
    """What a threshold keeps of the collection.

    Attributes:
        clips: how many.
        hours: of them.
        pure: share of clips with their own sounds among them.
    """

    clips: int
    hours: float
    pure: float


class CollectedClips(Source):
    """Clips, each with the sound, the captions and the labels of clip `heard[i]`: their middle frames, and the
    `seconds` of sound around them.
    """

    def __init__(self, clips: Path, heard: Sequence[int], seconds: float):
        self.clips = Shards(clips, (*DESCRIBED, "waveform", "images"))
        self.heard, self.seconds = list(heard), seconds

    def __len__(self) -> int:
        return len(self.clips)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        index = self.clips.index
        return {"from": "collected clips", "clips": index.settings, "seconds": self.seconds, "heard": self.heard}

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {position}"

    def make(self, position: int) -> Sample:
        """See Source."""
        seen, heard = self.clips[position], self.clips[self.heard[position]]
        waveform, images = heard["waveform"].numpy(), seen["images"].numpy()
        samples = round(self.seconds * SAMPLE_RATE)
        start = max(0, (len(waveform) - samples) // 2)
        sound = waveform[start : start + samples]
        described = known_of(heard) | {"id": seen["id"], "seconds": len(sound) / SAMPLE_RATE}
        return Sample(**described, waveform=sound, images=(images[len(images) // 2],))


class KeptClips(Source):
    """Features of some clips of a folder."""

    kind: Kind = "features"

    def __init__(self, features: Path, positions: Sequence[int]):
        self.features, self.positions = Shards(features, (*DESCRIBED, *STORED)), list(positions)
        self.model = self.features.index.model

    def __len__(self) -> int:
        return len(self.positions)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        ids = self.features.ids()
        return {
            "from": "kept clips",
            "of": self.features.index.settings,
            "ids": hash_json(ids[i] for i in self.positions),
        }

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {self.positions[position]}"

    def make(self, position: int) -> Sample:
        """See Source."""
        row = self.features[self.positions[position]]
        return Sample(**known_of(row), features={name: row[name].numpy() for name in STORED})


@dataclass(frozen=True)
class Collection:
    """The collection in a folder of its own: `clips`, their sounds and scores in `scores.json`, `features`, and one
    folder of features per threshold.

    Attributes:
        out: the folder.
        matching: file of the matching network.
        clips: how many.
    """

    out: Path
    matching: Path
    clips: int

    def is_made(self) -> bool:
        """Whether all trainings of thresholds can begin."""
        return all((self.features(name) / INDEX).is_file() for name in COLLECTED)

    def features(self, training: str) -> Path:
        """The folder of what a training learns from."""
        return self.out / training

    def make(self, objects: Path, model: SoundingModel) -> None:
        """Make what is missing.

        Args:
            objects: whose clips these are.
            model: whose encoders make the features.

        Raises:
            ValueError: the matching network or its encoders cannot be opened, or a threshold keeps nothing.
        """
        source = VideoSceneSource(objects, clips=self.clips, split="collection")
        make_shards(source, self.out / "clips", shard_size=100)
        scored = self._scored()
        seconds = model.config.train_seconds
        make_shards(CollectedClips(self.out / "clips", scored["heard"], seconds), self.out / "cut")
        make_shards(FeatureSource(self.out / "cut", model), self.out / "features")
        number = {clip: at for at, clip in enumerate(Shards(self.out / "features", ("id",)).ids())}
        for training in COLLECTED:
            positions = [number[clip] for clip in self._kept(training, scored) if clip in number]
            if not positions:
                raise ValueError(f"No clip of the collection is left by {training}; give plan.yaml more clips.")
            make_shards(KeptClips(self.out / "features", positions), self.features(training))

    def kept(self) -> dict[str, dict[str, float]]:
        """What each training learns from, as JSON; nothing as long as there are no scores."""
        if not self._file.is_file():
            return {}
        scored = json.loads(self._file.read_text(encoding="utf-8"))
        own = {clip for at, clip in enumerate(scored["ids"]) if scored["heard"][at] == at}
        found = {}
        for training in COLLECTED:
            clips = self._kept(training, scored)
            pure = len(own.intersection(clips)) / max(1, len(clips))
            found[training] = asdict(Kept(len(clips), len(clips) * scored["seconds"] / 3600, pure))
        return found

    @property
    def _file(self) -> Path:
        return self.out / "scores.json"

    def _kept(self, training: str, scored: Mapping[str, Any]) -> list[str]:
        """Names of the clips that a training learns from."""
        rows = list(enumerate(zip(scored["ids"], scored["heard"], scored["scores"], strict=True)))
        if training == TRUE_PAIRS:
            return [clip for at, (clip, heard, _) in rows if heard == at]
        return [clip for _, (clip, _, score) in rows if score >= THRESHOLDS[training]]

    def _scored(self) -> dict[str, Any]:
        """Which sound each clip has, and the score of both."""
        made_by = hash_file(self.matching).hexdigest()
        if self._file.is_file():
            found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            if found["made_by"] != made_by or len(found["ids"]) != self.clips:
                raise ValueError(
                    f"{self._file} has scores of another matching network or other clips; remove {self.out}, or take "
                    "another folder."
                )
            return found
        shards, matcher = (
            Shards(self.out / "clips", ("id", "seconds", "waveform", "images")),
            Matcher.open(self.matching),
        )
        heard = sounds_of(shards.ids())
        scores = []
        for position, other in enumerate(heard):
            row, sound = shards[position], shards.only("waveform")[other]["waveform"]
            scores.append(matcher.score(row["images"], sound, SAMPLE_RATE))
            if position % 50 == 49:
                log.info("%d of %d clips are scored", position + 1, len(heard))
        found = {
            "made_by": made_by,
            "seconds": float(shards[0]["seconds"]),
            "ids": list(shards.ids()),
            "heard": heard,
            "scores": scores,
        }
        write_atomic(self._file, json.dumps(found).encode())
        return found


def sounds_of(ids: Sequence[str]) -> list[int]:
    """For each clip whose sound it has: half of them, drawn at random, have one another's, the others their own."""
    rng = np.random.default_rng([SEED, len(ids)])
    foreign = np.sort(rng.permutation(len(ids))[: round(FOREIGN * len(ids))])
    heard = np.arange(len(ids))
    if len(foreign) > 1:
        heard[foreign] = foreign[in_circle([ids[clip] for clip in foreign], SEED)]
    return [int(clip) for clip in heard]
