"""Grounding and U-Net together (equations 1 to 4), encoders and VAE frozen: the paper's main training.

Items are features that `python -m training prepare features` computed once. A caption's attention over the patches
conditions the U-Net, as in section 3.2; a share of items (`grounding.mask_training`, an ablation of section 4.3) takes
the mask of the sounding objects instead, and a tenth of all items the null condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.config import SoundingConfig
from sounding.diffusion import build_noise_schedule
from sounding.grounding import Grounding, shift_and_scale
from sounding.model import SoundingModel
from sounding.utils.fields import Checked

from ..data.features import check_conditions, check_features
from ..data.settings import DataSettings
from ..data.shard_folders import Folders
from ..data.shards import Shards
from ..engine.loader import Item
from ..engine.objective import Objective
from ..engine.settings import Share, Weight
from .task import Context, Task


@dataclass(frozen=True)
class GroundedSettings(Checked):
    """What the grounded trainer takes from a recipe.

    Attributes:
        drop: share of items that get the null condition, for classifier-free guidance.
        snr_gamma: weighs the loss by min(SNR, gamma) / SNR (Hang et al. 2023; over SNR + 1 where the velocity is
            predicted); 0 is the plain loss of equation 1.
        frozen: the U-Net keeps its weights but for the cross-attention to the condition (table 3, i).
    """

    drop: Share = 0.1
    snr_gamma: Weight = 0.0
    frozen: bool = False


@dataclass
class Selected:
    """What one item takes of a clip, before noise is added."""

    patches: Tensor  # [P, L] of one frame
    coverage: Tensor | None  # [P] of the sounding objects
    by_mask: bool  # the mask conditions, not the caption
    shown: bool  # `coverage` is of what the caption names
    mean: Tensor  # [8, T/4, 16] posterior of the latents
    std: Tensor  # [8, T/4, 16]


class GroundedItems:
    """Features of one clip, with the noise, time and condition of one step.

    Raises:
        ValueError: the features were computed with other encoders or another VAE than `model`'s, or lack captions or
            masks that training needs.
    """

    fields: tuple[str, ...] = ("id", "frames", "queries", "mean", "std")
    optional: tuple[str, ...] = ("coverage",)

    def __init__(self, folder: Folders, model: SoundingModel, settings: GroundedSettings):
        self.shards = Shards(folder, self.fields, optional=self.optional)
        check_features(self.shards, model)
        check_conditions(self.shards, model.config.grounding.mask_training)
        self.drop, self.by_mask = settings.drop, model.config.grounding.mask_training
        self.train_steps = model.config.diffusion.train_steps

    def __len__(self) -> int:
        return len(self.shards)

    def ids(self) -> Sequence[str]:
        """See `NamedItems`."""
        return self.shards.ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """latents and noise [8, T/4, 16], time, patches [P, L] of one random frame, query [L] of one random
        caption, coverage [P], shown (whether that is of what the caption names), by_mask and dropped as booleans.
        """
        row = self.shards[index]
        shape = row["mean"].shape
        within, noise = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for _ in range(2))
        frame = int(rng.integers(len(row["frames"])))
        queries, coverage = row["queries"].float(), row.get("coverage")
        # Drawn for every item, so that the random numbers do not depend on what the item has.
        caption, wants_mask = float(rng.random()), bool(rng.random() < self.by_mask)
        if coverage is None and (wants_mask or not len(queries)):
            raise ValueError(
                f"Item {row['id']} has no mask" + ("" if len(queries) else " and no caption") + ", but one is needed "
                f"with grounding.mask_training {self.by_mask}; give data with masks or captions."
            )
        shown = coverage is not None and len(queries) > 0
        selected = Selected(row["frames"][frame].float(), coverage, wants_mask, shown, row["mean"], row["std"])
        self.augment(selected, row, rng)
        patches, coverage = selected.patches, selected.coverage
        return {
            "id": row["id"],
            "latents": selected.mean.float() + selected.std.float() * within,
            "noise": noise,
            "time": int(rng.integers(self.train_steps)),
            "patches": patches,
            "query": queries[int(caption * len(queries))] if len(queries) else queries.new_zeros(queries.shape[1]),
            "coverage": torch.ones(len(patches)) if coverage is None else coverage.float().clamp(min=1e-6),
            "shown": selected.shown,
            "by_mask": selected.by_mask or not len(queries),
            "dropped": bool(rng.random() < self.drop),
            **self.more(row),
        }

    def augment(self, selected: Selected, row: dict[str, Any], rng: np.random.Generator) -> None:
        """Change in place what an item takes; for trainers that build on this one."""

    def more(self, row: dict[str, Any]) -> Item:
        """Further entries of an item; for trainers that build on this one."""
        return {}


class GroundedObjective(Objective):
    """Noise prediction under the condition (equation 1); trains the model's grounding and U-Net in place."""

    signal: Tensor  # sqrt(alpha_bar) of each of the 1000 times
    noise: Tensor  # sqrt(1 - alpha_bar)
    weight: Tensor  # of the squared error at each time
    ratios: ClassVar[Mapping[str, str]] = {"on_target": "shown"}

    def __init__(self, model: SoundingModel, settings: GroundedSettings):
        super().__init__()
        self.config = model.config
        self.grounding, self.unet = model.grounding, model.unet
        self.requires_grad_(True)
        if settings.frozen:
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(".attn2." in name)
        signal = build_noise_schedule(self.config.diffusion).alphas_cumprod
        self.velocity = self.config.diffusion.prediction == "v_prediction"
        weight = self.loss_weights(signal / (1 - signal), settings)
        # Buffers, so that a step moves nothing to the device (the scheduler's own `add_noise` does every time).
        for name, value in (("signal", signal.sqrt()), ("noise", (1 - signal).sqrt()), ("weight", weight)):
            self.register_buffer(name, value, persistent=False)

    def loss_weights(self, snr: Tensor, settings: Any) -> Tensor:
        """Weights of the squared errors at signal-to-noise ratios [N]."""
        return min_snr_weights(snr, settings.snr_gamma, velocity=self.velocity)

    def place(self, device: torch.device) -> None:
        """On a CPU the fused attention's backward pass takes longer than plain matrix products do."""
        if device.type == "cpu":
            from diffusers.models.attention_processor import AttnProcessor

            self.unet.set_attn_processor(AttnProcessor())

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        config = self.config
        frames = config.latent_frames(config.train_seconds)
        latents = torch.zeros(1, config.vae.latent_channels, frames, config.latent_bands, device=device)
        time = torch.zeros(1, dtype=torch.long, device=device)
        return {"latents": latents, "noise": latents, "time": time, **selection_example(config, device)}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `GroundedItems`, scalars: "loss" (equation 1, weighted by SNR where the settings ask for
        it), "mse" without weights, and "on_target", the share of a caption's attention that is on the sounding objects,
        over the items whose masks cover what the caption names ("shown" is their share).
        """
        batch = {**batch, "time": self.times(batch)}
        condition, attention = self.conditions(batch)
        times = batch["time"]
        latents, noise = batch["latents"], batch["noise"]
        signal, deviation = (values[times][:, None, None, None] for values in (self.signal, self.noise))
        noisy = signal * latents + deviation * noise
        predicted = self.unet(noisy, times, encoder_hidden_states=condition).sample.float()
        target = signal * noise - deviation * latents if self.velocity else noise
        errors = self.errors(predicted, target, noisy, batch)
        on_target = (attention * (batch["coverage"] > 0.3)).sum(-1) * batch["shown"]
        return {
            "loss": (errors * self.weight[times]).mean(),
            "mse": errors.mean(),
            "on_target": on_target.mean().detach(),
            "shown": batch["shown"].float().mean(),
            "weight_std": self.grounding.weight_std.clone(),
        }

    def conditions(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See the function `conditions`."""
        return conditions(self.grounding, batch)

    def times(self, batch: dict[str, Any]) -> Tensor:
        """Diffusion times [B], drawn for each item by itself."""
        drawn: Tensor = batch["time"]
        return drawn

    def errors(self, predicted: Tensor, target: Tensor, noisy: Tensor, batch: dict[str, Any]) -> Tensor:
        """Squared errors [B] of predictions from `noisy` latents."""
        return functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))


