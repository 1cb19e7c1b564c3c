"""The starter's evaluation on a set of kinds: several images and recordings each, some that fill the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.data.scenes import as_tensors, draw_scene, make_scene, scene_rng
from training.engine.settings import LoopConfig
from training.evaluate.items import read_items
from training.evaluate.models.classifier import Classifier
from training.finetune.objects import Picture, TaughtObject
from training.finetune.retrieval import MelRetrieval
from training.starter.cutouts import Cutouts
from training.starter.evaluate import classifier, finetuned, naming_cases, recognise, segment, selections, separator
from training.starter.evaluate.classifier import ClassifierRecipe, train_classifier
from training.starter.evaluate.items import ItemsSettings, write_items
from training.starter.evaluate.judge import Judge
from training.starter.evaluate.sheet import write_sheet
from training.starter.evaluate.sounds import Chosen, Settings, asked_scene, held_out_pairs, held_out_scenes

FROG, OWL, SEA, LAKE, BELL = range(5)
KINDS = ["frog", "owl", "sea", "lake", "bell"]
SETTINGS = Settings(seconds=0.64, steps=1, batch=4, per_object=2, pairs=4)


def test_the_asked_object_comes_first(shore: ObjectSet) -> None:
    """Also before what fills the image, which is drawn below it; and all of its images are shown."""
    colours = set()
    for number in range(12):
        labels = (FROG, SEA, OWL, LAKE)
        scene = asked_scene(shore, scene_rng("held-out", number), labels)
        _, drawn = draw_scene(shore, scene_rng("held-out", number), labels=labels)
        assert (drawn.labels, scene.labels) == ((SEA, FROG, OWL), (FROG, SEA, OWL))
        np.testing.assert_array_equal(scene.masks, drawn.masks[[1, 0, 2]])
        np.testing.assert_array_equal(scene.image, drawn.image)
        assert [scene.labels[place] for place in scene.sounding] == [drawn.labels[place] for place in drawn.sounding]
        assert (scene.masks.astype(int).sum(axis=0) >= 250).all()  # the sea is wherever nothing else is
        colours.add(int(scene.image[scene.masks[0] > 250].astype(float).mean(axis=0).argmax()))
    assert colours == {0, 1}
    assert asked_scene(shore, scene_rng("held-out", 1), (LAKE, SEA, OWL)).labels == (LAKE, OWL)


def test_one_object_of_a_pair_may_fill_the_image(shore: ObjectSet) -> None:
    pairs = [set(labels) for _, labels in held_out_pairs(shore, 60)]
    assert {SEA, LAKE} not in pairs
    assert {FROG, SEA} in pairs
    assert {FROG, OWL} in pairs
    one, seas = (ObjectSet.__new__(ObjectSet) for _ in range(2))
    one.entries, seas.entries = shore.entries[:1], shore.entries[2:]
    for data in (one, seas):
        assert held_out_pairs(data, 0) == []
        with pytest.raises(ValueError, match="a pair needs two objects"):
            held_out_pairs(data, 1)


def test_the_judge_learns_all_recordings_of_all_visible_kinds(
    shore: ObjectSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds count alike, the one without an image too."""
    given: list[Any] = []
    monkeypatch.setattr(classifier, "train", lambda objective, items, loop, folder: given.append((items, folder)))
    heard: list[Tensor] = []
    monkeypatch.setattr(classifier, "augmented", lambda sound, samples, rng: heard.append(sound) or torch.ones(samples))
    recipe = ClassifierRecipe(LoopConfig(steps=1, batch=1, lr=1e-3), seconds=1.0)
    judge = train_classifier(recipe, shore, tmp_path)
    assert judge(torch.zeros(1, 100, 64)).shape == (1, len(KINDS))
    items = given[0][0]
    assert len(items) == len(KINDS)
    for label, count in ((FROG, 2), (OWL, 1), (BELL, 2)):
        heard.clear()
        labels = {items.item(label, np.random.default_rng(draw))["label"] for draw in range(12)}
        assert labels == {label}
        assert len({sound.numpy().tobytes() for sound in heard}) == count
    other = ObjectSet.__new__(ObjectSet)
    vars(other).update(vars(shore), unseen_sounds=[[sound * 0.5 for sound in shore.unseen_sounds[0]]])
    train_classifier(recipe, other, tmp_path)
    assert given[0][1] != given[1][1]


