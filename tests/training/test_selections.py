"""What is measured of text within masks, names and negative conditions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sounding.grounding import Condition
from sounding.model import SoundingModel
from sounding.naming.names import UNKNOWN, Named
from training.data.object_set import ObjectSet
from training.starter.evaluate import selections
from training.starter.evaluate.selections import Seen, evaluate, joined_figures, name_figures
from training.starter.evaluate.sounds import Chosen, Settings


class Listener:
    """Objects are axes of the condition: a mask gives those of what it covers, and a text that of what it names."""

    grounding = SimpleNamespace(condition_mean=torch.zeros(3))
    config = SimpleNamespace(grounding=SimpleNamespace(norm_matching=True))

    def __init__(self, captions: list[str]):
        self.captions = captions
        self.query = SimpleNamespace(encode=lambda texts: torch.tensor([self.axis(text) for text in texts]))

    def axis(self, text: str) -> list[float]:
        return [float(text == caption) + 0.1 for caption in self.captions]

    def ground(self, patches: Tensor, *, mask: Tensor | None = None, text: str | None = None) -> Condition:
        covered = torch.ones(3) if mask is None else torch.zeros(3).index_add(0, patches, mask[0, 0])
        said = torch.ones(3) if text is None else torch.tensor(self.axis(text))
        tokens = (covered * said)[None, None]
        return Condition(tokens, torch.ones(1, 4), torch.ones(1), ("mask",))


def drawn(model: Any, data: ObjectSet, chosen: Chosen) -> Seen:
    """Each object is one pixel; the patches say which object it is."""
    labels = chosen[1]
    masks = torch.eye(len(labels))[:, None]
    return Seen(torch.zeros(1), torch.tensor(labels), masks, tuple(data.entries[label].caption for label in labels))


def test_text_and_mask_are_compared_with_each_objects_own_mask(
    stamps_data: ObjectSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "seen", drawn)
    figures = joined_figures(Listener([entry.caption for entry in stamps_data.entries]), stamps_data, 12)  # type: ignore[arg-type]
    assert figures["pair"] == {"count": 12, "mask": 0, "text": 1, "both": 1}
    assert 0 < figures["look-alike"]["count"] < 12
    assert (figures["look-alike"]["text"], figures["look-alike"]["both"]) == (1, 1)
    assert figures["manner"]["text"] == 0  # the text names nothing
    assert (figures["manner"]["mask"], figures["manner"]["both"]) == (1, 1)


def test_names_are_compared_with_captions(
    stamps_data: ObjectSet, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dog, bird = Named("dog", 0.6, (("dog", 0.6), ("cat", 0.4))), Named("bird", 0.9, (("owl", 0.5), ("jay", 0.4)))
    answers = iter([Named(UNKNOWN, 0.1, (("nail", 0.1),)), dog, bird, bird])
    monkeypatch.setattr(tiny_model, "name", lambda image, mask: [next(answers)])
    figures = name_figures(tiny_model, stamps_data, 4)
    assert figures["count"] == 4
    assert {kind: figures[kind]["count"] for kind in ("specific", "general", "unknown")} == {
        "specific": 1,
        "general": 2,
        "unknown": 1,
    }
    assert figures["specific"]["likely_names 1"] == figures["specific"]["likely_names 5"]
    general = figures["general"]
    assert general["likely_names 1"]["cosine"] != general["likely_names 2"]["cosine"]
    assert general["likely_names 2"] == general["likely_names 5"]  # there are but two


def test_negatives_are_heard(stamps_data: ObjectSet, tiny_model: SoundingModel) -> None:
    settings = Settings(seconds=0.64, steps=1, pairs=2)
    figures = evaluate(tiny_model, stamps_data, settings, ("negative",), (2.0,))
    assert figures["negative"]["count"] == 2
    ways = figures["negative"]["cfg 2"]
    assert set(ways) == {"both", "both, negative text", "both, negative mask", "first alone"}
    for way in ways.values():
        assert way["first_in_5"] == way["second_in_5"] == 1  # of three objects
        assert 1 <= way["first_rank"] <= 3
