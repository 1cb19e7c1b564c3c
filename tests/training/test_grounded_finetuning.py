"""Grounded diffusion of a model that is trained already: even times, frozen attention, frozen grounding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from training.engine.loader import Order, build_loader
from training.tasks.grounded_finetuning import GroundedFinetuningObjective, GroundedFinetuningSettings


@pytest.mark.parametrize(("accumulate", "processes"), [(1, 1), (4, 1), (1, 2), (2, 2)])
def test_even_times_are_spread_over_a_steps_whole_batch(
    tiny_config: SoundingConfig, accumulate: int, processes: int
) -> None:
    """However the batch is cut into micro-batches and shares of processes."""

    class Times:
        def __len__(self) -> int:
            return 50

        def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            return {"time": int(rng.integers(1000))}

    model = SoundingModel(tiny_config)
    plain, even = (GroundedFinetuningObjective(model, GroundedFinetuningSettings(even_times=e)) for e in (False, True))
    steps: list[dict[str, int]] = [{} for _ in range(3)]
    for rank in range(processes):
        order = Order(50, batch=8, steps=3, seed=4, accumulate=accumulate, rank=rank, processes=processes)
        for place, batch in enumerate(build_loader(Times(), order)):
            assert torch.equal(plain.times(batch), batch["time"])
            found = even.times(batch).tolist()
            steps[place // accumulate] |= dict(zip(batch["id"], found, strict=True))
    for times in steps:
        gaps = torch.tensor(sorted(times.values())).diff(append=torch.tensor([min(times.values()) + 1000]))
        assert gaps.tolist() == [125] * 8
    whole: list[dict[str, int]] = []
    for batch in build_loader(Times(), Order(50, batch=8, steps=3, seed=4)):
        whole.append(dict(zip(batch["id"], even.times(batch).tolist(), strict=True)))
    assert steps == whole
    assert steps[0].values() != steps[1].values()


@pytest.mark.parametrize("scoring", ["dot", "additive"])
@pytest.mark.parametrize("keep", [False, True])
def test_attention_can_stay_as_it_came(tiny_config: SoundingConfig, keep: bool, scoring: Any) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, scoring=scoring)
    model = SoundingModel(dataclasses.replace(tiny_config, grounding=grounding)).requires_grad_(False)
    objective = GroundedFinetuningObjective(model, GroundedFinetuningSettings(keep_attention=keep))
    batch = objective.example(torch.device("cpu"))
    batch["patches"], batch["query"] = torch.randn_like(batch["patches"]), torch.randn_like(batch["query"])
    nn.init.normal_(model.unet.conv_out.weight)
    objective(batch)["loss"].backward()
    # Of all that learns, what changes attention is what `attend` has a gradient to.
    learning = {name for name, value in model.grounding.named_parameters() if value.grad is not None}
    model.grounding.requires_grad_(True).zero_grad()
    model.grounding.attend(batch["query"], batch["patches"]).square().sum().backward()
    decides = {name for name, value in model.grounding.named_parameters() if value.grad is not None}
    assert len(decides) == (4 if scoring == "additive" else 3)
    assert learning >= {"to_value.weight", "value_positions", "null"}
    assert learning & decides == (set() if keep else decides)


def test_a_kept_grounding_gives_conditions_as_in_generation_and_stays(tiny_config: SoundingConfig) -> None:
    config = dataclasses.replace(tiny_config, grounding=dataclasses.replace(tiny_config.grounding, norm_matching=True))
    model = SoundingModel(config).requires_grad_(False)
    objective = GroundedFinetuningObjective(model, GroundedFinetuningSettings(keep_grounding=True)).train()
    learning = {name.split(".")[0] for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert learning == {"unet"}
    batch = objective.example(torch.device("cpu"))
    patches, coverage = torch.randn(1, 25, 16), (torch.rand(1, 25) > 0.5).float()
    batch |= {"patches": patches, "coverage": coverage, "by_mask": torch.tensor([True])}
    plain = model.grounding.train().by_mask(coverage, patches).tokens  # the mean is 0
    model.grounding.condition_length.copy_(2 * plain.norm())
    objective.train()
    before = {name: value.clone() for name, value in model.grounding.state_dict().items()}
    given: list[Tensor] = []
    model.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    objective(batch)["loss"].backward()
    torch.testing.assert_close(given[0], 2 * plain)
    for name, value in model.grounding.state_dict().items():
        assert torch.equal(value, before[name]), name
