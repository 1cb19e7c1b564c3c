"""Few-step distillation: a student makes in a few evaluations, without guidance, what its teacher's sampler makes in
many with it.

The sampler's way from noise to a sound is divided into as many phases as the student has evaluations. In each the
student learns to jump, by one DDIM step, from where the teacher's trajectory was at the phase's beginning to where it
was at its end. That is consistency distillation in several phases ("Multistep Consistency Models", Heek et al. 2024;
"Phased Consistency Models", Wang et al. 2024; after "Latent Consistency Models", Luo et al. 2023) whose targets are the
teacher's own trajectories (`training.data.trajectories`) instead of the student's running mean, so that nothing has to
propagate from phase to phase while it learns. Guidance is a part of the trajectories, so the student needs none.

The student is sampled by plain DDIM at guidance 1. It takes the U-Net's place, and the model's own way to sample is the
student's (`config.generation`), or it stays beside its teacher, as low-rank changes of its weights (`rank`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sounding.diffusion import build_noise_schedule
from sounding.model import SoundingModel
from sounding.networks.few_steps import FewSteps, without_student
from sounding.samplers import build_sampler
from sounding.utils.fields import Checked, Range

from ..data.settings import DataSettings
from ..data.shards import Shards
from ..data.trajectories import conditions_fingerprint
from ..engine.loader import SPREAD, Item
from ..engine.objective import Objective
from .grounded import feature_shards
from .low_rank import change_by_low_rank, low_rank_changes
from .task import Context, Task

HUBER = 0.01  # errors of latents below this count as squares, those above as they are


@dataclass(frozen=True)
class StepDistillationSettings(Checked):
    """What the distillation takes from a recipe.

    Attributes:
        evaluations: of the U-Net per sound that the student needs; divides the points of the trajectories.
        rank: of the changes by which the student differs from the U-Net, which stays as it is
            (`sounding.networks.few_steps`); 0 trains all weights of the U-Net itself.
    """

    evaluations: Annotated[int, Range(1, 64)] = 4
    rank: Annotated[int, Range(0, 1024)] = 0


class TrajectoryItems:
    """Conditions and trajectories, as `TrajectorySource` made them.

    Raises:
        ValueError: no trajectories, those of another model, or of a number of points that does not fit.
    """

    def __init__(self, folder: Any, model: SoundingModel, settings: StepDistillationSettings):
        self.shards = Shards(folder, ("id", "tokens", "trajectory"))
        expected = conditions_fingerprint(model)
        for where, index in self.shards.indices.items():
            points = index.settings.get("points")
            if index.settings.get("from") != "trajectories" or not isinstance(points, int):
                raise ValueError(
                    f"{where} holds no trajectories, which distillation learns from; make them with "
                    "`python -m training prepare trajectories`."
                )
            if index.model != expected:
                raise ValueError(
                    f"The trajectories in {where} were made by a model with other encoders, grounding or VAE than this "
                    "run starts with; prepare them again with the checkpoint that `start` names."
                )
            if points % settings.evaluations:
                raise ValueError(
                    f"The trajectories in {where} have {points} points, but step_distillation.evaluations is "
                    f"{settings.evaluations}, which does not divide them; take one that does, or prepare them again."
                )

    def __len__(self) -> int:
        return len(self.shards)

    def ids(self) -> Sequence[str]:
        """See `NamedItems`."""
        return self.shards.ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """tokens [N, D] and trajectory [points + 1, 8, T/4, 16]."""
        row = self.shards[index]
        return {
            "id": row["id"],
            "tokens": row["tokens"].float(),
            "trajectory": row["trajectory"].float(),
        }


class StepDistillationObjective(Objective):
    """Jumps along trajectories; trains the model's U-Net in place."""

    signal: Tensor  # sqrt(alpha_bar) at the beginning of each phase, and at the end of the last: [evaluations + 1]
    noise: Tensor  # sqrt(1 - alpha_bar) likewise
    times: Tensor  # [evaluations]

    def __init__(self, model: SoundingModel, settings: StepDistillationSettings):
        super().__init__()
        self.config, self.settings = model.config, settings
        if settings.rank:
            self.unet = without_student(copy.deepcopy(model.unet))
            change_by_low_rank(self.unet, settings.rank)
        else:
            self.unet = model.unet.requires_grad_(True)
        self.velocity = self.config.diffusion.prediction == "v_prediction"
        solver = build_sampler(self.config.diffusion, "ddim")
        solver.set_timesteps(settings.evaluations)
        kept = build_noise_schedule(self.config.diffusion).alphas_cumprod
        # The last step of DDIM leads to time 0.
        level = kept[torch.cat([solver.timesteps, torch.zeros(1, dtype=torch.long)])]
        for name, value in (
            ("signal", level.sqrt()),
            ("noise", (1 - level).sqrt()),
            ("times", solver.timesteps.clone()),
        ):
            self.register_buffer(name, value, persistent=False)

    def place(self, device: torch.device) -> None:
        """On a CPU the fused attention's backward pass takes longer than plain matrix products do."""
        if device.type == "cpu":
            from diffusers.models.attention_processor import AttnProcessor

            self.unet.set_attn_processor(AttnProcessor())

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        config = self.config
        latents = (config.vae.latent_channels, config.latent_frames(config.train_seconds), config.latent_bands)
        return {
            "tokens": torch.zeros(1, 1, config.grounding.condition_width, device=device),
            "trajectory": torch.zeros(1, self.settings.evaluations + 1, *latents, device=device),
            SPREAD: torch.zeros(1, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `TrajectoryItems` at the ends of phases: "loss", and "mse" without weights.

        The pseudo-Huber loss (after "Improved Techniques for Training Consistency Models", Song & Dhariwal 2023), for
        the squared error's mean over what the teacher might do sounds duller than any of it. It is relative to the
        signal at a phase's end, since later phases multiply what is wrong there by its inverse.
        """
        evaluations, path = self.settings.evaluations, batch["trajectory"]
        path = path[:, :: (path.shape[1] - 1) // evaluations]  # [B, evaluations + 1, ...]
        phase = (batch[SPREAD] * evaluations).long().clamp(max=evaluations - 1)
        rows = torch.arange(len(path), device=path.device)
        squared = (self.jump(path[rows, phase], phase, batch["tokens"]) - path[rows, phase + 1]).square()
        huber = (squared + HUBER**2).sqrt().mean(dim=(1, 2, 3)) - HUBER
        return {"loss": (huber / self.signal[phase + 1]).mean(), "mse": squared.mean()}

    def install(self, model: SoundingModel) -> None:
        """Give the model the changes that were learnt; all of the weights have learnt in place."""
        if self.settings.rank:
            model.unet.few_steps.load_state_dict(low_rank_changes(self.unet))

    def jump(self, latents: Tensor, phase: Tensor, tokens: Tensor) -> Tensor:
        """One step of DDIM over a whole phase.

        Args:
            latents: [B, 8, T/4, 16] at the beginning of the phase.
            phase: [B] its number, from 0.
            tokens: [B, N, D] the condition.
        """
        predicted = self.unet(latents, self.times[phase], encoder_hidden_states=tokens).sample.float()
        (signal, noise), (after, rest) = (
            [values[at][:, None, None, None] for values in (self.signal, self.noise)] for at in (phase, phase + 1)
        )
        if self.velocity:
            clean, predicted = signal * latents - noise * predicted, noise * latents + signal * predicted
        else:
            clean = (latents - noise * predicted) / signal
        return after * clean + rest * predicted


class StepDistillationTask(Task[StepDistillationSettings]):
    """Trajectories, made once by `python -m training prepare trajectories`."""

    name = "step_distillation"
    learns_unet = True
    settings = StepDistillationSettings

    def objective(
        self, model: SoundingModel, settings: StepDistillationSettings, context: Context
    ) -> StepDistillationObjective:
        """See `Task`. From now on the model's own way to sample is the student's."""
        if settings.rank:
            unet = dataclasses.replace(model.config.unet, few_steps=settings.evaluations, few_steps_rank=settings.rank)
            model.config = dataclasses.replace(model.config, unet=unet)
            model.unet.few_steps = FewSteps(model.unet, settings.rank)
        else:
            student = dataclasses.replace(model.config.generation, steps=settings.evaluations, cfg=1.0, sampler="ddim")
            model.config = dataclasses.replace(model.config, generation=student)
        return StepDistillationObjective(model, settings)

    def items(self, model: SoundingModel, settings: StepDistillationSettings, data: DataSettings) -> TrajectoryItems:
        """See `Task`."""
        return TrajectoryItems(feature_shards(data), model, settings)
