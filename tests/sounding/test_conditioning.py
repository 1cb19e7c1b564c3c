"""What makes a condition: text within a mask, the name of what a mask shows, and what is reported of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from sounding.conditioning import parts_to_ground
from sounding.config import SoundingConfig
from sounding.grounding import Condition, attend_within, match_moments
from sounding.model import SoundingModel
from sounding.naming.names import UNKNOWN, Named

from .test_model import P, half, picture

DOG = Named("dog", 0.6, (("dog", 0.6), ("wolf", 0.3), ("fox", 0.1)))
BIRD = Named("bird", 0.9, (("owl", 0.6), ("finch", 0.3), ("jay", 0.1)))
NOTHING = Named(UNKNOWN, 0.08, (("nail", 0.08),))
WHITE = torch.ones(1, 60, 80)
Naming = Callable[..., SoundingModel]


@pytest.fixture
def sharp_model(tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch) -> SoundingModel:
    """The tiny model with attention that differs between texts; an untrained one is almost even."""
    weight = tiny_model.grounding.to_query.weight
    monkeypatch.setattr(weight, "data", weight.data * 300)
    return tiny_model


@pytest.fixture
def naming(tiny_config: SoundingConfig, monkeypatch: pytest.MonkeyPatch) -> Naming:
    """A tiny model whose masks are named: by a fixed answer per mask, with a U-Net with FiLM or one with attention."""

    def make(*answers: Named, film: bool, likely_names: int = 1) -> SoundingModel:
        config = replace(
            tiny_config,
            unet=replace(tiny_config.unet, film_width=16 if film else 0),
            generation=replace(tiny_config.generation, masks="names", likely_names=likely_names),
        )
        model = SoundingModel(config).requires_grad_(False)

        def name(image: torch.Tensor | None = None, mask: torch.Tensor | None = None, **_: Any) -> list[Named]:
            return list(answers)

        monkeypatch.setattr(model, "name", name)
        return model

    return make


def test_text_attends_within_the_mask(sharp_model: SoundingModel) -> None:
    patches = sharp_model.see(picture())
    alone = sharp_model.ground(patches, text="a dog")
    within = sharp_model.ground(patches, text="a dog", mask=half("left"), clamp=True)
    columns = torch.arange(P) % 5
    assert (within.weights[0, columns > 2] == within.weights.min()).all()
    torch.testing.assert_close(within.weights.sum(), torch.tensor(1.0))
    chosen = columns < 2  # wholly covered: their order stays
    assert torch.equal(within.weights[0, chosen].argsort(), alone.weights[0, chosen].argsort())
    assert within.source == "text"
    assert within.sentences == ("a dog",)
    other = sharp_model.ground(patches, text="rain", mask=half("left"), clamp=True)
    assert not torch.allclose(other.weights, within.weights, atol=1e-3)
    assert not torch.equal(other.tokens, within.tokens)


def test_attention_within_a_mask_has_attentions_moments() -> None:
    weights = torch.rand(2, 3, P).softmax(dim=-1)
    coverage = torch.rand(2, P)
    scores = (weights.log() + coverage.log()[:, None]).softmax(dim=-1)
    found = attend_within(weights, coverage, 0.03)
    torch.testing.assert_close(found.mean(dim=-1), torch.full((2, 3), 1 / P))
    torch.testing.assert_close(found.std(dim=-1, unbiased=False), torch.full((2, 3), 0.03))
    for row in range(2):
        torch.testing.assert_close(found[row], match_moments(scores[row], 0.03))


def test_even_or_vanished_attention_leaves_the_mask() -> None:
    beside = torch.zeros(1, P)
    beside[:, 3:5] = 0.5
    gone = torch.zeros(1, 1, P)
    gone[..., 0] = 1
    for weights in (torch.full((1, 1, P), 1 / P), gone):
        for clamp in (False, True):
            found = attend_within(weights, beside, 0.03, clamp=clamp)
            torch.testing.assert_close(found[:, 0], match_moments(beside, 0.03, clamp=clamp))
    with pytest.raises(ValueError, match="mask is empty"):
        attend_within(weights, torch.zeros(1, P), 0.03)


def test_rows_of_masks_and_texts(sharp_model: SoundingModel) -> None:
    patches = sharp_model.see(picture())
    masks = torch.cat([half("left"), half("right")])
    for text in ("a dog", ["a dog", "rain"]):
        both = sharp_model.ground(patches, mask=masks, text=text)
        for row, side in enumerate(("left", "right")):
            said = text if isinstance(text, str) else text[row]
            alone = sharp_model.ground(patches, mask=half(side), text=said)
            torch.testing.assert_close(both.tokens[row : row + 1], alone.tokens, atol=1e-4, rtol=1e-4)
            assert both.sentences[row] == said
    one = sharp_model.ground(patches, mask=half("left"), text=["a dog", "rain", "a cat"])
    assert len(one) == len(one.sources) == len(one.sentences) == 3
    with pytest.raises(ValueError, match="2 masks and 3 texts, but equal numbers"):
        sharp_model.ground(patches, mask=masks, text=["a", "b", "c"])


def test_the_source_is_told(tiny_model: SoundingModel) -> None:
    patches = tiny_model.see(picture())
    masked, said = tiny_model.ground(patches, mask=half("left")), tiny_model.ground(patches, text="rain")
    assert (masked.source, said.source) == ("mask", "text")
    assert masked.sentences == ("",)
    both = Condition.cat([masked, said]).to("cpu")
    assert both.sources == ("mask", "text")
    assert both.source == "mask, text"
    assert both.sentences == ("", "rain")
    with pytest.raises(ValueError, match="none of mask, text and sound, or both text and sound"):
        tiny_model.ground(patches, text="rain", sound=torch.zeros(1, 16_000))


def test_sounds_attend_within_a_mask(tiny_config: SoundingConfig) -> None:
    query = replace(tiny_config.query, tower="clap_audio", hidden=16, depths=(1, 1), heads=1)
    config = replace(tiny_config, query=query, grounding=replace(tiny_config.grounding, query="audio"))
    model = SoundingModel(config).requires_grad_(False)
    patches, sound = model.see(picture()), torch.rand(1, 16_000) - 0.5
    condition = model.ground(patches, sound=sound, mask=half("left"), clamp=True)
    assert condition.source == "sound"
    assert condition.sentences == ("",)
    assert condition.weights[0, torch.arange(P) % 5 > 2].abs().max() == 0


def test_a_named_mask_sounds_as_its_sentence(naming: Naming) -> None:
    model = naming(DOG, film=True)
    patches = model.see(picture())
    condition = model.ground(patches, mask=half("left"))
    expected = model.condition_by_text("a dog")
    assert torch.equal(condition.tokens, expected.tokens)
    assert (condition.source, expected.source) == ("name", "text")
    assert condition.sentences == expected.sentences == ("a dog",)
    assert condition.sureness.tolist() == pytest.approx([0.6])
    assert condition.weights[0, torch.arange(P) % 5 > 2].max() == 0  # the map shows what was named
    joined = model.ground(patches, mask=half("left"), text="barking twice")
    assert torch.equal(joined.tokens, model.condition_by_text("a dog barking twice").tokens)
    assert joined.source == "name"
    said = model.ground(patches, mask=half("left"), text="two dogs howl")
    assert torch.equal(said.tokens, model.condition_by_text("two dogs howl").tokens)
    assert said.source == "text"
    assert said.sureness.tolist() == [1]
    alone = model.ground(patches, text="rain")
    assert torch.equal(alone.tokens, model.condition_by_text("rain").tokens)


def test_words_take_the_place_of_a_name_that_is_not_sure(naming: Naming) -> None:
    model = naming(DOG, NOTHING, film=True)
    patches, masks = model.see(picture()), torch.cat([half("left"), half("right")])
    likely = model.ground(patches, mask=masks)
    assert likely.sentences == ("a dog", "a nail")
    assert likely.sources == ("name", "name")
    assert likely.sureness.tolist() == pytest.approx([0.6, 0.08])
    both = model.ground(patches, mask=masks, text="knocking")
    assert both.sentences == ("a dog knocking", "knocking")
    assert both.sources == ("name", "text")
    with pytest.raises(ValueError, match="2 masks and 3 texts, but equal numbers"):
        model.ground(patches, mask=masks, text=["a", "b", "c"])


def test_likely_names_are_one_weighted_embedding(naming: Naming) -> None:
    model = naming(BIRD, film=True, likely_names=2)
    asked = model.query.encode(["an owl", "a finch"])  # type: ignore[operator]
    mean = (2 * asked[0] + asked[1]) / 3
    length = (2 * asked[0].norm() + asked[1].norm()) / 3
    condition = model.ground(model.see(picture()), mask=half("left"))
    torch.testing.assert_close(condition.tokens[0, 0], functional.normalize(mean, dim=0) * length)
    assert condition.sentences == ("an owl or a finch",)
    general = model.ground(model.see(picture()), mask=half("left"), likely_names=1)
    assert torch.equal(general.tokens, model.condition_by_text("a bird").tokens)


def test_a_unet_that_attends_takes_the_name_as_text_within_the_mask(naming: Naming) -> None:
    model = naming(DOG, film=False)
    patches = model.see(picture())
    condition = model.ground(patches, mask=half("left"))
    expected = model.ground(patches, mask=half("left"), text="a dog", by="grounding")
    assert torch.equal(condition.tokens, expected.tokens)
    assert (condition.source, expected.source) == ("name", "text")
    seen = model.ground(patches, mask=half("left"), by="grounding")
    assert seen.source == "mask"
    assert not torch.equal(seen.weights, condition.weights)


def test_generate_names_from_the_image(naming: Naming, monkeypatch: pytest.MonkeyPatch) -> None:
    model = naming(DOG, film=True)
    given: list[Any] = []
    answer = model.name
    monkeypatch.setattr(model, "name", lambda image, mask, top: [given.extend((image, mask)), answer()][1])
    sound = model.generate(image=picture(), mask=half("left"), seconds=0.3, steps=2)
    assert sound.condition.source == "name"
    assert given[0].shape == (1, 60, 80, 3)
    assert given[1].shape == (1, 60, 80)


def test_parts_that_grounding_needs(tiny_config: SoundingConfig) -> None:
    named = replace(tiny_config, generation=replace(tiny_config.generation, masks="names"))
    assert parts_to_ground(tiny_config, mask=True, text=False) == ("grounding",)
    assert parts_to_ground(tiny_config, mask=True, text=False, by="names") == ("query", "grounding")
    assert parts_to_ground(named, mask=True, text=False) == ("query", "grounding")
    assert parts_to_ground(named, mask=True, text=False, by="grounding") == ("grounding",)
    assert parts_to_ground(named, mask=False, text=True) == ("query", "grounding")


def test_ways_and_selections_that_are_none_are_refused(tiny_model: SoundingModel) -> None:
    patches = tiny_model.see(picture())
    with pytest.raises(ValueError, match="by is 'guess', but one of grounding, names is expected"):
        tiny_model.ground(patches, mask=half("left"), by="guess")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="generate got neither mask nor text"):
        tiny_model.generate(image=picture())
