"""Negative conditions: what guidance leads away from (equation 2 with another condition in the null's place)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sounding.grounding import Condition
from sounding.model import SoundingModel

from .test_model import half, picture


def conditions(model: SoundingModel) -> tuple[Condition, Condition]:
    patches = model.see(picture())
    return model.ground(patches, mask=half("left")), model.ground(patches, mask=half("right"))


def sampled(model: SoundingModel, condition: Condition, **options: Any) -> torch.Tensor:
    return model.sample(condition, model.noise(0.3, [1]), **{"steps": 3, "cfg": 3.0, **options})


def test_it_takes_the_place_of_the_null_condition(tiny_model: SoundingModel) -> None:
    wanted, unwanted = conditions(tiny_model)
    guided = sampled(tiny_model, wanted, negative=unwanted)
    plain = sampled(tiny_model, wanted)
    assert not torch.allclose(guided, plain, atol=1e-5)
    null = replace(unwanted, tokens=tiny_model.grounding.null_condition(1))
    assert torch.equal(sampled(tiny_model, wanted, negative=null), plain)
    # the two ends of equation 2
    away = sampled(tiny_model, wanted, negative=unwanted, cfg=0.0)
    torch.testing.assert_close(away, sampled(tiny_model, unwanted, cfg=1.0), atol=1e-4, rtol=1e-4)
    assert torch.equal(sampled(tiny_model, wanted, negative=unwanted, cfg=1.0), sampled(tiny_model, wanted, cfg=1.0))


def test_one_serves_all_rows_or_each_has_its_own(tiny_model: SoundingModel) -> None:
    wanted, unwanted = conditions(tiny_model)
    both = Condition.cat([wanted, unwanted])
    turned = Condition.cat([unwanted, wanted])
    noise = tiny_model.noise(0.3, [1, 1])
    each = tiny_model.sample(both, noise, negative=turned, steps=3, cfg=3.0)
    assert torch.equal(each[:1], sampled(tiny_model, wanted, negative=unwanted))
    assert torch.equal(each[1:], sampled(tiny_model, unwanted, negative=wanted))
    shared = tiny_model.sample(both, noise, negative=unwanted, steps=3, cfg=3.0)
    assert torch.equal(shared[:1], each[:1])
    with pytest.raises(ValueError, match=r"shape \(3, 1, 16\), but \(2, 1, 16\) \(or one row of that\) is expected"):
        tiny_model.sample(both, noise, negative=Condition.cat([wanted, both]), steps=1)
    other = replace(wanted, tokens=torch.zeros(1, 1, 8))
    with pytest.raises(ValueError, match="make it with the same model"):
        tiny_model.sample(both, noise, negative=other, steps=1)


def generated(model: SoundingModel, **options: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"image": picture(), "mask": half("left"), "seconds": 0.3, "steps": 2, "cfg": 3.0}
    return model.generate(**settings, **options).waveform


def test_generate_selects_it_by_mask_and_text(tiny_model: SoundingModel) -> None:
    patches = tiny_model.see(picture())
    wanted = tiny_model.ground(patches, mask=half("left"))
    for selection in ({"mask": half("right")}, {"text": "rain"}, {"mask": half("right"), "text": "rain"}):
        negative = tiny_model.ground(patches, **selection)  # type: ignore[arg-type]
        latents = tiny_model.sample(wanted, tiny_model.noise(0.3, [0]), negative=negative, steps=2, cfg=3.0)
        expected = tiny_model.vocode(tiny_model.decode(latents), 0.3)
        named = {f"negative_{name}": value for name, value in selection.items()}
        assert torch.equal(generated(tiny_model, level=False, **named), expected)


def test_an_empty_negative_mask_is_refused(tiny_model: SoundingModel) -> None:
    with pytest.raises(ValueError, match="negative_mask is empty, but it should cover what is not to be heard"):
        generated(tiny_model, negative_mask=torch.zeros(1, 60, 80))


def test_parts_for_a_negative_text_are_announced(tiny_model: SoundingModel) -> None:
    used: list[tuple[str, ...]] = []
    generated(tiny_model, negative_text="rain", on_use=used.append)
    assert used[:3] == [("patches",), ("grounding",), ("query", "grounding")]
