"""The sounds that are judged: held-out scenes, and what a model makes of a selection in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sounding.cost import WINDOW_SECONDS
from sounding.grounding import Condition
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from ...data.scenes import SPLIT_SEEDS, Scene, as_tensors, draw_scene, scene_rng
from ...data.shard_format import SAMPLE_RATE
from ...finetune.retrieval import sound_of

Chosen = tuple[int, tuple[int, ...]]  # a held-out scene's number, and its objects, the first of which is asked for
By = Literal["mask", "text", "background"]
HELD_OUT = SPLIT_SEEDS["held-out"]  # the random stream that development looked at
TEST = 20_261_128  # the random stream of test figures, which is measured once per version of the starter


@dataclass(frozen=True)
class Settings:
    """How sounds are made, and how many; None is the checkpoint's own."""

    seconds: float = 2.56
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    clamp: bool | None = None
    window: float = WINDOW_SECONDS
    batch: int = 16
    per_object: int = 3
    pairs: int = 150
    lengths: tuple[float, ...] = ()


def check_stream(stream: int) -> None:
    """Whether scenes of a random stream are new to models.

    Raises:
        ValueError: it is that of training.
    """
    if stream == SPLIT_SEEDS["train"]:
        raise ValueError(f"--stream is {stream}, which training draws its scenes from; give another number.")


def every_label(data: ObjectSet, per_object: int) -> list[int]:
    """Each object's label, `per_object` times."""
    return [label for label in range(len(data)) for _ in range(per_object)]


def held_out_scenes(data: ObjectSet, per_object: int, stream: int = HELD_OUT) -> list[Chosen]:
    """Scenes of one to four objects, each object first in `per_object` of them; the others are drawn from `stream`.

    Of those that fill the image, `asked_scene` shows the first alone.
    """
    scenes: list[Chosen] = []
    for n, label in enumerate(every_label(data, per_object)):
        rng = _choice_rng(98, n, stream)
        count = int(rng.choice([0, 1, 2, 3], p=[0.3, 0.35, 0.2, 0.15]))
        others = rng.choice([i for i in range(len(data)) if i != label], min(count, len(data) - 1), replace=False)
        scenes.append((n, (label, *(int(i) for i in others))))
    return scenes


def held_out_pairs(data: ObjectSet, count: int, stream: int = HELD_OUT) -> list[Chosen]:
    """Scenes of two different objects, one of which may fill the image, drawn from `stream`.

    Raises:
        ValueError: there are no two objects, or all fill the image.
    """
    whole = set(data.whole)
    if count and (len(data) < 2 or len(data) == len(whole)):
        raise ValueError(
            f"Of {len(data)} objects {len(whole)} fill the image, but a pair needs two objects, one of which does not; "
            "take a set with more objects, or ask for no pairs."
        )
    pairs: list[Chosen] = []
    for n in range(count):
        rng = _choice_rng(97, n, stream)
        while whole.issuperset(pair := tuple(int(i) for i in rng.choice(len(data), 2, replace=False))):
            pass  # a scene has one at most that fills it
        pairs.append((100_000 + n, pair))
    return pairs


def _choice_rng(purpose: int, number: int, stream: int) -> np.random.Generator:
    """Decides which objects a scene has; figures of earlier versions are of `HELD_OUT`, which is not in its seed."""
    return np.random.default_rng([purpose, number] if stream == HELD_OUT else [purpose, number, stream])


@torch.inference_mode()
def copies(model: SoundingModel, waveform: Tensor) -> Tensor:
    """[B, samples] through VAE and vocoder -> [B, samples]."""
    return model.vocode(model.decode(model.encode(waveform)), waveform.shape[-1] / SAMPLE_RATE)[:, 0].cpu()


def asked_scene(data: ObjectSet, rng: np.random.Generator, labels: tuple[int, ...]) -> Scene:
    """A scene of the given objects as `draw_scene` draws it, with its objects in their order: first what is asked for.

    Of several that fill the image, the first alone is in it.
    """
    _, scene = draw_scene(data, rng, labels=labels)
    order = sorted(range(len(scene.labels)), key=lambda place: labels.index(scene.labels[place]))
    return replace(
        scene,
        masks=scene.masks[order],
        labels=tuple(scene.labels[place] for place in order),
        sounding=tuple(order.index(place) for place in scene.sounding),
    )


def selection(model: SoundingModel, data: ObjectSet, chosen: Chosen, by: By, clamp: bool | None = None) -> Condition:
    """The condition of a scene's first object by its mask or caption, or of all that is no object at all."""
    scene = asked_scene(data, scene_rng("held-out", chosen[0]), chosen[1])
    image, masks = as_tensors(scene)
    patches = model.see(image)
    if by == "text":
        return model.ground(patches, text=data.entries[scene.labels[0]].caption)
    mask = masks[:1] if by == "mask" else 1 - masks.amax(dim=0, keepdim=True)
    return model.ground(patches, mask=mask, clamp=clamp)


@torch.inference_mode()
def generated(
    model: SoundingModel, data: ObjectSet, scenes: list[Chosen], settings: Settings, *, by: By, seconds: float = 0.0
) -> Tensor:
    """One sound a scene, as the vocoder gives it: [N, samples] at 16 kHz, of `seconds` or the settings' length."""
    conditions = [selection(model, data, chosen, by, settings.clamp) for chosen in scenes]
    return made_of(model, conditions, [index for index, _ in scenes], settings, seconds)


@torch.inference_mode()
def made_of(
    model: SoundingModel, conditions: list[Condition], seeds: list[int], settings: Settings, seconds: float = 0.0
) -> Tensor:
    """One sound of each condition and seed, as the vocoder gives it: see `generated`."""
    seconds = seconds or settings.seconds
    batch = max(1, int(settings.batch * min(1.0, settings.seconds / seconds)))  # memory as for the usual length
    sounds = []
    for first in range(0, len(conditions), batch):
        latents = model.sample(
            Condition.cat(conditions[first : first + batch]),
            model.noise(seconds, seeds[first : first + batch]),
            steps=settings.steps,
            cfg=settings.cfg,
            sampler=settings.sampler,
            window=settings.window,
        )
        sounds.append(sound_of(model, latents, seconds))
    return torch.cat(sounds)
