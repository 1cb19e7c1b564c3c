"""The click decoder: clicks simulated on scenes, cross-entropy and overlap, the patch tower left as it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel
from sounding.segment.network import ClickNetwork, Clicks
from sounding.utils.fields import Checked, Range

from ..data.tensor_cache import TensorCache
from ..engine.loader import Item
from ..engine.objective import Objective
from ..engine.settings import FilePath, Share, Weight
from ..starter.click_scenes import ClickScene, click_scene
from ..starter.cutouts import Cutouts
from ..starter.transplant import seen_by
from .clicks import first_click, jittered_box, next_click


@dataclass(frozen=True)
class SegmenterSettings(Checked):
    """`cutouts` is a folder of `training.starter.cutouts`. `cache` keeps scenes with the tower's maps: it is frozen.

    `boxes` is the share of first prompts that are a box; a third of those have no click. `again` is the share of
    batches in which no click follows on the first answer, but a second look that knows it roughly, as the segmenter
    takes one at small objects.
    """

    cutouts: FilePath = ""
    cache: FilePath = ""
    scenes: Annotated[int, Range(1, 10_000_000)] = 4000
    rounds: Annotated[int, Range(1, 64)] = 2  # clicks a step, each next one where the answer is most wrong
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


class SegmenterItems:
    """Scenes with one object to find in each, and the first prompt for it."""

    def __init__(self, data: Cutouts, model: SoundingModel, settings: SegmenterSettings):
        self.data, self.settings = data, settings
        # A copy: the trainer moves its own to the device, while pictures are drawn on the CPU.
        self.network, self.patches = build_network(model), copy.deepcopy(model.patches)
        self.side = self.network.config.side
        self.cache: TensorCache | None = None
        if settings.cache:
            drawn = f"{self.side} {len(data)} {len(data.photographs)} {model.config.patches}"
            pictures = (np.asarray(picture) for picture in (*data.cutouts, *data.photographs))
            self.cache = TensorCache(Path(settings.cache), drawn, seen_by(self.patches.state_dict()), pictures)

    def __len__(self) -> int:
        return self.settings.scenes

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """picture [3, S, S] and mask [S, S] uint8, point [2] with its sign, box [4], a seed for the later clicks;
        with a cache also the tower's maps, fp16.
        """
        tensors = self._scene(index)
        masks = tensors.pop("masks")
        mask = masks[int(rng.integers(len(masks)))]
        seen = mask.numpy() > 127
        click = first_click(seen, rng)
        boxed = rng.random() < self.settings.boxes
        box = jittered_box(seen, rng) if boxed else (0.0,) * 4
        sign = 0 if boxed and rng.random() < 1 / 3 else 1
        return {
            "id": f"scene {index}",
            **tensors,
            "mask": mask,
            "point": torch.tensor([click.x, click.y]),
            "sign": torch.tensor(sign),
            "box": torch.tensor(box),
            "seed": torch.tensor(int(rng.integers(2**31))),
        }

    def _scene(self, index: int) -> dict[str, Tensor]:
        if self.cache is None:
            return _tensors(click_scene(self.data, index, self.side))
        return self.cache.get(index, lambda: self._seen(index))

    @torch.no_grad()
    def _seen(self, index: int) -> dict[str, Tensor]:
        tensors = _tensors(click_scene(self.data, index, self.side))
        maps = self.network.levels(self.patches.tower, normal(tensors["picture"][None], self.patches))
        return tensors | {f"map{i}": level[0].half().contiguous() for i, level in enumerate(maps)}


def _tensors(scene: ClickScene) -> dict[str, Tensor]:
    picture = torch.from_numpy(scene.picture.copy()).movedim(-1, 0).contiguous()
    return {"picture": picture, "masks": torch.from_numpy(scene.masks)}


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
            "picture": torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device),
            "mask": mask,
            "point": torch.full((1, 2), side / 3, device=device),
            "sign": torch.ones(1, dtype=torch.long, device=device),
            "box": torch.zeros(1, 4, device=device),
            "seed": torch.zeros(1, dtype=torch.long, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `SegmenterItems`; iou1, iou2, ... are after so many clicks."""
        pixels = normal(batch["picture"], self.patches).contiguous(memory_format=torch.channels_last)
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
    """[B, h, w] as an answer to the whole picture would be, in which the object is a third of the size."""
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
