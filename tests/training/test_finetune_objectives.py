"""What fine-tuning minimises: attention that stays, distillation on known items, changes of low rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sounding.config import SoundingConfig
from sounding.grounding import Grounding
from sounding.model import SoundingModel
from training.finetune.distillation import DistillationObjective
from training.finetune.text_encoder import attention_divergence
from training.tasks.grounded import GroundedObjective
from training.tasks.grounded_finetuning import GroundedFinetuningSettings
from training.tasks.low_rank import LowRank, change_by_low_rank, fold


def test_attention_divergence_is_zero_where_attention_is_the_coverage(tiny_config: Any) -> None:
    grounding = Grounding(tiny_config.grounding, 16, 25)
    query, patches = torch.randn(3, 16), torch.randn(3, 25, 16)
    weights: Tensor = grounding.attend(query, patches)[:, 0]
    assert float(attention_divergence(grounding, query, patches, weights)) == pytest.approx(0, abs=1e-4)
    other = weights.roll(1, dims=1)
    expected = (other * (other.log() - weights.log())).sum(dim=1).mean()
    torch.testing.assert_close(attention_divergence(grounding, query, patches, other), expected, atol=1e-4, rtol=1e-3)


def test_known_sounds_are_held_to_what_they_were_and_new_ones_learnt(tiny_config: SoundingConfig) -> None:
    torch.manual_seed(6)
    model = SoundingModel(tiny_config).requires_grad_(False)
    nn.init.normal_(model.unet.conv_out.weight)
    settings = GroundedFinetuningSettings(keep_grounding=True)
    before = copy.deepcopy((model.grounding, model.unet))
    held, plain = (
        DistillationObjective(model, settings, before, 3.0).train(),
        GroundedObjective(model, settings).train(),
    )
    one = held.example(torch.device("cpu"))
    batch = {name: value.repeat_interleave(2, dim=0) for name, value in one.items()}
    batch |= {name: torch.randn_like(batch[name]) for name in ("latents", "noise", "patches", "query")}
    batch["time"] = torch.tensor([300, 300])

    def loss(objective: GroundedObjective, known: list[bool]) -> float:
        return float(objective(batch | {"known": torch.tensor(known)})["loss"].detach())

    assert loss(held, [True, True]) == pytest.approx(0, abs=1e-9)
    assert loss(held, [False, False]) == pytest.approx(loss(plain, [False, False]))
    assert 0.1 < loss(held, [True, False]) < loss(plain, [False, False])
    # A step away from what it was, the known item asks for three times the squared way back.
    with torch.no_grad():
        model.unet.conv_out.bias += 0.5
    assert loss(held, [True, True]) == pytest.approx(3 * 0.25, rel=1e-4)
    with torch.no_grad():
        model.unet.conv_out.bias -= 0.5
        assert loss(held, [True, True]) == pytest.approx(0, abs=1e-9)
        # Conditions that moved meanwhile are no excuse: what is asked for is what came of them where they were.
        model.grounding.mlp[2].bias += 1.0
    assert loss(held, [True, True]) > 1e-4
    # Without a condition known items are held as well, and new ones learnt.
    batch["dropped"] = torch.tensor([True, True])
    assert loss(held, [True, True]) == pytest.approx(0, abs=1e-9)
    assert loss(held, [False, False]) == pytest.approx(loss(plain, [False, False]))


def test_changes_of_low_rank_are_what_learns_and_fold_into_the_weights(tiny_model: SoundingModel) -> None:
    network = copy.deepcopy(tiny_model.unet).float()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = (torch.randn(2, 8, 8, 16), torch.tensor([10, 900]), torch.randn(2, 1, network.config.cross_attention_dim))
    was = network(*given).sample
    change_by_low_rank(network, 2)
    torch.testing.assert_close(network(*given).sample, was)
    network(*given).sample.square().mean().backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    changes = [part for part in network.modules() if isinstance(part, LowRank)]
    assert len(changes) == sum(isinstance(layer, nn.Linear | nn.Conv2d) for layer in network.modules())
    assert len(learning) == 2 * len(changes)
    with torch.no_grad():
        for change in changes:
            change.out.normal_(std=0.1)
        learnt = network(*given).sample
        assert float((learnt - was).abs().max()) > 0.01
        fold(network)
        torch.testing.assert_close(network(*given).sample, learnt)
    after = network.state_dict()
    assert after.keys() == before.keys()
    moved = [(value - before[name]).flatten(1) for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(moved) == len(changes)
    assert max(int(torch.linalg.matrix_rank(change, rtol=1e-4)) for change in moved) == 2
