"""The loop that every trainer shares, on one process or many: steps, states, reports, validation, previews.

A run that is stopped at any moment and resumed ends with exactly the weights of an unbroken one: items and their noise
follow from seed and step (see `loader`), and a state holds everything else. On SIGTERM it saves a state before it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from .environment import build_accelerator, tf32
from .loader import Item, Items, Order, build_loader
from .objective import Critic, Objective
from .optimization import backward
from .report import Report
from .settings import LoopConfig
from .states import States
from .stopping import FiniteCheck, Stopped, Termination
from .tracking import tracker_names
from .training_state import TrainingState
from .validation import Validation

log = logging.getLogger("training")


def train(
    objective: Objective,
    items: Items,
    loop: LoopConfig,
    folder: Path,
    *,
    workers: int = 0,
    critic: Critic | None = None,
    preview: Callable[[int, Report], None] | None = None,
    preview_due: Callable[[int], bool] = lambda step: False,
    validation: Validation | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train `objective` in place; it ends in evaluation mode with the weights to keep (the running average if any).

    Args:
        items: the training set.
        folder: gets `states/` and what `Report` writes. A run that finds states there resumes from the last one.
        workers: processes that draw items.
        critic: discriminators, trained against the objective's "made".
        preview: `preview(step, report)` is called on the first process after the steps for which
            `preview_due(step)` holds, with the weights to keep in place.
        validation: held-out items, and the callback that keeps the best weights.

    Raises:
        FloatingPointError: loss or gradient is not finite; names the items and the last state.
        ValueError: settings that do not fit the data, the processes or the machine.
        Stopped: on SIGTERM, after a state of the last whole step was saved.
    """
    accelerator = accelerator or build_accelerator(loop)
    main, steps = accelerator.is_main_process, loop.length(len(items))
    training = TrainingState(objective, critic, loop, steps, accelerator)
    states, first = States(folder / "states", loop.keep), 0
    if (state := states.latest()) is not None:
        first = state["step"]
        training.load(state)
        log.info("%s goes on from step %d", folder, first)
    order = Order(
        len(items),
        batch=loop.batch,
        steps=steps,
        first=first,
        seed=loop.seed,
        accumulate=loop.accumulate,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    batches = iter(build_loader(items, order, workers=workers, pin=accelerator.device.type == "cuda"))
    check = FiniteCheck(states)
    saved = time.monotonic()
    with (
        tf32(loop.tf32),
        Termination(accelerator) as termination,
        Report(
            folder,
            steps,
            loop.batch,
            folder.name,
            quiet=not main,
            log_every=loop.log_every,
            ratios=objective.ratios,
            trackers=tracker_names(loop.trackers),
        ) as report,
    ):
        if validation is not None and validation.due(first, steps) and training.validated < first:
            _validate(training, validation, first, report, workers)  # a signal ended the earlier run before it
        for step in range(first, steps):
            objective.train()
            losses, ids = _gradients(training, batches, report)
            figures = training.update(step)
            if accelerator.num_processes > 1:
                stacked = torch.stack([*(value.float() for value in losses.values()), termination.mark(losses["loss"])])
                means = accelerator.reduce(stacked, "mean")
                termination.observe(means[-1])
                losses = dict(zip(losses, means[:-1], strict=True))
            check(step, losses["loss"] + figures.get("gradient", 0.0), ids)
            report.step(step + 1, {**losses, **figures})

            stopped = termination.asked()
            if validation is not None and validation.due(step + 1, steps) and not stopped:
                check.now()
                _validate(training, validation, step + 1, report, workers)
            due = stopped or step + 1 == steps or time.monotonic() - saved > loop.save_minutes * 60
            if due or (loop.save_steps and (step + 1) % loop.save_steps == 0):
                check.now()
                kept = states.save(step + 1, training.state()) if main else None
                saved = time.monotonic()
                if stopped:
                    if kept is not None:
                        log.warning("SIGTERM: step %d is kept in %s; the same command goes on.", step + 1, kept)
                    accelerator.wait_for_everyone()  # a launcher ends all processes with the first one
                    raise Stopped
            if preview is not None and main and preview_due(step + 1):
                with training.averaged():
                    preview(step + 1, report)
    accelerator.wait_for_everyone()
    training.finish()


def _validate(training: TrainingState, validation: Validation, step: int, report: Report, workers: int) -> None:
    """Report the validation loss of the averaged weights, and call `keep_best` where it is the lowest so far."""
    objective, accelerator = training.objective.module, training.accelerator
    assert isinstance(objective, Objective)
    with report.paused(), training.averaged():
        loss = validation.loss(objective, training.loop, accelerator, workers=workers)
        training.validated = step
        if loss < training.best_loss:
            training.best_step, training.best_loss = step, loss
            if accelerator.is_main_process:
                validation.keep_best(step, loss)
    lowest = "the lowest so far" if training.best_step == step else f"the lowest was that of step {training.best_step}"
    report.event(step, {"val_loss": loss}, f"val_loss {loss:.4g}, {lowest}")


def _gradients(training: TrainingState, batches: Iterator[Item], report: Report) -> tuple[dict[str, Tensor], list[str]]:
    """Accumulate the gradients of a step's micro-batches; returns their mean losses and the items' ids."""
    accelerator, accumulate = training.accelerator, training.loop.accumulate
    ids: list[str] = []
    losses: dict[str, Tensor] = {}
    for micro in range(accumulate):
        with report.waiting():
            batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
        ids += batch["id"]
        # Gradients are reduced over processes with the last micro-batch only.
        with nullcontext() if micro == accumulate - 1 else accelerator.no_sync(training.objective.model):
            for name, value in backward(training.objective, training.critic, batch, accumulate).items():
                losses[name] = losses.get(name, 0) + value / accumulate
    return losses, ids
