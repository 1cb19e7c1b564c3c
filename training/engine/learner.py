"""What learns in a step, and how: settings, learning rate, optimiser, gradients of one or many processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range

from ..tasks.discriminators import adversarial_loss, critic_loss, feature_matching
from .ranges import Seed, Steps

Beta = Annotated[float, Range(0, 1 - 1e-9)]  # of a running average


@dataclass(frozen=True)
class LoopConfig(Checked):
    """How long and how fast. The learning rate warms up and then stays or falls as a cosine to 2 % of its peak.

    `batch` is the whole batch of a step, over all processes and accumulated micro-batches. Give `steps` or
    `epochs`. `ema` 0 keeps no running average of the weights. `precision` "auto" is bf16 where that is fast
    (`fast_bf16`), else fp32.
    """

    batch: Annotated[int, Range(1, 1_000_000)]
    lr: Annotated[float, Range(0, 100)]
    steps: Steps = 0
    epochs: Annotated[float, Range(0, 1_000_000)] = 0.0
    accumulate: Annotated[int, Range(1, 65_536)] = 1
    warmup: Steps = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Annotated[float, Range(1e-30, 1)] = 1e-8
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    seed: Seed = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    ema: Beta = 0.0
    compile: bool = False
    keep: Annotated[int, Range(1, 10_000)] = 3
    save_minutes: Annotated[float, Range(0, 525_600)] = 5.0
    save_steps: Steps = 0  # as well as by time; 0 saves by time alone
    log_every: Annotated[int, Range(1, 1_000_000_000)] = 100

    @property
    def mixed_precision(self) -> str:
        """`precision` as accelerate calls it, on this machine."""
        bf16 = fast_bf16() if self.precision == "auto" else self.precision == "bf16"
        return "bf16" if bf16 else "no"

    def length(self, items: int) -> int:
        """Steps of the run on a set of `items`.

        Raises:
            ValueError: neither or both of steps and epochs.
        """
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(
                f"loop has steps {self.steps} and epochs {self.epochs}, but one of the two is expected; set one to 0."
            )
        return self.steps or math.ceil(self.epochs * items / self.batch)


class Objective(nn.Module):
    """What a trainer adds to the loop: `forward(batch)` gives named scalar losses, of which "loss" is minimised.

    Every loss is a mean over items, so that processes with a share of the batch each average to the whole. An
    objective that is trained with a critic also gives "real" and "made", what the critic has to tell apart.
    """

    adversarial_weight: float = 1.0
    matching_weight: float = 2.0
    rates: Mapping[str, float] = {}  # share of the learning rate, by how parameters begin
    # Figures of some items only, given as the sum over these divided by all items: logged over the other figure, the
    # share of such items (and not at all where that is 0).
    ratios: ClassVar[Mapping[str, str]] = {}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a collated batch of `Items`."""
        raise NotImplementedError

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one item, of zeros, for estimates."""
        raise NotImplementedError

    def place(self, device: torch.device) -> None:
        """Called once before the first step: choose what runs fastest on `device`."""

    def install(self, model: SoundingModel) -> None:
        """Put what was learnt into `model`, where it is not learnt in place."""


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32: NVIDIA's GPUs from Ampere on, Intel's AMX.

    Processors without it take up to fifty times as long in bfloat16.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(amx is not None and amx())


def rate_at(step: int, steps: int, loop: LoopConfig) -> float:
    """Learning rate of `step` in a run of `steps`."""
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    if loop.schedule == "constant":
        return loop.lr
    done = (step - loop.warmup) / max(1, steps - loop.warmup)
    return loop.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def by_rate(module: nn.Module) -> list[dict[str, Any]]:
    """Parameters that learn, in groups of one `share` of the learning rate each (`Objective.rates`)."""
    rates = module.rates if isinstance(module, Objective) else {}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            share = next((share for start, share in rates.items() if name.startswith(start)), 1.0)
            groups.setdefault(share, []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items()]


class Learner:
    """A module, its optimiser and its learning rate; `model` is what processes share, `module` what it wraps."""

    def __init__(self, module: nn.Module, loop: LoopConfig, accelerator: Accelerator):
        self.module, self.loop, self.accelerator = module, loop, accelerator
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        fused = accelerator.device.type == "cuda"
        groups = by_rate(module)
        # Not in the optimiser's groups: those come back from states, which earlier versions wrote without it.
        self.shares = [group.pop("share") for group in groups]
        optimizer = torch.optim.AdamW(
            groups, loop.lr, betas=loop.betas, eps=loop.eps, weight_decay=loop.weight_decay, fused=fused
        )
        self.model, self.optimizer = accelerator.prepare(module, optimizer)
        if loop.compile:
            self.model = torch.compile(self.model)

    def step(self, rate: float) -> Tensor:
        """One step along the gradients that are there; returns their norm before clipping."""
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = rate * share
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.loop.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator.num_processes > 1:  # running statistics, of which every process saw its share
            for buffer in self.module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.accelerator.reduce(buffer, "mean"))
        return norm

    def state(self) -> dict[str, Any]:
        """Weights and the optimiser's moments."""
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_accelerator(loop: LoopConfig) -> Accelerator:
    """One process or, started by `accelerate launch`, several; the device is accelerate's choice."""
    # accelerate keeps one precision a process, but stages of different ones run after each other.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=loop.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def backward(
    learner: Learner, rival: Learner | None, batch: dict[str, Any], accumulate: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Add the gradients of one of `accumulate` micro-batches, the critic's too; returns the losses, detached."""
    losses = learner.model(batch)
    if rival is not None:
        real, made, objective = losses.pop("real"), losses.pop("made"), learner.module
        assert isinstance(objective, Objective)
        both = rival.model(torch.cat([real, made.detach()]))
        wanted, found = ([[x.chunk(2)[half] for x in maps] for maps in both] for half in (0, 1))
        judged = critic_loss(wanted, found)
        accelerator.backward(judged / accumulate)
        rival.module.requires_grad_(False)  # its own gradients are complete; now it only judges
        with accelerator.autocast():
            maps = rival.module(made)
        rival.module.requires_grad_(True)
        adversarial, matching = adversarial_loss(maps), feature_matching(wanted, maps)
        losses |= {"critic": judged, "adversarial": adversarial, "matching": matching}
        losses["loss"] = (
            losses["loss"] + objective.adversarial_weight * adversarial + objective.matching_weight * matching
        )
    accelerator.backward(losses["loss"] / accumulate)
    return {name: value.detach() for name, value in losses.items()}
