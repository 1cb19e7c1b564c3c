"""The click decoder: simulated clicks, cross-entropy and overlap, on a frozen patch tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel
from sounding.segment.network import ClickNetwork, Clicks
from sounding.utils.fields import Checked, Range

from ..engine.loader import Item
from ..engine.objective import Objective
from ..engine.settings import Share, Weight
from .clicks import first_click, jittered_box, next_click

# Layers of the patch tower after the feature maps that the click decoder takes.
AFTER_FEATURES = ("tower.head.", "tower.trunk.conv_head.", "tower.trunk.bn2.")


@dataclass(frozen=True)
class SegmenterSettings(Checked):
    """What the click decoder's trainer takes from a recipe.

    Attributes:
        rounds: clicks per step, each after the first where the answer is most wrong.
        boxes: share of first prompts that are a box; a third of those have no click.
        again: share of batches in which no click follows the first answer, but a second look that knows that answer
            roughly, as the segmenter's zoom-in on small objects does.
        rough_weight: of the loss of the coarse mask.
    """

    rounds: Annotated[int, Range(1, 64)] = 2
    boxes: Share = 0.15
    again: Share = 0.4
    rough_weight: Weight = 0.3


def build_network(model: SoundingModel) -> ClickNetwork:
    """The model's click decoder.

    Raises:
        ValueError: it has none.
    """
    if model.segmenter is None:
        raise ValueError("The model has no segmenter, but one is to be trained; give model.segmenter in the recipe.")
    return model.segmenter


def first_prompt(mask: Tensor, boxes: float, rng: np.random.Generator) -> Item:
    """The first prompt for an object, of a mask [S, S] uint8: point [2] with its sign (0: none), box [4] (zeros: none),
    and a seed for the clicks that follow. `boxes` is the share of prompts with a box.
    """
    seen = mask.numpy() > 127
    click = first_click(seen, rng)
    boxed = rng.random() < boxes
    box = jittered_box(seen, rng) if boxed else (0.0,) * 4
    sign = 0 if boxed and rng.random() < 1 / 3 else 1
    return {
        "point": torch.tensor([click.x, click.y]),
        "sign": torch.tensor(sign),
        "box": torch.tensor(box),
        "seed": torch.tensor(int(rng.integers(2**31))),
    }


def normal(picture: Tensor, patches: PatchEncoder) -> Tensor:
    """[B, 3, S, S] uint8 -> as the patch tower takes it."""
    mean, std = patches.mean.to(picture.device), patches.std.to(picture.device)
    return (picture.float() / 255 - mean) / std


class SegmenterObjective(Objective):
    """Learns the model's click decoder in place."""

    def __init__(self, model: SoundingModel, settings: SegmenterSettings):
        super().__init__()
        self.settings, self.network = settings, build_network(model)
        self.patches = model.patches.requires_grad_(False)
        self.network.requires_grad_(True)

    def train(self, mode: bool = True) -> SegmenterObjective:
        """The tower's statistics stay as they are."""
        super().train(mode)
        self.patches.eval()
        return self

    def place(self, device: torch.device) -> None:
        """Convolutions are faster with channels last."""
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        side = self.network.config.side
        mask = torch.zeros(1, side, side, dtype=torch.uint8, device=device)
        mask[:, side // 4 : side // 2, side // 4 : side // 2] = 255
        return {
            "image": torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device),
            "mask": mask,
            "point": torch.full((1, 2), side / 3, device=device),
            "sign": torch.ones(1, dtype=torch.long, device=device),
            "box": torch.zeros(1, 4, device=device),
            "seed": torch.zeros(1, dtype=torch.long, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of images [B, 3, S, S] with their masks and prompts, see `first_prompt`; `map0` to `map3` may bring
        the tower's maps. iou1, iou2, ... are the overlaps after so many clicks.
        """
        pixels = normal(batch["image"], self.patches).contiguous(memory_format=torch.channels_last)
        if "map0" in batch:
            maps = [batch[f"map{i}"].float().contiguous(memory_format=torch.channels_last) for i in range(4)]
        else:
            with torch.no_grad():
                maps = self.network.levels(self.patches.tower, pixels)
        truth = batch["mask"].float() / 255  # [B, S, S]
        small = functional.avg_pool2d(truth[:, None], 8)[:, 0]
        embedding = self.network.embed(maps, pixels)
        clicks = Clicks(batch["point"][:, None].float(), batch["sign"][:, None], batch["box"].float())
        seeds = [np.random.default_rng(int(seed)) for seed in batch["seed"]]
        again = seeds[0].random() < self.settings.again
        last: Tensor | None = None
        losses: dict[str, Tensor] = {"loss": torch.zeros((), device=truth.device)}
        for round_ in range(1, self.settings.rounds + 1):
            logits, rough = self.network.decode(embedding, clicks, last)
            loss = mask_loss(logits, truth) + self.settings.rough_weight * mask_loss(rough, small)
            losses["loss"] = losses["loss"] + loss / self.settings.rounds
            losses[f"iou{round_}"] = overlap(logits > 0, truth > 0.5).mean()
            if round_ < self.settings.rounds:
                last = logits.detach()
                if again:
                    last = _rough(last)
                else:
                    clicks = _another(clicks, last, truth, seeds)
        return losses


def _rough(logits: Tensor) -> Tensor:
    """[B, h, w] as an answer to the whole image would be, in which the object is a third of the size."""
    small = functional.avg_pool2d(logits[:, None], 3)
    return functional.interpolate(small, logits.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _another(clicks: Clicks, logits: Tensor, truth: Tensor, seeds: list[np.random.Generator]) -> Clicks:
    """One click more an item, where its answer is most wrong (looked for at half the resolution)."""
    found = (functional.avg_pool2d(logits[:, None], 2)[:, 0] > 0).cpu().numpy()
    wanted = (functional.avg_pool2d(truth[:, None], 2)[:, 0] > 0.5).cpu().numpy()
    more = [next_click(mask, answer, rng) for mask, answer, rng in zip(wanted, found, seeds, strict=True)]
    points = torch.tensor([[[2 * click.x, 2 * click.y]] for click in more]).to(clicks.points)
    signs = torch.tensor([[1 if click.positive else -1] for click in more]).to(clicks.signs)
    return Clicks(torch.cat([clicks.points, points], 1), torch.cat([clicks.signs, signs], 1), clicks.boxes)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and 1 - soft overlap (Dice, Milletari et al. 2016) of [B, h, w] against an alpha 0..1."""
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    found = logits.sigmoid()
    both = (found * truth).sum(dim=(1, 2))
    dice = (2 * both + 1) / (found.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
    return entropy + (1 - dice).mean()


def overlap(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool [B, h, w]: [B]."""
    both, either = (found & truth).sum(dim=(1, 2)), (found | truth).sum(dim=(1, 2))
    return both.float() / either.clamp(min=1)


def backbone_tensors(patches: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a patch encoder that the click decoder's feature maps depend on; the last layers are not."""
    return {name: value for name, value in patches.items() if not name.startswith(AFTER_FEATURES)}
