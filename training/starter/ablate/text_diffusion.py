"""The common start of all ablations: a diffusion model that is conditioned by sentences alone, as AudioLDM is.

The paper begins with a pre-trained text-to-audio model and replaces its condition by what attention finds in the image
(section 3.1). So does every ablation: its U-Net begins with these weights, and its grounding with random ones.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from sounding.model import SoundingModel

from ...data.settings import DataSettings
from ...tasks.grounded import feature_shards
from ...tasks.task import Context, Task
from ..grounded import StarterGroundedItems, StarterGroundedObjective, StarterGroundedSettings


class TextDiffusionObjective(StarterGroundedObjective):
    """Noise prediction under a sentence's embedding (equation 1); trains the U-Net alone.

    The null condition keeps its first, small values, so that a grounding with new weights begins near it.
    """

    def __init__(self, model: SoundingModel, settings: StarterGroundedSettings):
        super().__init__(model, settings)
        self.grounding.requires_grad_(False)

    def conditions(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See `GroundedObjective`; there is no attention, so its weights are even."""
        condition, patches = sentence_conditions(batch["query"])[:, None], batch["patches"]
        null = self.grounding.null_condition(len(condition))
        even = patches.new_full(patches.shape[:2], 1 / patches.shape[1])
        return condition.where(~batch["dropped"][:, None, None], null), even


def sentence_conditions(query: Tensor) -> Tensor:
    """Embeddings of sentences [B, L] as conditions: [B, L] with mean square 1."""
    return functional.normalize(query.float(), dim=-1) * query.shape[-1] ** 0.5


class TextDiffusionTask(Task[StarterGroundedSettings]):
    """Features of scenes, of which the image is not used."""

    name = "text_diffusion"
    settings = StarterGroundedSettings

    def objective(
        self, model: SoundingModel, settings: StarterGroundedSettings, context: Context
    ) -> TextDiffusionObjective:
        """See `Task`.

        Raises:
            ValueError: conditions are not as wide as sentences' embeddings.
        """
        query, wide = model.config.query.width, model.config.grounding.condition_width
        if query != wide:
            raise ValueError(
                f"model.grounding.condition_width is {wide}, but the embeddings of sentences have {query} numbers and "
                f"are the condition here; set it to {query}."
            )
        return TextDiffusionObjective(model, settings)

    def items(
        self, model: SoundingModel, settings: StarterGroundedSettings, data: DataSettings
    ) -> StarterGroundedItems:
        """See `Task`."""
        return StarterGroundedItems(feature_shards(data), model, settings)
