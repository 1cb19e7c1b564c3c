"""What a run of ablations would take, by a few seconds of measuring on this machine."""

from __future__ import annotations

import time

import numpy as np
import torch

from ...data.object_set import ObjectSet
from ...data.scenes import as_tensors, draw_scene, scene_rng
from ...finetune.retrieval import sound_of
from ...initialization import initialize
from ...recipe import Recipe
from ..grounded import StarterGroundedObjective, StarterGroundedSettings
from .rows import PAPERS_CFG
from .run import Ablations

CLASSIFIERS_STEP = 6.0  # steps of the U-Net that one of a classifier's takes, with its augmented recordings
CLIPS_SCENES = 5.0  # scenes whose time one clip of ten small frames takes, with its score and its features


def measure_speed(run: Ablations) -> dict[str, float]:
    """Seconds of one unit of each kind of work: a scene with its features, a training step, a sound of a cell."""
    recipe = run.recipe("start")
    model = initialize(recipe)
    step = _seconds_per_step(model, recipe)
    with torch.inference_mode():
        objects = ObjectSet(run.out / "objects")
        began = time.perf_counter()
        _, drawn = draw_scene(objects, scene_rng("train", 0), size=(recipe.model.patches.image_size,) * 2)
        image, _ = as_tensors(drawn)
        patches = model.see(image)
        model.encode(torch.zeros(1, recipe.model.train_samples))
        scene = time.perf_counter() - began
        condition = model.ground(patches, mask=torch.ones(1, 8, 8))
        sounds = []
        for seed in range(2):  # the first one finds what is warm later
            began = time.perf_counter()
            noise = model.noise(recipe.model.train_seconds, [seed])
            latents = model.sample(condition, noise, steps=run.settings.sampling_steps, cfg=PAPERS_CFG)
            sounds.append(sound_of(model, latents, recipe.model.train_seconds))
            sound = time.perf_counter() - began
    return {
        "scenes": scene,
        "clips": scene * CLIPS_SCENES,
        "steps": step,
        "sounds": sound,
        "sound query": step,
        "judge": step * CLASSIFIERS_STEP,
    }


def _seconds_per_step(model: object, recipe: Recipe) -> float:
    from sounding.model import SoundingModel

    assert isinstance(model, SoundingModel)
    objective = StarterGroundedObjective(model, StarterGroundedSettings())
    device = torch.device("cpu")
    objective.place(device)
    one = objective.example(device)
    batch = {name: value.repeat_interleave(recipe.loop.batch, dim=0) for name, value in one.items()}
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        objective(batch)["loss"].backward()
        seconds.append(time.perf_counter() - began)
    return float(np.min(seconds[1:]))
