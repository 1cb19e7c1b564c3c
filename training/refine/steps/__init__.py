"""The steps, one per file, in the order in which they run: what is cheap comes first."""

from __future__ import annotations

from collections.abc import Sequence

from ..ontology import EMPTY, Ontology
from ..settings import RefineSettings
from ..step import Step


def steps_of(settings: RefineSettings, ontology: Ontology = EMPTY) -> list[Step]:
    """The steps that the settings ask for.

    Raises:
        ValueError: a model's file is missing.
    """
    from .captions import CaptionStep
    from .clips import ClipStep
    from .rephrase import RephraseStep

    steps: list[Step] = [ClipStep(settings.clips)]
    if settings.matching.scorer != "none":
        from .matching import MatchingStep

        steps.append(MatchingStep(settings.matching))
    if settings.events.model:
        from .events import EventStep  # which brings torch

        steps.append(EventStep(settings.events, ontology))
    steps.append(CaptionStep(settings.captions))
    steps.append(RephraseStep(settings.rephrase))
    return steps


def missing_of(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """What is not done as in the paper, by step: steps that are left out, and what stands in for models."""
    there = {step.name: step.missing() for step in steps}
    left_out = "left out: its settings name no model"
    found = [(name, there.get(name, left_out)) for name in ("clips", "matching", "events", "captions", "rephrase")]
    return [(name, what) for name, what in found if what]