def selection_example(config: SoundingConfig, device: torch.device) -> dict[str, Tensor]:
    """Of a batch of one, what `conditions` takes, and whether the coverage is of what the caption names."""
    cells = config.patches.grid**2
    no = torch.zeros(1, dtype=torch.bool, device=device)
    return {
        "patches": torch.zeros(1, cells, config.patches.width, device=device),
        "query": torch.zeros(1, config.query.width, device=device),
        "coverage": torch.ones(1, cells, device=device),
        "shown": no,
        "by_mask": no,
        "dropped": no,
    }


def clean_weights(snr: Tensor, *, velocity: bool) -> Tensor:
    """Weights [N] that the plain loss gives to squared errors of the clean latents at signal-to-noise ratios [N]: SNR
    where the noise is predicted, SNR + 1 where the velocity is (Hang et al. 2023, section 3.4).
    """
    return snr + 1 if velocity else snr


def min_snr_weights(snr: Tensor, gamma: float, *, velocity: bool) -> Tensor:
    """Weights [N] of the squared errors at signal-to-noise ratios [N] that give errors of the clean latents the weight
    min(SNR, gamma); 1 for `gamma` 0.
    """
    plain = clean_weights(snr, velocity=velocity)
    return (snr.clamp(max=gamma) if gamma else plain) / plain


