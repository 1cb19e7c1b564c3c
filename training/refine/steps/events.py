"""Sound events that a tagger hears, and clips with speech, singing or music dropped by them (appendix B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sounding.utils.messages import printable

from ...cluster.process import device_for
from ...cluster.rows import Column, Row
from ...cluster.stage import StopRun
from ...data.shard_format import SAMPLE_RATE
from ...evaluate.features import FeatureModel, open_features
from ...evaluate.models.tagger import Tagger
from ..media import clip_sound
from ..model_files import digest
from ..ontology import ClassSet, Ontology
from ..settings import EventSettings
from ..step import Step

MOST_TAGS = 10
CLASSES = "class_labels_indices.csv"  # beside PANNs' file: the names of its classes


class EventStep(Step):
    """Tags clips, and drops those in which an unwanted event is likely."""

    name = "events"
    columns: ClassVar[dict[str, Column]] = {
        "tags": Column("texts", "sound events that are heard, the likeliest first"),
        "tag_scores": Column("numbers", "their probabilities"),
    }
    needs = ("clips",)
    takes_memory = "seconds"

    def __init__(self, settings: EventSettings, ontology: Ontology):
        super().__init__(settings.resources)
        self.chosen, self.ontology = settings, ontology
        self.dropped = ClassSet(settings.drop, settings.spare, ontology)
        beside = Path(settings.model).parent / CLASSES
        self.digest = digest(settings.model, *([str(beside)] if beside.is_file() else []))
        self.tagger: FeatureModel | None = None

    def settings(self) -> dict[str, Any]:
        """See Step."""
        return {"model": self.digest, "keep": self.chosen.keep}

    def model(self) -> str:
        """See Step."""
        return self.chosen.model

    def open(self) -> None:
        """See Step."""
        device = device_for(self.chosen.device)
        self.tagger = open_features(Path(self.chosen.model))
        if not self.tagger.classes:
            raise StopRun(f"{self.chosen.model} has no classes, but a tagger of sound events has; name another file.")
        if isinstance(self.tagger, Tagger):
            self.tagger.network.to(device)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        import torch

        assert self.tagger is not None
        found = []
        for row in rows:  # of any length; a batch would have to pad them, and padding is heard
            sound = torch.from_numpy(clip_sound(row))
            if isinstance(self.tagger, Tagger):
                sound = sound.to(next(self.tagger.network.parameters()).device)
            logits = self.tagger.logits(self.tagger.embed(sound[None], SAMPLE_RATE))[0].float().cpu()
            # Taggers were trained on several events at once, the classifier of `starter evaluate judge` on one of all.
            scores = logits.sigmoid() if isinstance(self.tagger, Tagger) else logits.softmax(dim=-1)
            best = scores.topk(min(MOST_TAGS, len(scores)))
            likely = [
                (self.tagger.classes[int(number)], float(score))
                for score, number in zip(best.values, best.indices, strict=True)
                if score >= self.chosen.keep
            ]
            found.append({"tags": [tag for tag, _ in likely], "tag_scores": [score for _, score in likely]})
        return found

    def verdict(self, row: Row) -> str:
        """See Step."""
        likely = [t for t, p in zip(row["tags"], row["tag_scores"], strict=True) if p >= self.chosen.threshold]
        codes = [self.ontology.ids.get(tag.casefold(), "") for tag in likely]
        unwanted = self.dropped.first(likely, codes)
        return f"{printable(unwanted, 80)} is heard." if unwanted is not None else ""
