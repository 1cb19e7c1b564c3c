"""Queries of the theorem from drawn scenes: what attention, the true mask and a segmenter say of one object each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.grounding import match_moments
from sounding.model import SoundingModel
from sounding.segment import Prompt
from sounding.segment.click import ClickSegmenter

from ...data.object_set import ObjectSet
from ...data.scenes import Split, as_tensors, draw_scene, scene_rng
from .quantities import log_attention, normalized

LEAST_AREA = 0.003  # of the image; what is hidden almost wholly is asked for by nobody


@dataclass(frozen=True)
class Query:
    """One object of one scene. Weightings are those of `quantities`."""

    index: int  # of the scene
    label: int
    caption: str
    image: Tensor  # [1, H, W, 3] 0..1
    mask: Tensor  # [H, W] 0..1
    coverage: Tensor  # [P] share of each patch that the object covers
    contents: Tensor  # [P, objects] float64, the same of all objects
    p: Tensor  # [P] float64
    log_u: Tensor  # [P] float64
    values: Tensor  # [P, d] float64, V of equation 3 with the positions
    found: Tensor | None  # [P] coverage by the segmenter's mask; None where it is empty or there is no segmenter


def check_model(model: SoundingModel) -> None:
    """Whether the theorem is about such a model.

    Raises:
        ValueError: it is not: additive or multi-head attention, or queries that are sounds.
    """
    given = model.config.grounding
    if given.scoring != "dot" or given.heads != 1:
        raise ValueError(
            f"The checkpoint has {given.scoring} attention with {given.heads} head(s), but theorem 3.1 is about "
            "dot-product attention with one; take such a checkpoint."
        )
    if given.query != "text" or isinstance(model.query, ClapAudioQuery):
        raise ValueError("The checkpoint is queried by sounds, but theorem 3.1 is about texts; take one with texts.")


def seen_queries(model: SoundingModel, data: ObjectSet, count: int, split: Split = "held-out") -> Iterator[Query]:
    """`count` queries: of each scene the first object that sounds, asked for by its caption.

    Only objects of held-out scenes are clicked on.
    """
    clicks = model.segmenter is not None and split == "held-out"
    segmenter = ClickSegmenter(model.patches, model.segmenter) if clicks and model.segmenter else None
    found, index = 0, 0
    while found < count:
        _, scene = draw_scene(data, scene_rng(split, index))
        place = scene.sounding[0]
        if (scene.masks[place] > 127).mean() >= LEAST_AREA:
            image, masks = as_tensors(scene)
            clicked = _clicked(segmenter, image, masks[place]) if segmenter else None
            yield _query(model, data, index, scene.labels, place, image, masks, clicked)
            found += 1
        index += 1


@torch.no_grad()
def _query(
    model: SoundingModel,
    data: ObjectSet,
    index: int,
    labels: tuple[int, ...],
    place: int,
    image: Tensor,
    masks: Tensor,
    clicked: Tensor | None,
) -> Query:
    query = model.query
    if isinstance(query, ClapAudioQuery):
        raise ValueError("The checkpoint is queried by sounds, but theorem 3.1 is about texts; take one with texts.")
    grounding, size = model.grounding, (image.shape[1], image.shape[2])
    covers = mask_to_grid(masks, size, model.config.patches)  # [objects, P]
    contents = torch.zeros(covers.shape[1], len(data), dtype=torch.float64)
    contents[:, list(labels)] = covers.T.double()
    patches = model.see(image).clone()
    keys, values = patches, patches
    if model.config.grounding.positions:
        keys, values = patches + grounding.key_positions, patches + grounding.value_positions
    caption = data.entries[labels[place]].caption
    text = query.encode([caption]).to(patches)
    found = None if clicked is None else mask_to_grid(clicked[None], size, model.config.patches)[0]
    return Query(
        index,
        labels[place],
        caption,
        image,
        masks[place],
        covers[place],
        contents,
        normalized(covers[place]),
        log_attention(text, keys, grounding.to_query.weight, grounding.to_key.weight)[0].cpu(),
        grounding.to_value(values)[0].double().cpu(),
        None if found is None or found.max() <= 0 else found,
    )


def _clicked(segmenter: ClickSegmenter, image: Tensor, mask: Tensor) -> Tensor:
    """[H, W], 0 or 1: what one click deepest inside the object selects."""
    depth = distance_transform_edt(np.pad(mask.numpy() > 0.5, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    prompt = Prompt(positive=((float(column) + 0.5, float(row) + 0.5),))
    return (segmenter.segment(segmenter.prepare(image), prompt).mask > 0.5).float()


def weightings(model: SoundingModel, coverage: Tensor) -> dict[str, Tensor]:
    """m in three forms, [P] float64 each.

    "normalised" to sum 1 like p; "matched" to attention's mean and variance as section 3.2 says, which may be negative;
    "clamped", the same without its negative weights, scaled to sum 1 again.
    """
    std, rows = model.grounding.weight_std.float().cpu(), coverage[None].cpu()
    return {
        "normalised": normalized(rows)[0],
        "matched": match_moments(rows, std, clamp=False)[0].double(),
        "clamped": match_moments(rows, std, clamp=True)[0].double(),
    }


class TrueValues:
    """V*: the values that patches would have if they told what they show, where they are, and nothing else.

    The theorem calls V* the ground-truth counterpart of V and says no more. Here a row of V* is the expectation of V's
    row given the patch's position and the shares of it that each object covers. Expectations are fitted by least
    squares (with a little ridge) to scenes of another random stream than the measured ones.
    """

    def __init__(self, model: SoundingModel, data: ObjectSet, count: int, ridge: float = 0.1):
        queries = list(seen_queries(model, data, count, "train"))
        self.positions = torch.zeros_like(queries[0].values)
        if model.config.grounding.positions:
            with torch.no_grad():
                self.positions = model.grounding.to_value(model.grounding.value_positions).double().cpu()
        shown = torch.cat([self._shown(query) for query in queries])
        values = torch.cat([query.values - self.positions for query in queries])
        gram = shown.T @ shown
        self.of_contents = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), shown.T @ values)

    @staticmethod
    def _shown(query: Query) -> Tensor:
        """[P, objects + 1]: shares of objects, and of what is behind them."""
        behind = (1 - query.contents.sum(dim=1, keepdim=True)).clamp(min=0)
        return torch.cat([query.contents, behind], dim=1)

    def __call__(self, query: Query) -> Tensor:
        """V* of a query, [P, d]."""
        return self._shown(query) @ self.of_contents + self.positions