def test_recognise_ranks_all_visible_kinds(shore: ObjectSet, tiny_model: SoundingModel) -> None:
    judge = Judge(Classifier(len(KINDS)).eval())
    figures = recognise.evaluate(tiny_model, shore, judge, SETTINGS, ("real", "masked", "text", "pairs", "background"))
    assert figures["chance"]["top1"] == pytest.approx(1 / 5)
    assert figures["masked"]["count"] == figures["text"]["count"] == 8  # of four kinds with an image
    assert figures["masked_rank_by_object"].keys() == set(KINDS[:4])
    assert figures["pairs"]["count"] == 4
    kept = [labels for _, labels in held_out_scenes(shore, 2) if not {SEA, LAKE} & set(labels)]
    assert 0 < figures["background"]["count"] == len(kept) < 8
    assert figures["background"]["chance"] == pytest.approx(np.mean([len(labels) / 5 for labels in kept]))


def test_the_sheet_names_what_is_heard(shore: ObjectSet, tiny_model: SoundingModel, tmp_path: Path) -> None:
    """Also a kind that has no cell, since there is no image of it."""

    class Deaf(Judge):
        def __call__(self, waveform: Tensor) -> Tensor:
            return torch.arange(5.0).repeat(len(waveform), 1)

    (page, *_) = write_sheet(tiny_model, shore, Deaf(Classifier(5)), replace(SETTINGS, seconds=1.28), tmp_path / "a.md")
    text = page.read_text()
    assert "All 4 objects" in text
    assert "among 5 kinds" in text
    assert "would make it 0.8 and 4." in text
    assert "| a frog | 5, 5 | a bell |" in text


def test_items_of_kinds(shore_folder: Path, tmp_path: Path) -> None:
    """The selected one leads, and backgrounds are of scenes that nothing fills."""
    out = write_items(shore_folder, tmp_path / "items", ItemsSettings(per_object=2, pairs=6, backgrounds=8))
    items = {kind: [item for item in read_items(out) if item.entry.kind == kind] for kind in ("object", "background")}
    assert [item.entry.objects[0].name for item in items["object"]] == [name for name in KINDS[:4] for _ in range(2)]
    assert len(items["background"]) == 8
    for item in items["background"]:
        assert not {"sea", "lake"} & {one.name for one in item.entry.objects}
        assert item.mask is not None
        assert np.asarray(Image.open(item.mask)).mean() > 50


