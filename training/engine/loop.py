"""The loop that every trainer shares, on one process or many: steps, averaging, states, reports.

A run stopped at any moment goes on to the very weights of an unbroken one: items and their noise follow from
seed and step (see `loader`), and a state holds everything else. SIGTERM makes it keep a state first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .learner import Learner, backward, build_accelerator, learning_rate
from .loader import Items, Order, build_loader
from .objective import Critic, Objective
from .report import Report
from .settings import LoopConfig
from .states import States
from .stopping import Stopped, Termination
from .tracking import tracker_names

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
    accelerator: Accelerator | None = None,
) -> None:
    """Train `objective` in place; it ends in evaluation mode with the weights to keep (the running average if any).

    Args:
        items: the training set.
        folder: gets `states/` and what `Report` writes. A run that finds states there goes on from the last one.
        workers: processes that draw items.
        critic: discriminators, trained against the objective's "made".
        preview: `preview(step, report)` is called on the first process after the steps for which
            `preview_due(step)` holds, with the weights to keep in place.

    Raises:
        FloatingPointError: loss or gradient is not finite; names the items and the last state.
        ValueError: settings that do not fit the data or the processes.
        Stopped: SIGTERM came; a state of the last whole step is kept.
    """
    accelerator = accelerator or build_accelerator(loop)
    main, steps = accelerator.is_main_process, loop.length(len(items))
    learner = Learner(objective, loop, accelerator)
    objective.place(accelerator.device)
    opponent = Learner(critic, loop, accelerator) if critic is not None else None
    average = EMAModel(learner.parameters, decay=loop.ema, foreach=True) if loop.ema else None
    states, first = States(folder / "states", loop.keep), 0
    if (state := states.latest()) is not None:
        first = state["step"]
        learner.load(state["learner"])
        if opponent is not None:
            opponent.load(state["critic"])
        if average is not None:
            average.load_state_dict(state["average"])
            average.to(accelerator.device)
        log.info("%s goes on from step %d", folder, first)

    def save(step: int) -> Path | None:
        if main:
            parts = {
                "learner": learner.state(),
                "critic": opponent.state() if opponent else None,
                "average": average.state_dict() if average else None,
            }
            return states.save(step, parts)
        return None

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
    check = _FiniteCheck(states)
    saved = time.monotonic()
    with (
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
        for step in range(first, steps):
            objective.train()
            ids: list[str] = []
            sums: dict[str, Tensor] = {}
            for micro in range(loop.accumulate):
                with report.waiting():
                    batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
                ids += batch["id"]
                last = micro == loop.accumulate - 1
                with nullcontext() if last else accelerator.no_sync(learner.model):
                    for name, value in backward(learner, opponent, batch, loop.accumulate, accelerator).items():
                        sums[name] = sums.get(name, 0) + value / loop.accumulate
            rate = learning_rate(step, steps, loop)
            sums["gradient"] = learner.step(rate)
            if opponent is not None:
                opponent.step(rate)
            if average is not None:
                average.step(learner.parameters)
            if accelerator.num_processes > 1:
                own = [*(value.float() for value in sums.values()), termination.mark(sums["loss"])]
                stacked = accelerator.reduce(torch.stack(own), "mean")
                termination.observe(stacked[-1])
                sums = dict(zip(sums, stacked[:-1], strict=True))
            check(step, sums["loss"] + sums["gradient"], ids)
            report.step(step + 1, {**sums, "rate": rate})

            stopped = termination.asked()
            due = stopped or step + 1 == steps or time.monotonic() - saved > loop.save_minutes * 60
            if due or (loop.save_steps and (step + 1) % loop.save_steps == 0):
                check.now()
                kept = save(step + 1)
                saved = time.monotonic()
                if stopped:
                    if kept is not None:
                        log.warning("SIGTERM: step %d is kept in %s; the same command goes on.", step + 1, kept)
                    accelerator.wait_for_everyone()  # a launcher ends all processes with the first one
                    raise Stopped
            if preview is not None and main and preview_due(step + 1):
                objective.eval()
                with _averaged(average, learner.parameters):
                    preview(step + 1, report)
    accelerator.wait_for_everyone()
    if average is not None:
        average.copy_to(learner.parameters)
    objective.eval()


class _FiniteCheck:
    """Stops at a loss or gradient that is not finite. Looks one step late, so that no step waits for the device."""

    def __init__(self, states: States):
        self.states = states
        self.pending: tuple[int, Tensor, list[str]] | None = None

    def __call__(self, step: int, value: Tensor, ids: list[str]) -> None:
        self.now()
        self.pending = (step, value, ids)

    def now(self) -> None:
        """Look at what is pending."""
        if self.pending is None:
            return
        (step, value, ids), self.pending = self.pending, None
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"Loss or gradient is not finite at step {step}, with the items {', '.join(ids)}. "
                f"{self.states.describe_last()} Lower loop.lr, or look at those items."
            )


@contextmanager
def _averaged(average: EMAModel | None, parameters: list[nn.Parameter]) -> Iterator[None]:
    """The running average in place of the weights."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)
