"""Photographs from elsewhere: the set is complete, and its measurement counts rightly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from sounding.encoders.text import OpenClipQuery
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.object_set import ObjectSet
from training.evaluate.models.classifier import Classifier
from training.starter.evaluate.judge import Judge
from training.starter.evaluate.photographs import (
    PHOTOGRAPHS,
    Photograph,
    PhotographSettings,
    best_ranks,
    chance,
    draw_sheet,
    evaluate,
    make_sounds,
    name_patches,
    read_photographs,
    table,
)

INDEX = json.loads((PHOTOGRAPHS / "index.json").read_text(encoding="utf-8"))
SETTINGS = PhotographSettings(
    by=("mask", "text", "whole"), seeds=2, seconds=0.64, steps=2, cfg=2.0, sampler="dpm++", batch=4
)


def photograph(labels: tuple[int, ...]) -> Photograph:
    return Photograph("one", labels, torch.rand(1, 6, 8, 3), torch.ones(1, 6, 8), (1, 1))


def test_index_is_complete() -> None:
    assert len(INDEX) >= 15
    listed = {entry[key] for entry in INDEX for key in ("file", "mask")} | {"index.json", "LICENCES.md"}
    assert {path.name for path in PHOTOGRAPHS.iterdir()} == listed
    licences = (PHOTOGRAPHS / "LICENCES.md").read_text(encoding="utf-8")
    for entry in INDEX:
        assert all(entry[key] for key in ("labels", "author", "licence", "source", "package", "path")), entry["file"]
        assert entry["file"] in licences
        assert entry["author"] in licences
        assert entry["source"] in licences
    assert sum(path.stat().st_size for path in PHOTOGRAPHS.iterdir()) < 1.2e6


@pytest.mark.parametrize("entry", INDEX, ids=[entry["file"] for entry in INDEX])
def test_masks_fit(entry: dict[str, str | list[int]]) -> None:
    picture, mask = (Image.open(PHOTOGRAPHS / str(entry[key])) for key in ("file", "mask"))
    assert picture.size == mask.size
    assert max(picture.size) <= 512
    assert mask.mode == "L"
    pixels = np.asarray(mask)
    assert set(np.unique(pixels)) == {0, 255}
    assert 0.05 < (pixels > 0).mean() < 0.7
    x, y = entry["click"]
    assert pixels[int(y), int(x)] == 255


def test_most_objects_are_large() -> None:
    shares = [(np.asarray(Image.open(PHOTOGRAPHS / entry["mask"])) > 0).mean() for entry in INDEX]
    assert np.mean(np.array(shares) >= 0.1) >= 2 / 3


def test_any_label_of_a_photograph_counts() -> None:
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5], [0, 9, 1, 2, 3], [9, 8, 7, 6, 5]])
    ranks = best_ranks(scores, [photograph((1, 3)), photograph((4,))])
    assert ranks.tolist() == [1, 1, 1, 4]


def test_chance_is_that_of_drawing_without_replacement() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.choice(10, 5, replace=False) for _ in range(4000)]
    hits = np.mean([[1 in draw or 2 in draw for draw in draws], [7 in draw for draw in draws]])
    assert chance([photograph((1, 2)), photograph((7,))], 10, 5) == pytest.approx(hits, abs=0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs of objects that the drawn data set knows."""
    entries = [dict(entry, labels=[label]) for entry, label in zip(INDEX[:2], ("disc", "bar"), strict=True)]
    for entry in entries:
        shutil.copy(PHOTOGRAPHS / entry["file"], tmp_path)
        shutil.copy(PHOTOGRAPHS / entry["mask"], tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(entries))
    return tmp_path


