"""Grounding and U-Net together (equations 1 to 4), encoders and VAE frozen: the paper's main training.

Items are features that `python -m training prepare features` computed once. A caption's attention over the
patches conditions the U-Net, as in section 3.2; a share of items (`grounding.mask_training`, an ablation of
section 4.3) takes the mask of the sounding objects instead, and a tenth of all items the null condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.diffusion import build_noise_schedule
from sounding.grounding import Grounding
from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range

from ..data.features import check_conditions, check_features
from ..data.settings import DataSettings
from ..data.shard_folders import Folders
from ..data.shards import Shards
from ..engine.loader import SPREAD, Item
from ..engine.objective import Objective
from ..engine.settings import Share, Weight
from ..finetune.conditions import mask_weights
from .task import Context, Task

ATTENTION = ("to_query", "to_key", "key_positions", "score")  # what decides where grounding looks


@dataclass(frozen=True)
class GroundedSettings(Checked):
    """`drop` is the share of items without a condition. `snr_gamma` weighs the loss by min(SNR, gamma) / SNR (Hang
    et al. 2023; over SNR + 1 where the velocity is predicted); 0 is the plain loss of equation 1. `snr_floor` makes
    that max(snr_floor, min(SNR, gamma)) / SNR: what is heard as a sound's kind is decided where there is much
    noise, of which the plain loss takes little notice, and guidance multiplies what is wrong there. `snr_limit` is
    the most that this may weigh (0: anything): where all is noise it would be a thousand times as much, and
    gradients of nothing but the last tenth of the times. `even_times` spreads the times of a step's batch evenly
    from one draw (Kingma et al. 2021, "low-discrepancy sampler"), so that few steps see all of them.
    `attention_start` lets attention begin with the dot product that the encoders were trained with, that many times
    as sharp, for encoders whose spaces are shared; 0 begins with noise. `keep_attention` lets what decides where
    attention looks stay as it came: attention that learns with a young U-Net spreads over the picture, and masks,
    which are brought to its deviation, lose their contrast. `mix` blends up to that share of another item's patches
    in (Zhang et al. 2018, of inputs alone): pictures that users bring are never as clearly one thing or the other
    as scenes of cut-outs are. `alone` is the share of items in which several objects sound that give way to an item
    in which one does: users mostly select one. `backdrop` is the share of items with the mask of what is no object,
    and another item's sound: a backdrop says nothing of it. `frozen` keeps the U-Net as it came but for its
    attention to the condition (table 3, i). `keep_grounding` lets the U-Net alone learn, from conditions as
    generation has them: for a grounding that has found its places already.
    """

    drop: Share = 0.1
    snr_gamma: Weight = 0.0
    snr_floor: Weight = 0.0
    snr_limit: Weight = 0.0
    even_times: bool = False
    attention_start: Annotated[float, Range(0, 1000)] = 0.0
    keep_attention: bool = False
    mix: Share = 0.0
    alone: Share = 0.0
    backdrop: Share = 0.0
    frozen: bool = False
    keep_grounding: bool = False


class GroundedItems:
    """Features of one clip, with the noise, time and condition that a step takes.

    Raises:
        ValueError: the features were computed with other encoders or another VAE than `model`'s.
    """

    fields: tuple[str, ...] = ("id", "frames", "queries", "mean", "std")

    def __init__(self, folder: Folders, model: SoundingModel, settings: GroundedSettings):
        self.shards = Shards(folder, self.fields, optional=("coverage", "backdrop"))
        check_features(self.shards, model)
        check_conditions(self.shards, model.config.grounding.mask_training)
        if settings.backdrop:
            self._check_backdrops()
        self.drop, self.mix, self.by_mask = settings.drop, settings.mix, model.config.grounding.mask_training
        self.backdrop = settings.backdrop
        self.alone, self.sounding = settings.alone, _sounding(folder) if settings.alone else []
        self.single = [index for index, count in enumerate(self.sounding) if count == 1]
        self.train_steps = model.config.diffusion.train_steps

    def __len__(self) -> int:
        return len(self.shards)

    def ids(self) -> Sequence[str]:
        """Of the clips.

        Raises:
            ValueError: items take patches or sounds of other clips.
        """
        if self.mix or self.alone or self.backdrop:
            raise ValueError(
                "validation.share holds clips out, but grounded.mix, alone and backdrop take parts of others; give "
                "validation.shards instead, or set those to 0."
            )
        return self.shards.ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """latents and noise [8, T/4, 16], time, patches [P, L] of one random frame, query [L] of one random
        caption, coverage [P], shown (whether that is of what the caption names), by_mask and dropped as booleans.
        """
        if self.alone and self.sounding[index] > 1 and rng.random() < self.alone:
            index = self.single[int(rng.integers(len(self.single)))]
        row = self.shards[index]
        shape = row["mean"].shape
        within, noise = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for _ in range(2))
        frame = int(rng.integers(len(row["frames"])))
        patches, queries, coverage = row["frames"][frame].float(), row["queries"].float(), row.get("coverage")
        # Drawn for every item alike, so that what one of them lacks does not move another's noise.
        caption, wants_mask = float(rng.random()), bool(rng.random() < self.by_mask)
        if coverage is None and (wants_mask or not len(queries)):
            raise ValueError(
                f"Item {row['id']} has no mask" + ("" if len(queries) else " and no caption") + ", but one is needed "
                f"with grounding.mask_training {self.by_mask}; give data with masks or captions."
            )
        if self.mix:
            others = self.shards.only("frames")[int(rng.integers(len(self)))]["frames"]
            other = others[int(rng.integers(len(others)))].float()
            patches = patches.lerp(other, self.mix * float(rng.random()))
        heard, shown = row, coverage is not None and len(queries) > 0
        if self.backdrop and rng.random() < self.backdrop:
            heard = self.shards.only("mean", "std")[int(rng.integers(len(self)))]
            coverage, wants_mask, shown = self._backdrop(row), True, False
        return {
            "id": row["id"],
            "latents": heard["mean"].float() + heard["std"].float() * within,
            "noise": noise,
            "time": int(rng.integers(self.train_steps)),
            "patches": patches,
            "query": queries[int(caption * len(queries))] if len(queries) else queries.new_zeros(queries.shape[1]),
            "coverage": torch.ones(len(patches)) if coverage is None else coverage.float().clamp(min=1e-6),
            "shown": shown,
            "by_mask": wants_mask or not len(queries),
            "dropped": bool(rng.random() < self.drop),
            **self.more(row),
        }

    def _check_backdrops(self) -> None:
        """Masks of what is no object came with masks of objects, or not at all in features of an earlier version."""
        if (self.shards.index.masked or 0) < len(self):
            for index in range(len(self)):
                self._backdrop(self.shards[index])
        elif len(self):
            self._backdrop(self.shards[0])

    def _backdrop(self, row: dict[str, Any]) -> Tensor:
        if "backdrop" not in row:
            raise ValueError(
                f"Item {row['id']} has no mask of what is no object, but grounded.backdrop asks for it; prepare the "
                "features again from shards with masks, or set it to 0."
            )
        return cast(Tensor, row["backdrop"])

    def more(self, row: dict[str, Any]) -> Item:
        """What a trainer that builds on this one takes of a row beside."""
        return {}


def _sounding(folder: Folders) -> list[int]:
    """How many objects sound in each item.

    Raises:
        ValueError: in none of them one alone.
    """
    described = Shards(folder, ("sounding",))
    counts = [len(described[index]["sounding"]) for index in range(len(described))]
    if 1 not in counts:
        raise ValueError(f"grounded.alone asks for items with one sounding object, but {folder} has none; set it to 0.")
    return counts


class GroundedObjective(Objective):
    """Noise prediction under the condition; learns the model's grounding and U-Net in place."""

    signal: Tensor  # of 1000 times, sqrt(alpha_bar)
    noise: Tensor  # sqrt(1 - alpha_bar)
    weight: Tensor  # of a time's squared error
    ratios: ClassVar[Mapping[str, str]] = {"on_target": "shown"}

    def __init__(self, model: SoundingModel, settings: GroundedSettings):
        super().__init__()
        self.config = model.config
        self.grounding, self.unet = model.grounding, model.unet
        self.requires_grad_(True)
        if settings.frozen:
            for name, parameter in self.unet.named_parameters():
                parameter.requires_grad_(".attn2." in name)
        if settings.attention_start:
            start_from_encoders(self.grounding, settings.attention_start)
        if settings.keep_attention:
            for name, parameter in self.grounding.named_parameters():
                parameter.requires_grad_(not name.startswith(ATTENTION))
        signal = build_noise_schedule(self.config.diffusion).alphas_cumprod
        self.velocity = self.config.diffusion.prediction == "v_prediction"
        weight = loss_weights(signal / (1 - signal), settings, velocity=self.velocity)
        # Buffers, so that a step moves nothing to the device (the scheduler's own `add_noise` does every time).
        for name, value in (("signal", signal.sqrt()), ("noise", (1 - signal).sqrt()), ("weight", weight)):
            self.register_buffer(name, value, persistent=False)
        self.keep_grounding, self.even_times = settings.keep_grounding, settings.even_times
        if self.keep_grounding:
            self.grounding.requires_grad_(False)

    def train(self, mode: bool = True) -> GroundedObjective:
        """Groundings that are kept give conditions, and keep statistics, as in generation."""
        super().train(mode)
        if self.keep_grounding:
            self.grounding.eval()
        return self

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
        cells = config.patches.grid**2
        no = torch.zeros(1, dtype=torch.bool, device=device)
        return {
            "latents": latents,
            "noise": latents,
            "time": torch.zeros(1, dtype=torch.long, device=device),
            "patches": torch.zeros(1, cells, config.patches.width, device=device),
            "query": torch.zeros(1, config.query.width, device=device),
            "coverage": torch.ones(1, cells, device=device),
            "shown": no,
            "by_mask": no,
            "dropped": no,
            SPREAD: torch.zeros(1, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `GroundedItems`; also the share of a caption's attention that is on the sounding objects, a mean
        over the items whose masks say where those are.
        """
        batch = {**batch, "time": self.times(batch)}
        condition, attention = conditions(self.grounding, batch)
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

    def times(self, batch: dict[str, Any]) -> Tensor:
        """[B]: drawn for each item, or where it lies in its step's batch, spread evenly over all times."""
        drawn: Tensor = batch["time"]
        if not self.even_times:
            return drawn
        steps = len(self.signal)
        return (batch[SPREAD] * steps).long().clamp(max=steps - 1)

    def errors(self, predicted: Tensor, target: Tensor, noisy: Tensor, batch: dict[str, Any]) -> Tensor:
        """[B] squared errors of predictions from `noisy` latents."""
        return functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))


