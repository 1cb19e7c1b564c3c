"""The checkpoint in the box does what the README shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import sounding
from sounding.checkpoint import boxed_path, describe
from sounding.encoders.patches import mask_to_grid
from sounding.images.files import read_image, read_mask

INPUT = Path(__file__).parents[2] / "example_workflows" / "input"
NAMES = ("dog", "cow")


@pytest.fixture(scope="module")
def starter() -> sounding.SoundingModel:
    return sounding.load("starter", device="cpu")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return read_image(INPUT / "farm.png")


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return torch.cat([read_mask(INPUT / f"farm_mask_{name}.png") for name in NAMES])


def test_it_is_small_and_says_what_it_is() -> None:
    described = describe(boxed_path())
    assert described["bytes"] <= 40e6
    assert described["dtypes"] == ["F16", "I64"] or described["dtypes"] == ["F16"]
    assert "GPL-2.0-or-later" in described["modelspec"]["modelspec.license"]


def test_a_name_finds_its_object(starter, picture, masks) -> None:
    condition = starter.ground(starter.see(picture), text=[f"a {name}" for name in NAMES])
    coverage = mask_to_grid(masks, (picture.shape[1], picture.shape[2]), starter.config.patches)  # [2, P]
    # An even attention would put an object's share of the picture on it: about a tenth here.
    on = condition.weights @ coverage.T  # [named, object]
    assert (on.diagonal() > 3 * coverage.mean(dim=1)).all()
    assert on[0, 0] > 3 * on[0, 1]
    assert on[1, 1] > 3 * on[1, 0]


def test_what_a_mask_covers_is_recognised(starter, picture, masks) -> None:
    patches = starter.see(picture)[0]
    coverage = mask_to_grid(masks, (picture.shape[1], picture.shape[2]), starter.config.patches)
    pooled = torch.nn.functional.normalize(coverage @ patches, dim=-1)
    names = ["a dog", "a cow", "a rooster", "a violin", "a fire truck", "an elephant"]
    queries = torch.nn.functional.normalize(starter.query.encode(names), dim=-1)
    assert (pooled @ queries.T).argmax(dim=-1).tolist() == [0, 1]


def test_pictures_without_an_object_sound_each_their_own_way(starter) -> None:
    """A photograph whose dog the model takes for a backdrop, and plain pictures: unsure, and never the same sound."""
    photographs = Path(__file__).parents[1] / "photographs"
    settings = {"seconds": 0.5, "steps": 4, "seed": 3, "level": False}
    made = [
        starter.generate(
            image=read_image(photographs / "dog.jpg"), mask=read_mask(photographs / "dog_mask.png"), **settings
        )
    ]
    for colour in ((0.0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0)):
        image = torch.tensor(colour).expand(1, 96, 128, 3)
        made.append(starter.generate(image=image, mask=torch.ones(1, 96, 128), **settings))
    for i, one in enumerate(made):
        assert float(one.sureness) < 0.1
        for other in made[:i]:
            assert (one.waveform - other.waveform).abs().max() > 0.01 * one.waveform.abs().max()


def test_it_is_sure_of_what_it_knows(starter, picture, masks) -> None:
    patches = starter.see(picture)
    assert starter.ground(patches, mask=masks).sureness.min() > 0.9
    asked = starter.ground(patches, text=["a dog", "A cow!", "a spaceship taking off"])
    assert asked.sureness[:2].min() > 0.9
    assert asked.sureness[2] == 0
    behind = 1 - masks.amax(dim=0, keepdim=True)
    assert float(starter.ground(patches, mask=behind).sureness) < 0.1


def test_unknown_words_are_told_from_known_ones(starter) -> None:
    """Captions as they were trained, against sentences about other things."""
    known = starter.config.vocabulary
    assert len(known) == 79
    asked = [*known, *(f"the sound of {name}" for name in known), *(f"{name} making a sound" for name in known)]
    assert starter.familiarity(asked).min() == 1
    names = [name for (name, _), *_ in starter.nearest_words(asked)]
    assert names == [*known, *known, *known]
    unknown = ["a spaceship taking off", "rain on a roof", "a man speaking", "a helicopter", "applause", "church choir"]
    unknown += ["a crying baby", "typing on a keyboard", "a chainsaw cutting wood", "asdf qwer", "???", "ein Hund"]
    assert starter.familiarity(unknown).max() < 0.1
    assert starter.familiarity(["A Rooster!", "a small dog in the rain"]).min() == 1  # it has their nouns
    nearest = starter.nearest_words("a spaceship taking off", top=3)[0]
    assert [len(one) for one in (nearest, starter.nearest_words("a dog", top=100)[0])] == [3, 79]
    assert nearest == sorted(nearest, key=lambda pair: -pair[1])


def test_the_mask_decides_the_sound_and_the_seed_repeats_it(starter, picture, masks) -> None:
    settings = {"image": picture, "seconds": 1.0, "steps": 8, "seed": 3}
    dog, again, cow = (starter.generate(mask=masks[i : i + 1], **settings).waveform for i in (0, 0, 1))
    assert torch.equal(dog, again)
    assert dog.shape == (1, 1, 16_000)
    assert min(dog.abs().max(), cow.abs().max()) > 0.01
    assert (dog - cow).abs().max() > 0.01
