"""The theorem measured on drawn scenes: the model's own parts, the two sides of equation 6, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.object_set import ObjectSet
from training.evaluate.theory.measure import Settings, measure, with_both
from training.evaluate.theory.quantities import Constants, l1
from training.evaluate.theory.queries import TrueValues, check_model, seen_queries, weightings
from training.evaluate.theory.report import table
from training.evaluate.theory.sounds import Sampled, Value, described


def test_queries_are_what_the_model_attends_to(tiny_model: SoundingModel, stamps_data: ObjectSet) -> None:
    (query,) = seen_queries(tiny_model, stamps_data, 1)
    patches = tiny_model.see(query.image)
    assert torch.allclose(
        query.log_u.exp().float(), tiny_model.ground(patches, text=query.caption).weights[0], atol=1e-5
    )
    assert query.p.sum().item() == pytest.approx(1)
    f = Sampled(tiny_model, 3, seconds=0.64, steps=2, cfg=2.0, sampler="dpm++")
    for weights, condition in (
        (query.log_u.exp(), tiny_model.ground(patches, text=query.caption)),
        (weightings(tiny_model, query.coverage)["matched"], tiny_model.ground(patches, mask=query.mask[None])),
    ):
        attended = (weights @ query.values).float()[None]
        assert torch.allclose(f.condition(attended), condition.tokens[:, 0], atol=1e-4)
        expected = tiny_model.sample(condition, tiny_model.noise(0.64, [3]), steps=2, cfg=2.0, sampler="dpm++")
        with torch.no_grad():
            assert torch.allclose(f(attended), expected, atol=1e-3)


def test_matched_masks_have_the_moments_of_attention(tiny_model: SoundingModel) -> None:
    coverage = torch.rand(25)
    forms = weightings(tiny_model, coverage)
    assert all(m.sum().item() == pytest.approx(1, abs=1e-5) for m in forms.values())
    deviation = float(tiny_model.grounding.weight_std)
    assert forms["matched"].std(unbiased=False).item() == pytest.approx(deviation, rel=1e-4)
    assert forms["clamped"].min() >= 0


def query_of(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def test_values_are_lipschitz_as_they_say() -> None:
    value = Value(torch.randn(4, 6))
    shares = torch.rand(9, 4, dtype=torch.float64)
    query = query_of(contents=shares / shares.sum(dim=1, keepdim=True).clamp(min=1))
    m, p = torch.rand(2, 9, dtype=torch.float64)
    m, p = m / m.sum(), p / p.sum()
    s, t = torch.randn(2, 1, 2, 5, 3)
    assert abs(value(s, query, p) - value(t, query, p)) <= value.in_sound * float((s - t).norm()) + 1e-5
    assert abs(value(s, query, p) - value(s, query, m)) <= value.in_mask * float(l1(p, m)) + 1e-5
    assert described(torch.ones(1, 2, 4, 3)).tolist() == [[2.0] * 6]


def test_the_best_value_is_that_of_the_right_sound() -> None:
    centres = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    value = Value(centres)
    query = query_of(contents=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    right = (centres[0] / 2).reshape(1, 1, 1, 2).expand(1, 1, 4, 2)  # phi doubles what is constant over 4 frames
    assert value(right, query, first) == pytest.approx(0, abs=1e-6)
    assert value(right, query, first.roll(1)) == pytest.approx(-(18**0.5), rel=1e-5)
    assert value.expected(query, first.roll(2)).tolist() == [1.5, 1.5]  # where nothing is: the mean
    assert (value.in_mask, value.apart()) == (pytest.approx(4.5**0.5), pytest.approx(18**0.5))


def test_each_lipschitz_constant_of_the_value_is_used_where_the_proof_needs_it() -> None:
    value = Value(torch.tensor([[8.0, 0.0], [0.0, 0.0]]))  # 1 in the sound, 4 in the mask
    constants = Constants(eps_sam=0.5, eps_contrast=0.02, eps_v=0.1, eps_f=0.7, b_v=2.0, l_v=4.0, l_f=3.0)
    expected = 3 * (0.1 + 2 * (0.5 + 2 * 0.2)) + 4 * 0.5 + 0.7
    assert with_both(constants, value) == pytest.approx(expected)


def test_true_values_are_the_means_of_what_patches_show(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]][:, :2]  # the third shows no object
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)
    shift = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    query = query_of(contents=contents, values=wanted[[0, 0, 1, 2]] + shift)
    monkeypatch.setattr("training.evaluate.theory.queries.seen_queries", lambda *_: [query])
    model: Any = SimpleNamespace(config=SimpleNamespace(grounding=SimpleNamespace(positions=False)))
    true = TrueValues(model, [], 1, ridge=1e-9)  # type: ignore[arg-type]
    assert torch.allclose(true(query), wanted[[0, 0, 1, 2]], atol=1e-6)


def test_both_sides_of_equation_6_fit_together(tiny_model: SoundingModel, stamps_data: ObjectSet) -> None:
    settings = Settings(scenes=3, reference=4, sounds=2, slopes=1, seconds=0.64, steps=2)
    figures, queries = measure(tiny_model, stamps_data, settings)
    assert len(queries) == 3
    assert figures["attention"]["lemma violations"] == 0
    assert figures["masks"]["true mask, normalised"]["eps_sam = E|m - p|_1"]["greatest"] == 0
    gap = figures["equation 6"]["matched masks, without norm matching"]
    for reading in ("trained", "true"):
        found = gap[reading]
        assert found["holds"]
        assert found["err_test"]["mean"] <= found["bound with both L_v apart"] <= found["bound"]["total"]
        assert sum(found["terms of the proof"].values()) == pytest.approx(found["err_test"]["mean"], abs=1e-6)
        assert found["bound"]["total"] >= found["constants"]["l_v"] * found["constants"]["eps_sam"]
    assert gap["trained"]["constants"]["eps_v"] == 0 < gap["true"]["constants"]["eps_v"]
    assert gap["L of the MLP, local slopes"] <= figures["equation 6"]["limit of the MLP's slope"]
    assert "E\\|u - p\\|_1" in table(figures)


def test_models_that_the_theorem_is_not_about_are_refused(tiny_config: SoundingConfig) -> None:
    for change in ({"scoring": "additive"}, {"heads": 2}, {"query": "audio"}):
        grounding = replace(tiny_config.grounding, **change)
        model: Any = SimpleNamespace(config=SimpleNamespace(grounding=grounding), query=None)
        with pytest.raises(ValueError, match=r"theorem 3\.1 is about"):
            check_model(model)


def test_bad_settings_are_found_before_any_scene_is_seen(
    tiny_model: SoundingModel, stamps_data: ObjectSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.theory.measure.seen_queries", lambda *_: pytest.fail("long work"))
    for settings in (Settings(seconds=-1.0), Settings(steps=1000), Settings(cfg=-1.0), Settings(cfg=float("nan"))):
        with pytest.raises(ValueError, match="is expected"):
            measure(tiny_model, stamps_data, settings)


def test_the_command_writes_figures_table_and_image(tiny_checkpoint: Path, stamps_folder: Path, tmp_path: Path) -> None:
    words = [
        "evaluate",
        "theory",
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(stamps_folder),
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, [*words, "--scenes", "4", "--reference", "2", "--sounds", "0"])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "theory.json").read_text())
    assert figures["attention"]["E|u - p|_1"]["count"] == 4
    assert "equation 6" not in figures
    assert (tmp_path / "theory.md").read_text() in done.output
    assert Image.open(tmp_path / "theory.png").width > Image.open(tmp_path / "theory.png").height


def test_a_model_with_its_own_segmenter_is_clicked_on(
    tiny_model: SoundingModel, stamps_data: ObjectSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks: list[Tensor] = []

    class Clicked:
        def __init__(self, *_: Any):
            pass

        def prepare(self, image: Tensor) -> Any:
            return image

        def segment(self, prepared: Any, prompt: Any) -> Any:
            clicks.append(prompt.positive[0])
            return SimpleNamespace(mask=torch.ones(288, 288))

    monkeypatch.setattr(tiny_model, "segmenter", torch.nn.Identity())
    monkeypatch.setattr("training.evaluate.theory.queries.ClickSegmenter", Clicked)
    (query,) = seen_queries(tiny_model, stamps_data, 1)
    ((x, y),) = clicks
    assert query.mask[int(y), int(x)] > 0.5
    assert query.found is not None
    assert torch.allclose(query.found, torch.ones(25))
