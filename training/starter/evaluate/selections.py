"""Selections beyond one mask or one text: text within a mask, names of masked objects, and negative conditions.

    python -m training starter evaluate selections --model starter

No judge is trained: conditions are compared with those of the objects' own masks, and sounds with the recordings by
`MelRetrieval`. A condition counts as the right one where, seen from the mean condition of training, its cosine with the
condition of the meant object's own mask is higher than with those of all other objects in the scene.

(joined) text and mask together, beside each of them alone, in three situations, each in held-out scenes:
    pair: the mask covers two objects, and the text is the caption of one
    look-alike: the same, with a third object outside of the mask whose caption is nearest to the text
    manner: the mask covers one object of three, and the text does not name it ("barking twice")
(names) the sentence with the name of what is masked: its cosine with the object's caption, and how often that is the
    nearest of all captions; apart for specific names, and for general ones ("bird") and "unknown", for which several
    likely ones stand
(negative) the mask covers two objects; what is heard with the second one's mask or caption as the negative condition

The same checkpoint and settings give the same figures.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.encoders.audio import ClapAudioQuery
from sounding.grounding import Condition
from sounding.model import SoundingModel
from sounding.naming.sentences import sentences

from ...data.object_set import ObjectSet
from ...data.scenes import as_tensors, scene_rng
from ...finetune.objects import TaughtObject
from ...finetune.retrieval import MelRetrieval, sound_of
from .sounds import Chosen, Settings, asked_scene, held_out_pairs

log = logging.getLogger("training")
Figures = dict[str, Any]
PARTS = ("joined", "names", "negative")
MANNERS = ("barking twice", "loudly", "far away", "in the rain", "a short call", "a spaceship", "the wind")
LIKELY = (1, 2, 3, 5)  # names that are averaged


@dataclass(frozen=True)
class Seen:
    """A held-out scene: its patches, masks [k, H, W], and captions of its objects."""

    image: Tensor
    patches: Tensor
    masks: Tensor
    captions: tuple[str, ...]

    @property
    def both(self) -> Tensor:
        """One mask over the first two objects."""
        return self.masks[:2].amax(dim=0, keepdim=True)


def seen(model: SoundingModel, data: ObjectSet, chosen: Chosen) -> Seen:
    """Draw a scene and encode it."""
    scene = asked_scene(data, scene_rng("held-out", chosen[0]), chosen[1])
    image, masks = as_tensors(scene)
    return Seen(image, model.see(image), masks, tuple(data.entries[label].caption for label in scene.labels))


def look_alikes(model: SoundingModel, data: ObjectSet) -> list[int]:
    """Of each object, the other one whose caption is nearest to its own."""
    embedded = embeddings(model, [entry.caption for entry in data.entries])
    return (embedded @ embedded.T).fill_diagonal_(-1).argmax(dim=1).tolist()


def embeddings(model: SoundingModel, texts: list[str]) -> Tensor:
    """Directions of texts in the query encoder's space: [texts, L].

    Raises:
        ValueError: the model is queried by sounds.
    """
    if isinstance(model.query, ClapAudioQuery):
        raise ValueError("This checkpoint is queried by sounds, but texts are needed here; take one with text queries.")
    return functional.normalize(model.query.encode(texts).float(), dim=-1).cpu()


@torch.inference_mode()
def joined_figures(model: SoundingModel, data: ObjectSet, count: int) -> Figures:
    """(joined) in `count` scenes of each situation."""
    marks: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in ("pair", "look-alike", "manner")}

    def note(situation: str, scene: Seen, mask: Tensor, text: str) -> None:
        own = directions(model, [model.ground(scene.patches, mask=one[None]) for one in scene.masks])
        ways = {
            "mask": model.ground(scene.patches, mask=mask),
            "text": model.ground(scene.patches, text=text),
            "both": model.ground(scene.patches, mask=mask, text=text),
        }
        for way, condition in ways.items():
            cosines = own @ directions(model, [condition])[0]
            marks[situation][way].append(bool(cosines[0] > cosines[1:].max()))

    alike, whole = look_alikes(model, data), set(data.whole)
    for number, (index, labels) in enumerate(held_out_pairs(data, count)):
        third = alike[labels[0]]
        scene = seen(model, data, (index, labels))
        note("pair", scene, scene.both, scene.captions[0])
        if third not in labels and len(whole.intersection((*labels, third))) < 2:  # one alone fills the image
            scene = seen(model, data, (index, (*labels, third)))
            note("look-alike", scene, scene.both, scene.captions[0])
            note("manner", scene, scene.masks[:1], MANNERS[number % len(MANNERS)])
    return {
        situation: {"count": len(found["mask"]), **{way: float(np.mean(right)) for way, right in found.items()}}
        for situation, found in marks.items()
    }


def directions(model: SoundingModel, conditions: Sequence[Condition]) -> Tensor:
    """Conditions as seen from the mean condition of training: [N, D], of unit length."""
    tokens = torch.cat([condition.tokens[:, 0].float() for condition in conditions])
    mean = model.grounding.condition_mean if model.config.grounding.norm_matching else 0.0
    return functional.normalize(tokens - mean, dim=-1)


@torch.inference_mode()
def name_figures(model: SoundingModel, data: ObjectSet, count: int) -> Figures:
    """(names) of the first object in `count` scenes of two."""
    captions = embeddings(model, [entry.caption for entry in data.entries])
    found: dict[str, list[Tensor]] = defaultdict(list)  # per kind of name, each object's cosines by number of names
    right: dict[str, list[Tensor]] = defaultdict(list)
    for index, labels in held_out_pairs(data, count):
        scene = seen(model, data, (index, labels))
        (named,) = model.name(image=scene.image, mask=scene.masks[:1])
        cosines = []
        for likely in LIKELY:
            shares = sentences(named, likely=likely)
            weights = torch.tensor([share for _, share in shares])
            mean = weights @ embeddings(model, [sentence for sentence, _ in shares])
            cosines.append(captions @ functional.normalize(mean, dim=0))
        kind = "unknown" if not named.known else "specific" if named.name == named.top[0][0] else "general"
        found[kind].append(torch.stack(cosines)[:, labels[0]])
        right[kind].append(torch.stack(cosines).argmax(dim=1) == labels[0])
    figures: Figures = {"count": count}
    for kind, values in found.items():
        cosine, nearest = torch.stack(values).mean(dim=0), torch.stack(right[kind]).float().mean(dim=0)
        figures[kind] = {"count": len(values)} | {
            f"likely_names {likely}": {"cosine": float(cosine[place]), "nearest": float(nearest[place])}
            for place, likely in enumerate(LIKELY)
        }
    return figures


@torch.inference_mode()
def negative_figures(model: SoundingModel, data: ObjectSet, settings: Settings, scales: Sequence[float]) -> Figures:
    """(negative) in `settings.pairs` scenes, at several guidance scales.

    Of each way: how often the sound is nearer to the first object's recordings than to the second's, and the mean
    ranks of both among all kinds that can be learned by sight.
    """
    objects = [
        TaughtObject(kind.name, (kind.caption,), (), tuple(sounds), kind.licence) for kind, sounds in data.visible
    ]
    retrieval = MelRetrieval(objects, settings.seconds)
    pairs = held_out_pairs(data, settings.pairs)
    figures: Figures = {"count": len(pairs), "recordings": retrieval.recordings()}
    grounded = [(chosen[0], list(ways_to_leave_out(model, seen(model, data, chosen)))) for chosen in pairs]
    for scale in scales:
        ways: dict[str, list[Tensor]] = defaultdict(list)
        for index, conditions in grounded:
            noise = model.noise(settings.seconds, [index])
            for way, condition, negative in conditions:
                latents = model.sample(condition, noise, negative=negative, cfg=scale, steps=settings.steps)
                ways[way].append(sound_of(model, latents, settings.seconds))
        figures[f"cfg {scale:g}"] = {
            way: ranked(retrieval, torch.cat(sounds), [labels for _, labels in pairs]) for way, sounds in ways.items()
        }
        log.info("cfg %g: %s", scale, figures[f"cfg {scale:g}"])
    return figures


def ways_to_leave_out(model: SoundingModel, scene: Seen) -> Iterator[tuple[str, Condition, Condition | None]]:
    """Both objects masked, without a negative condition and with two kinds; and the first object alone."""
    both = model.ground(scene.patches, mask=scene.both)
    yield "both", both, None
    yield "both, negative text", both, model.ground(scene.patches, text=scene.captions[1])
    yield "both, negative mask", both, model.ground(scene.patches, mask=scene.masks[1:2])
    yield "first alone", model.ground(scene.patches, mask=scene.masks[:1]), None


def ranked(retrieval: MelRetrieval, sounds: Tensor, labels: Sequence[Sequence[int]]) -> Figures:
    """Sounds [N, samples] of two objects each, by the ranks of both."""
    ranks = torch.tensor(
        [[retrieval.ranks(sound[None], label)[0] for label in pair] for sound, pair in zip(sounds, labels, strict=True)]
    ).float()
    return {
        "first_nearer": float((ranks[:, 0] < ranks[:, 1]).float().mean()),
        "first_in_5": float((ranks[:, 0] <= 5).float().mean()),
        "second_in_5": float((ranks[:, 1] <= 5).float().mean()),
        "first_rank": float(ranks[:, 0].median()),
        "second_rank": float(ranks[:, 1].median()),
    }


def evaluate(
    model: SoundingModel,
    data: ObjectSet,
    settings: Settings,
    parts: Sequence[str] = PARTS,
    scales: Sequence[float] = (7.0,),
) -> Figures:
    """The figures of `parts` as one dictionary."""
    figures: Figures = {}
    if "joined" in parts:
        figures["joined"] = joined_figures(model, data, settings.pairs)
        log.info("joined %s", figures["joined"])
    if "names" in parts:
        figures["names"] = name_figures(model, data, settings.pairs)
        log.info("names %s", figures["names"])
    if "negative" in parts:
        figures["negative"] = negative_figures(model, data, settings, scales)
    return figures
