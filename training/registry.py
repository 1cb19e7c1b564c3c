"""All tasks that a recipe can name."""

from __future__ import annotations

from typing import Any

from .starter.ablate.text_diffusion import TextDiffusionTask
from .starter.conditions import StarterConditionsTask
from .starter.encoders import EncodersTask
from .starter.grounded import StarterGroundedTask
from .starter.segmenter import SegmenterTask
from .tasks.grounded import GroundedTask
from .tasks.matching import MatchingTask
from .tasks.step_distillation import StepDistillationTask
from .tasks.task import AnyTask
from .tasks.vae import VaeTask
from .tasks.vocoder import VocoderTask

TASKS: dict[str, AnyTask[Any]] = {
    task.name: task
    for task in (
        GroundedTask(),
        StepDistillationTask(),
        VaeTask(),
        VocoderTask(),
        MatchingTask(),
        StarterConditionsTask(),
        StarterGroundedTask(),
        EncodersTask(),
        SegmenterTask(),
        TextDiffusionTask(),
    )
}