def mask_weights(grounding: Grounding, coverage: Tensor) -> Tensor:
    """Attention weights [N, P] of masks with coverage [N, P], brought to mean and deviation as in generation."""
    deviation, clamp = grounding.weight_std.float(), grounding.config.clamp_weights
    return shift_and_scale(coverage.clamp(min=1e-6), deviation, clamp=clamp)


def conditions_of(grounding: Grounding, weights: Tensor, patches: Tensor) -> Tensor:
    """Conditions [N, D] of attention weights [N, P] over patches [N, P, L]."""
    return grounding.gather(weights[:, None], patches)[:, 0].float()


def conditions(grounding: Grounding, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Conditions [B, 1, D] of a batch of `GroundedItems`, and its captions' attention weights [B, P]."""
    patches = batch["patches"]
    # The mask first: it takes the running deviation as it was before this batch, on every process alike.
    masked = grounding.gather(mask_weights(grounding, batch["coverage"])[:, None], patches)
    attended = grounding.by_query(batch["query"], patches)
    condition = torch.where(batch["by_mask"][:, None, None], masked, attended.tokens)
    null = grounding.null_condition(len(patches))
    return torch.where(batch["dropped"][:, None, None], null, condition), attended.weights


def sounding_labels(row: dict[str, Any]) -> list[int]:
    """Labels of the objects that sound in a row of shards with labels and sounding."""
    return [int(row["labels"][place]) for place in row["sounding"]]


def feature_shards(data: DataSettings) -> Folders:
    """The folders of features that grounded training reads.

    Raises:
        ValueError: there are none in the settings.
    """
    if not data.shards:
        raise ValueError("The grounded trainer reads features; make them with `python -m training prepare`.")
    return data.shards


class GroundedTask(Task[GroundedSettings]):
    """Features of clips, made once by `python -m training prepare features`."""

    name = "grounded"
    learns_unet = True
    settings = GroundedSettings

    def objective(self, model: SoundingModel, settings: GroundedSettings, context: Context) -> GroundedObjective:
        """See `Task`."""
        return GroundedObjective(model, settings)

    def items(self, model: SoundingModel, settings: GroundedSettings, data: DataSettings) -> GroundedItems:
        """See `Task`."""
        return GroundedItems(feature_shards(data), model, settings)

    def learns_grounding(self, settings: GroundedSettings) -> bool:
        """See `Task`."""
        return True
