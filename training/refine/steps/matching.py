"""How well sound and images of a clip match (appendix B.1): a score from 0 to 1, and a threshold.

A scorer is anything that has what `Scorer` asks for; `scorer_of` knows them by the names that settings have. The
paper's is a transformer over tokens of CLIP and BEATs, `training.matching`. The stand-in takes what the project has
without any download: a classifier of sounds, and the starter's shared space of words and patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ...cluster.process import device_for
from ...cluster.rows import Column, Row
from ...cluster.stage import StopRun
from ...data.shard_format import SAMPLE_RATE
from ..media import clip_frames, clip_sound
from ..model_files import digest
from ..settings import MatchingSettings
from ..step import Step

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.05  # of cosines: a name that is 0.05 further from the image than the nearest one counts 1/e


class Scorer(Protocol):
    """What the step asks of a model."""

    def score(self, sounds: list[Tensor], frames: list[Tensor]) -> list[float]:
        """One score per clip, 0 (of different videos) to 1 (of the same moment).

        Args:
            sounds: [samples] each, 16 kHz.
            frames: [F, H, W, 3] 0..1 each.
        """


class MatchingStep(Step):
    """Scores clips, and drops those below the threshold."""

    name = "matching"
    columns: ClassVar[dict[str, Column]] = {
        "matching_score": Column("number", "how well sound and images match, 0 to 1")
    }
    needs = ("clips",)
    takes_memory = "seconds"

    def __init__(self, settings: MatchingSettings):
        super().__init__(settings.resources)
        self.chosen = settings
        files = [settings.sounds] if settings.scorer == "names" else [settings.model]
        self.digest = digest(*files)
        self.scorer: Scorer | None = None

    def settings(self) -> dict[str, Any]:
        """See Step."""
        chosen = self.chosen
        return {
            "scorer": chosen.scorer,
            "model": self.digest,
            "frames_per_second": chosen.frames_per_second,
            "size": chosen.size,
        }

    def model(self) -> str:
        """See Step."""
        if self.chosen.scorer == "model":
            return self.chosen.model
        return f"names by {self.chosen.sounds} (sound) and the starter (images)"

    def missing(self) -> str:
        """See Step."""
        if self.chosen.scorer == "model":
            return ""
        return "no audio-visual matching model; the starter's encoders compare names of what is heard and seen"

    def open(self) -> None:
        """See Step."""
        self.scorer = scorer_of(self.chosen)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        import torch

        assert self.scorer is not None
        sounds = [torch.from_numpy(clip_sound(row)) for row in rows]
        frames = []
        for row in rows:
            decoded = clip_frames(row, self.chosen.frames_per_second, self.chosen.size)
            frames.append(torch.from_numpy(np.stack(decoded)).float() / 255)
        return [{"matching_score": float(score)} for score in self.scorer.score(sounds, frames)]

    def verdict(self, row: Row) -> str:
        """See Step."""
        if row["matching_score"] < self.chosen.threshold:
            return f"Sound and images do not match (a score below {self.chosen.threshold:g})."
        return ""


def scorer_of(settings: MatchingSettings) -> Scorer:
    """The scorer of the settings, loaded.

    Raises:
        ValueError: its files are of another kind.
    """
    return NameScorer(settings) if settings.scorer == "names" else ModelScorer(settings)


class ModelScorer:
    """A trained matching model: the probability that sound and frames belong together."""

    def __init__(self, settings: MatchingSettings):
        from ...matching.score import Matcher

        device = device_for(settings.device)
        self.matcher = Matcher.open(settings.model, visual=settings.visual, audio=settings.audio, device=device)

    def score(self, sounds: list[Tensor], frames: list[Tensor]) -> list[float]:
        """See Scorer."""
        return [self.matcher.score(images, sound, SAMPLE_RATE) for sound, images in zip(sounds, frames, strict=True)]


class NameScorer:
    """The stand-in: what the sound is, by a classifier, against what the images show, by the starter.

    The score is the sum over classes of the probability that the sound is of the class, times how near the class's name
    is to the image compared with the name that is nearest; a class is in the image where any patch of any frame is near
    to its name. It knows the classes of its classifier alone, and no moments: a video with a dog matches another
    dog's bark.
    """

    def __init__(self, settings: MatchingSettings):
        import sounding
        from sounding.encoders.audio import ClapAudioQuery
        from sounding.naming.sentences import with_article

        from ...evaluate.features import open_features

        self.device = device_for(settings.device)
        self.ears = open_features(Path(settings.sounds))
        if not self.ears.classes:
            raise StopRun(f"{settings.sounds} has no classes, but matching.sounds is a classifier; name another file.")
        self.eyes = sounding.load("starter", device=self.device, parts=("patches", "query"))
        assert not isinstance(self.eyes.query, ClapAudioQuery)  # the starter is grounded by sentences
        self.names = self.eyes.query.encode([with_article(name) for name in self.ears.classes]).float()  # [C, L]

    def score(self, sounds: list[Tensor], frames: list[Tensor]) -> list[float]:
        """See Scorer."""
        import torch
        from torch.nn import functional

        found = []
        with torch.inference_mode():
            for sound, images in zip(sounds, frames, strict=True):
                heard = self.ears.logits(self.ears.embed(sound[None], SAMPLE_RATE)).softmax(dim=-1)[0]  # [C]
                patches = self.eyes.see(images).float().flatten(0, 1)  # [F P, L]
                cosines = functional.normalize(self.names, dim=-1) @ functional.normalize(patches, dim=-1).T
                near = cosines.amax(dim=1)  # [C]
                shown = ((near - near.max()) / TEMPERATURE).exp()
                found.append(float((heard.to(shown) * shown).sum().clamp(0, 1)))
        return found
