"""What the page is told while a node runs."""

from __future__ import annotations

from comfy.utils import ProgressBar

from ...sounding.diffusion import OnStep


def progress() -> OnStep:
    """A step callback for the host's progress bar; it raises when the user stops the run."""
    bar: ProgressBar | None = None

    def on_step(done: int, steps: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(steps)
        bar.update_absolute(done, steps)

    return on_step
