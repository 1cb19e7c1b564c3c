"""The judge's evaluation, on a data set drawn and sung by the tests."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from sounding.model import SoundingModel
from training.data.stamps import Stamps
from training.evaluate.classifier import Classifier, ClassifierRecipe, train_classifier
from training.evaluate.recognise import Judge, evaluate, score
from training.learner import LoopConfig

from .conftest import TONES


def test_score_counts_ranks() -> None:
    logits = torch.tensor([[3.0, 1, 2, 0, -1, -2], [0, 5, 4, 3, 2, 1], [9, 8, 7, 6, 5, 4]])
    result = score(logits, torch.tensor([0, 0, 4]))
    assert (result.top1, result.top5, result.count) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)


def test_evaluation_hears_every_object(stamps_data: Stamps, tiny_model: SoundingModel) -> None:
    class Oracle(Judge):
        """Knows the real tones by their loudest frequency, and says "the first object" of all else."""

        def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
            loudest = torch.fft.rfft(waveform).abs().argmax(dim=1) * 16_000 / waveform.shape[1]
            tones = torch.tensor([TONES[stamp.name] for stamp in stamps_data.stamps])
            near = (loudest[:, None] - tones).abs() < 20
            return torch.cat([near.any(1, keepdim=True).logical_not(), near[:, 1:]], 1).float() + 2.0 * near

    settings = Namespace(seconds=0.64, steps=2, cfg=2.0, scheduler="dpm++", batch=4, per_object=2, pairs=3)
    figures = evaluate(tiny_model, stamps_data, Oracle(Classifier(len(stamps_data))), settings)
    assert figures["real"] == {"top1": 1.0, "top5": 1.0, "count": 6}
    assert figures["chance"]["top1"] == pytest.approx(1 / 3)
    assert figures["masked"]["count"] == figures["text"]["count"] == figures["copies"]["count"] == 6
    assert figures["masked"]["top1"] < 1  # a random model does not sing
    assert figures["masked_rank_by_object"].keys() == set(TONES)
    assert figures["pairs"]["count"] == 3


def test_the_judge_learns_the_recordings_and_is_read_again(stamps_data: Stamps, tmp_path: Path) -> None:
    loop = LoopConfig(steps=40, batch=6, lr=5e-3, warmup=5, precision="fp32", log_every=10)
    judge = train_classifier(ClassifierRecipe(loop, seconds=1.0), stamps_data, tmp_path)
    sounds = torch.stack([stamps_data.recordings[i].repeat(2)[:16_000] for i in range(3)])
    assert Judge(judge)(sounds).argmax(dim=1).tolist() == [0, 1, 2]
    again = train_classifier(ClassifierRecipe(loop, seconds=1.0), stamps_data, tmp_path)
    for name, value in judge.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