def test_evaluation_of_a_small_model(folder: Path, stamps_data: ObjectSet, tiny_model: SoundingModel) -> None:
    names = [stamp.name for stamp in stamps_data.entries]
    captions = [stamp.caption for stamp in stamps_data.entries]
    photographs = read_photographs(folder, names)
    figures = evaluate(tiny_model, stamps_data, photographs, Judge(Classifier(len(names)).eval()), SETTINGS)
    assert figures["chance"] == {"top1": pytest.approx(1 / 3), "top5": pytest.approx(1)}
    assert [figures[by]["count"] for by in SETTINGS.by] == [4, 4, 4]
    assert figures["encoders"]["count"] == 2
    for found in figures["mask"]["photographs"].values():
        assert len(found["ranks"]) == 2
        assert sorted(found["guesses"]) == sorted(names)
    assert "| top5 | 1.00 |" in table(figures)
    assert photographs[0].name in table(figures)
    assert draw_sheet(photographs, figures).width == 1100

    # A sound is that of the model's own steps, one photograph and seed at a time.
    sounds = make_sounds(tiny_model, photographs, captions, SETTINGS, by="mask")
    patches = tiny_model.see(photographs[1].image)
    condition = tiny_model.ground(patches, mask=photographs[1].mask)
    latents = tiny_model.sample(condition, tiny_model.noise(0.64, [1001]), steps=2, cfg=SETTINGS.cfg)
    alone = tiny_model.vocode(tiny_model.decode(latents), 0.64)[0, 0]
    torch.testing.assert_close(sounds[3], alone, atol=1e-4, rtol=1e-3)

    # A caption's cosine is with the mean of the patches under the mask.
    cover = functional.adaptive_avg_pool2d(photographs[0].mask, 5).flatten()
    pooled = (tiny_model.see(photographs[0].image)[0] * cover[:, None]).sum(dim=0)
    assert isinstance(tiny_model.query, OpenClipQuery)
    expected = torch.cosine_similarity(pooled[None], tiny_model.query.encode(captions))
    torch.testing.assert_close(name_patches(tiny_model, photographs, captions)[0], expected, atol=1e-4, rtol=1e-3)


def test_the_command_measures_the_encoders_alone(
    folder: Path, stamps_folder: Path, stamps_data: ObjectSet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["starter", "evaluate", "photographs", "--model", str(tiny_checkpoint), "--data", str(stamps_folder)]
    command += ["--photographs", str(folder), "--encoders-only", "--out", str(tmp_path / "figures.json")]
    result = CliRunner().invoke(app, [*command, "--sheet", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    shown = read_photographs(folder, [stamp.name for stamp in stamps_data.entries])
    captions = [stamp.caption for stamp in stamps_data.entries]
    scores = name_patches(SoundingModel.from_pretrained(tiny_checkpoint), shown, captions)
    assert figures["encoders"]["top1"] == float((best_ranks(scores, shown) < 1).float().mean())
    assert figures.keys() == {"chance", "encoders"}
    assert result.stdout == table(figures) + "\n"
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_names_of_stamps_count_for_their_kinds(tmp_path: Path) -> None:
    """Each kind once; a name of the set itself goes before."""
    row = dict(INDEX[0], labels=["cow_white", "pig_golden", "pig_golden2", "tucan", "toucan"])
    (tmp_path / "index.json").write_text(json.dumps([row]))
    for file in (row["file"], row["mask"]):
        shutil.copy(PHOTOGRAPHS / file, tmp_path)
    kinds = ["toucan", "resting Tamworth pig", "cow", "Tamworth pig", "white cow"]
    (shown,) = read_photographs(tmp_path, kinds)
    assert [kinds[label] for label in shown.labels] == ["white cow", "Tamworth pig", "resting Tamworth pig", "toucan"]
    (shown,) = read_photographs(tmp_path, [*kinds, "tucan"])
    assert shown.labels[-2:] == (5, 0)
    with pytest.raises(ValueError, match="counts for 'cow_white', but the data set has no such object"):
        read_photographs(tmp_path, kinds[:-1])


def test_wrong_sets_are_refused(folder: Path, stamps_data: ObjectSet) -> None:
    names = [stamp.name for stamp in stamps_data.entries]
    with pytest.raises(ValueError, match="no such object"):
        read_photographs(folder, names[:1])
    mask = folder / INDEX[0]["mask"]
    Image.new("L", (8, 8), 255).save(mask)
    with pytest.raises(ValueError, match=r"is \(8, 8\), but"):
        read_photographs(folder, names)
    Image.new("L", Image.open(folder / INDEX[0]["file"]).size).save(mask)
    with pytest.raises(ValueError, match="not empty"):
        read_photographs(folder, names)
