"""Norm matching: conditions brought to the usual distance from the mean one, and how sure they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sounding.config import GenerationConfig
from sounding.grounding import Grounding, between, match_norm

from .small_grounding import SMALL, WIDTH, P, inputs, make, partial


def test_conditions_that_say_little_are_brought_to_the_usual_length() -> None:
    mean, length = torch.randn(6), torch.tensor(2.0)
    lengths = torch.tensor([[0.2], [0.6], [0.7], [0.8], [0.9], [2.0], [5.0]])
    reached = torch.tensor([[0.2], [0.6], [1.35], [2.0], [2.0], [2.0], [5.0]])  # nothing, the way between, something
    ways = torch.nn.functional.normalize(torch.randn(7, 6), dim=-1)
    found, sureness = match_norm(mean + ways * lengths, mean, length)
    torch.testing.assert_close(found - mean, ways * reached)
    torch.testing.assert_close(sureness, torch.tensor([0, 0, 0.5, 1, 1, 1, 1]))
    assert torch.isfinite(match_norm(mean[None], mean, length)[0]).all()
    assert match_norm((mean + ways).half(), mean.half(), length.half())[0].dtype == torch.float16


def test_a_backdrops_direction_tells_what_says_nothing() -> None:
    mean, length, backdrop = torch.randn(6), torch.tensor(2.0), 0.4 * torch.eye(6)[2]
    cosines = torch.tensor([[-0.9], [0.0], [0.5], [0.6], [0.95], [0.95]])
    lengths = torch.tensor([[0.1], [0.3], [3.0], [0.5], [1.0], [3.0]])
    ways = cosines * torch.eye(6)[2] + (1 - cosines**2).sqrt() * torch.eye(6)[4]
    found, sureness = match_norm(mean + ways * lengths, mean, length, backdrop)
    found = found - mean
    # by the direction, and by the share of the usual length on its way from 0.1 to 0.5
    torch.testing.assert_close(sureness, torch.tensor([0.0, 0.125, 1, 0, 0, 0]))
    torch.testing.assert_close(found[:3], ways[:3] * torch.tensor([[2.0], [2.0], [3.0]]))  # out, or as they were
    own = (ways * lengths)[3:]
    torch.testing.assert_close(found[3:], backdrop + (own - backdrop) / 4)  # nearly backdrops', but each its own
    assert torch.pdist(found[3:]).min() > 0.05
    halfway = 0.55 * torch.eye(6)[2] + (1 - 0.55**2) ** 0.5 * torch.eye(6)[4]
    found, sureness = match_norm((mean + 0.2 * halfway)[None], mean, length, backdrop)
    nothing = backdrop + (0.2 * halfway - backdrop) / 4
    torch.testing.assert_close(found[0] - mean, (2.0 * halfway + nothing) / 2)
    assert float(sureness) == pytest.approx(0, abs=1e-4)  # as short as it is
    _, sureness = match_norm((mean + 2.0 * halfway)[None], mean, length, backdrop)
    assert float(sureness) == pytest.approx(0.5, abs=1e-4)


def test_pictures_that_are_alike_everywhere_show_nothing() -> None:
    thresholds = GenerationConfig(patch_cosine=(0.7, 0.5))
    sizes = WIDTH, P, WIDTH, thresholds
    grounding = Grounding(replace(SMALL, norm_matching=True), *sizes).eval()
    grounding.condition_length.fill_(1e-6)  # any condition is long enough
    plain = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(3)).expand(1, P, WIDTH)
    varied = torch.randn(1, P, WIDTH, generator=torch.Generator().manual_seed(4))
    for selection in (partial(10), torch.ones(1, P)):
        assert float(grounding.by_mask(selection, plain).sureness) == 0
        assert float(grounding.by_mask(selection, varied).sureness) == 1


def test_the_way_between_two_numbers() -> None:
    values = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])
    torch.testing.assert_close(between(values, 0.4, 0.6), torch.tensor([0, 0, 0.5, 1, 1]))
    torch.testing.assert_close(between(values, 0.6, 0.4), torch.tensor([1, 1, 0.5, 0, 0]))
    assert between(values, 1.0, 1.0).tolist() == [1, 1, 1, 1, 0]


def test_the_usual_length_is_that_of_training() -> None:
    grounding = make(norm_matching=True)
    query, patches = inputs(64)
    before = grounding.by_query(query, patches).tokens  # untrained, it has no usual length yet
    plain = make().by_query(query, patches).tokens
    assert torch.equal(before, plain)
    grounding.train()
    trained = grounding.by_query(query, patches).tokens
    assert torch.equal(trained, plain)  # training sees conditions as they are
    conditions = plain[:, 0].double()
    torch.testing.assert_close(grounding.condition_mean.double(), conditions.mean(dim=0), rtol=1e-5, atol=1e-6)
    lengths = (conditions - conditions.mean(dim=0)).norm(dim=-1)
    assert float(grounding.condition_length) == pytest.approx(float(lengths.mean()), rel=1e-5)
    grounding.eval()
    for found in (grounding.by_query(query, patches), grounding.by_mask(partial(10).expand(64, -1), patches)):
        reached = (found.tokens[:, 0].double() - conditions.mean(dim=0)).norm(dim=-1)
        plain = make().gather(found.weights[:, None], patches)[:, 0].double() - conditions.mean(dim=0)
        clear = plain.norm(dim=-1) > GenerationConfig().norm_ratio[1] * lengths.mean()
        assert clear.any()
        assert float(reached[clear].min()) >= float(lengths.mean()) * (1 - 1e-4)
