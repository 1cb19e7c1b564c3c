"""The smallest things that the loop trains: ten items, a linear map, and programs that train it in processes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.engine.environment import build_accelerator
from training.engine.loader import Order, build_loader
from training.engine.objective import Objective
from training.engine.optimization import learning_rate
from training.engine.settings import LoopConfig
from training.engine.states import States
from training.engine.validation import Subset, Validation, ValidationSettings, split

ROOT = Path(__file__).parents[2]


class Numbers:
    """Ten items, each with noise of its own."""

    def __len__(self) -> int:
        return 10

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": torch.from_numpy(rng.standard_normal(4, np.float32)) + index}


class NamedNumbers(Numbers):
    """The same, of which some can be held out."""

    def ids(self) -> list[str]:
        return [f"number {index}" for index in range(10)]


class Line(Objective):
    """A linear map with a running statistic, as grounding has one; learns to turn items round."""

    def __init__(self, bad_step: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.calls, self.bad_step = 0, bad_step
        self.register_buffer("level", torch.tensor(0.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["x"]
        with torch.no_grad():
            self.level += 0.1 * (x.mean() - self.level)
        loss = (self.layer(x) - x.flip(1)).square().mean()
        if self.calls == self.bad_step:
            loss = loss * math.nan
        self.calls += 1
        return {"loss": loss}


def held_out(every: int, share: float = 0.3) -> tuple[Subset, Validation]:
    """Numbers to train on, and validation on the others."""
    items, others = split(NamedNumbers(), share)
    return items, Validation(others, ValidationSettings(every=every, share=share), lambda step, loss: None)


LOOP = LoopConfig(batch=4, lr=0.05, steps=12, warmup=2, precision="fp32", ema=0.9, save_steps=1, keep=2, seed=3)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def plain_average(skipped: tuple[int, ...] = ()) -> list[Tensor]:
    """The averaged parameters of a Line after LOOP without some steps, by AdamW, clipping and averaging written out."""
    plain = Line()
    parameters = list(plain.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=LOOP.betas, eps=LOOP.eps, weight_decay=0.0)
    average, learnt = [p.detach().double().clone() for p in parameters], 0
    for step, batch in enumerate(build_loader(Numbers(), Order(10, batch=4, steps=12, seed=3))):
        if step in skipped:
            continue
        optimizer.param_groups[0]["lr"] = learning_rate(learnt, 12, LOOP)
        plain(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, LOOP.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + learnt) / (10 + learnt)) if learnt else 0.0
        average = [decay * a + (1 - decay) * p.detach().double() for a, p in zip(average, parameters, strict=True)]
        learnt += 1
    return average


def end_after_saving(patch: pytest.MonkeyPatch, last: int, error: type[BaseException]) -> None:
    """Let a run break off just after it saved the state of step `last`."""
    save = States.save

    def save_and_end(self: States, step: int, state: dict[str, Any]) -> Path | None:
        file = save(self, step, state)
        if step == last:
            raise error
        return file

    patch.setattr(States, "save", save_and_end)


def scaled() -> Accelerator:
    """What float16 trains with: accelerate refuses it on a CPU, whose scaler works as a GPU's does."""
    accelerator = build_accelerator(LOOP)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    return accelerator


SCRIPT = """
import dataclasses, os, sys, time
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
import torch
from toys import LOOP, Line, Numbers, held_out
from training.engine.loop import train
class Slow(Line):
    def forward(self, batch):
        Path(f"{{__file__}}.{{os.environ.get('RANK', 0)}}.{{self.calls}}").touch()
        if not Path(f"{{__file__}}.told").exists():
            time.sleep({pause})
        return super().forward(batch)
objective = Slow()
items, validation = held_out({validate}) if {validate} else (Numbers(), None)
loop = dataclasses.replace(LOOP, **{changes!r})
train(objective, items, loop, Path({folder!r}), workers={workers}, validation=validation)
if int(os.environ.get("RANK", 0)) == 0:
    torch.save(objective.state_dict(), {result!r})
"""
# On CPUs `accelerate launch` begins one process, whatever number it is given; what it calls for GPUs begins two.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ALONE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def script(
    tmp_path: Path, folder: Path, pause: float = 0.0, workers: int = 0, validate: int = 0, **changes: Any
) -> tuple[Path, Path]:
    """A program that trains with changes of LOOP, and where it puts the weights. It says how often it was called, and
    pauses at each call until it is told not to.
    """
    file, result = tmp_path / f"{folder.name}.py", tmp_path / f"{folder.name}.pt"
    places = {"root": str(ROOT), "here": str(Path(__file__).parent), "folder": str(folder), "result": str(result)}
    file.write_text(SCRIPT.format(**places, pause=pause, workers=workers, validate=validate, changes=changes))
    return file, result