def test_selections_hear_all_recordings(
    shore: ObjectSet, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[TaughtObject] = []

    class Heard(MelRetrieval):
        def __init__(self, objects: Any, seconds: float):
            taught.extend(objects)
            super().__init__(objects, seconds)

    monkeypatch.setattr(selections, "MelRetrieval", Heard)
    monkeypatch.setattr(selections, "look_alikes", lambda model, data: [SEA, SEA, LAKE, FROG])
    figures = selections.evaluate(tiny_model, shore, replace(SETTINGS, pairs=10), ("joined",))
    pairs = [labels for _, labels in held_out_pairs(shore, 10)]
    asked = [(*labels, [SEA, SEA, LAKE, FROG][labels[0]]) for labels in pairs]
    apart = [labels for labels in asked if len(set(labels)) == 3 and not {SEA, LAKE} <= set(labels)]
    assert figures["joined"]["look-alike"]["count"] == len(apart) < len(asked)
    selections.evaluate(tiny_model, shore, replace(SETTINGS, pairs=1), ("negative",), (2.0,))
    assert [(one.name, len(one.recordings)) for one in taught] == list(zip(KINDS, (2, 1, 1, 1, 2), strict=True))


def test_fine_tuned_objects_join_the_set(
    shore: ObjectSet, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new object is named by the same judge, after those with an image and before those of a class."""
    red, grey = (Image.new("RGBA", (40, 40), (shade, 9, 9, 255)) for shade in (200, 90))
    pictures = tuple(Picture(image, cut=True, masked=True) for image in (red, grey))
    new = TaughtObject("cup", ("a cup",), pictures, (torch.ones(4000), torch.zeros(4000)), "CC0-1.0")
    both = finetuned.taught(shore, [new])
    assert [kind.name for kind, _ in both.visible] == [*KINDS[:4], "cup", "bell"]
    assert [len(sounds) for _, sounds in both.visible] == [2, 1, 1, 1, 2, 2]
    assert [entry.label for entry in both.entries] == [0, 1, 2, 3, 4]
    assert both.whole == [SEA, LAKE]
    assert finetuned.shown_as(both, 4, pictures[1]).images[4] == [pictures[1].cutout]
    assert (len(both.images[4]), len(shore)) == (2, 4)

    drawn: list[tuple[int, Chosen]] = []
    generate = finetuned.generated

    def generated(model: SoundingModel, data: ObjectSet, scenes: list[Chosen], *rest: Any, **named: Any) -> Tensor:
        drawn.extend((len(data.images[4]), chosen) for chosen in scenes)
        return generate(model, data, scenes, *rest, **named)

    monkeypatch.setattr(finetuned, "generated", generated)
    settings = finetuned.FinetunedSettings(per_new=1, per_old=1, pairs=2, seconds=0.64, steps=1)
    judge = Judge(Classifier(6).eval())
    figures = finetuned.evaluate(tiny_model, judge, both, len(shore), {"cup": list(pictures[1:])}, settings)
    assert [figures[name]["count"] for name in ("new by mask", "new, other images", "old by mask")] == [1, 1, 4]  # type: ignore[index]
    alone = [labels for images, (_, labels) in drawn if images == 1]
    assert alone == [(4,)]


def test_naming_asks_for_all_images_of_things(
    shore: ObjectSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming_cases, "read_rows", lambda folder: [])
    halves = [naming_cases._named_cutouts(shore, tmp_path, half) for half in naming_cases.HALVES]
    colours = [cutout.getpixel((30, 30))[:3] for cutouts, _ in halves for cutout in cutouts.cutouts]  # type: ignore[index]
    assert sorted(colours) == [(0, 0, 220), (0, 220, 0), (220, 0, 0)]


def test_clicks_are_tried_on_what_has_an_outline(shore_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Cutouts, list[Image.Image]]] = []
    monkeypatch.setattr(segment, "load_segmenter", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(segment, "measure", lambda segmenter, cases, random: {"objects": len(cases)})
    monkeypatch.setattr(segment, "scene_cases", lambda data, behind, count: given.append((data, behind)) or [1] * count)
    assert segment.evaluate("starter", shore_folder, objects=3) == {"starter: held-out scenes": {"objects": 3}}
    ((cutouts, behind),) = given
    assert len(cutouts) == 4  # two frogs, an owl, and a silent thing
    assert behind[0].size == (64, 64)


def test_the_separator_sees_and_hears_kinds(
    shore: ObjectSet, tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = separator.object_features(tiny_model, shore, 2)
    assert features.shape[:2] == (4, 2)
    heard: list[bytes] = []
    monkeypatch.setattr(separator, "fill", lambda sound, *_: heard.append(sound.numpy().tobytes()) or sound)
    items = separator._Items(shore, features, 8000)
    for draw in range(12):
        items.item(FROG, np.random.default_rng(draw))
    assert {sound.numpy().tobytes() for sound in shore.sounds[FROG]} <= set(heard)
    library = separator.write_library(shore, tmp_path / "library", scenes=3, seconds=0.5)
    assert len(list(library.glob("*.wav"))) == 3


def test_scenes_of_one_image_each_are_as_before(stamps_data: ObjectSet) -> None:
    """Figures of sets of stamps stay what they were: nothing is drawn where there is nothing to choose."""
    for number, labels in held_out_scenes(stamps_data, 1):
        before = make_scene(stamps_data, scene_rng("held-out", number), labels=labels)
        now = asked_scene(stamps_data, scene_rng("held-out", number), labels)
        assert now.labels == before.labels
        for old, new in zip(as_tensors(before), as_tensors(now), strict=True):
            assert torch.equal(old, new)
