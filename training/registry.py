"""All tasks that a recipe can name."""

from __future__ import annotations

from typing import Any

from .starter.grounded import StarterGroundedTask
from .starter.segmenter import SegmenterTask
from .starter.tasks import EncodersTask, ReplayTask
from .starter.vocoder import StarterVocoderTask
from .tasks.grounded import GroundedTask
from .tasks.task import Task
from .tasks.vae import VaeTask
from .tasks.vocoder import VocoderTask

TASKS: dict[str, Task[Any]] = {
    task.name: task
    for task in (
        GroundedTask(),
        VaeTask(),
        VocoderTask(),
        StarterGroundedTask(),
        StarterVocoderTask(),
        EncodersTask(),
        ReplayTask(),
        SegmenterTask(),
    )
}