def loss_weights(snr: Tensor, settings: GroundedSettings, *, velocity: bool) -> Tensor:
    """Of the squared errors at signal-to-noise ratios [N]: what an error of the clean latents is to weigh, over what
    the plain loss weighs it (Hang et al. 2023, section 3.4). That is SNR where the noise is predicted, and SNR + 1
    where the velocity is.
    """
    plain = snr + 1 if velocity else snr
    wanted = snr.clamp(max=settings.snr_gamma) if settings.snr_gamma else plain
    weight = wanted.clamp(min=settings.snr_floor) / plain
    return weight.clamp(max=settings.snr_limit or math.inf)


def conditions(grounding: Grounding, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Conditions [B, 1, D] that a batch of `GroundedItems` asks for, and its captions' attention [B, P]."""
    patches = batch["patches"]
    # The mask first: it takes the running deviation as it was before this batch, on every process alike.
    masked = grounding.gather(mask_weights(grounding, batch["coverage"])[:, None], patches)
    attended = grounding.by_query(batch["query"], patches)
    condition = torch.where(batch["by_mask"][:, None, None], masked, attended.tokens)
    null = grounding.null_condition(len(patches))
    return torch.where(batch["dropped"][:, None, None], null, condition), attended.weights


@torch.no_grad()
def start_from_encoders(grounding: Grounding, sharpness: float = 1.0) -> None:
    """Begin with the attention that the encoders were trained for: W_Q and W_K are multiples of the identity.

    A contrastive loss that scored sentences against patches by the plain dot product over sqrt(L) has already
    found where to look (section 3.3 treats the two as one), so grounding starts there instead of from noise.
    `sharpness` multiplies the scores. The running deviation of the weights starts anew.

    Raises:
        ValueError: attention is of another form or width than the encoders' was.
    """
    config, width = grounding.config, grounding.to_query.in_features
    if config.scoring != "dot" or not config.key_width == width == grounding.to_key.in_features:
        raise ValueError(
            f"grounded.attention_start begins with the encoders' dot product of {width} numbers, but grounding has "
            f"{config.scoring} scoring and key_width {config.key_width}; set grounded.attention_start=0, or "
            f"model.grounding.scoring=dot and model.grounding.key_width={width}."
        )
    for projection in (grounding.to_query, grounding.to_key):
        nn.init.eye_(projection.weight)
        projection.weight.mul_(sharpness**0.5)
    grounding.weight_count.zero_()


class GroundedTask(Task[GroundedSettings]):
    """Features of clips, made once by `python -m training prepare features`."""

    name = "grounded"
    settings = GroundedSettings

    def objective(self, model: SoundingModel, settings: GroundedSettings, context: Context) -> GroundedObjective:
        """See `Task`."""
        return GroundedObjective(model, settings)

    def items(self, model: SoundingModel, settings: GroundedSettings, data: DataSettings) -> GroundedItems:
        """See `Task`."""
        if not data.shards:
            raise ValueError("The grounded trainer reads features; make them with `python -m training prepare`.")
        return GroundedItems(data.shards, model, settings)

    def learns_grounding(self, settings: GroundedSettings) -> bool:
        """See `Task`."""
        return not settings.keep_grounding
