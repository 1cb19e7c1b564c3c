"""The judge's evaluation, on a data set drawn and sung by the tests."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.data.scenes import SIDE, as_tensors, make_scene, scene_rng
from training.engine.settings import LoopConfig
from training.evaluate.features import open_features, open_model
from training.evaluate.models.captioned import CaptionedClasses
from training.evaluate.models.classifier import Classifier, write_classifier
from training.starter.evaluate import classifier, recognise, sounds
from training.starter.evaluate.audio_quality import CHECKS
from training.starter.evaluate.classifier import ClassifierRecipe, train_classifier
from training.starter.evaluate.cli import app
from training.starter.evaluate.judge import Judge, score
from training.starter.evaluate.lengths import WINDOW, score_length, window_starts
from training.starter.evaluate.recognise import evaluate
from training.starter.evaluate.sheet import CELL, Entry, draw_cell, write_sheet
from training.starter.evaluate.sounds import Settings, held_out_scenes

from .conftest import TONES


def test_score_counts_ranks() -> None:
    logits = torch.tensor([[3.0, 1, 2, 0, -1, -2], [0, 5, 4, 3, 2, 1], [9, 8, 7, 6, 5, 4]])
    result = score(logits, torch.tensor([0, 0, 4]))
    assert (result.top1, result.top5, result.count) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)


class Oracle(Judge):
    """Knows the real tones by their loudest frequency, and says "the first object" of all else."""

    def __init__(self, data: ObjectSet):
        super().__init__(Classifier(len(data)))
        self.tones = torch.tensor([TONES[stamp.name] for stamp in data.entries])

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        loudest = torch.fft.rfft(waveform).abs().argmax(dim=1) * 16_000 / waveform.shape[1]
        near = (loudest[:, None] - self.tones).abs() < 20
        return torch.cat([near.any(1, keepdim=True).logical_not(), near[:, 1:]], 1).float() + 2.0 * near


SETTINGS = Settings(seconds=0.64, steps=2, batch=4, per_object=2, pairs=3, lengths=(0.64, 2.88))


def test_evaluation_hears_every_object(stamps_data: ObjectSet, tiny_model: SoundingModel) -> None:
    figures = evaluate(tiny_model, stamps_data, Oracle(stamps_data), SETTINGS)
    assert figures["real"] == {"top1": 1.0, "top5": 1.0, "count": 6}
    assert figures["chance"]["top1"] == pytest.approx(1 / 3)
    assert figures["masked"]["count"] == figures["text"]["count"] == figures["copies"]["count"] == 6
    assert figures["masked"]["top1"] < 1  # a random model does not sing
    assert figures["masked_rank_by_object"].keys() == set(TONES)
    assert figures["pairs"]["count"] == 3
    for seconds in ("0.64 s", "2.88 s"):
        lasting = figures["lengths"][seconds]
        assert lasting["samples"] == round(float(seconds[:-2]) * 16_000)
        assert lasting["real"]["mean"] == {"top1": 1.0, "top5": 1.0, "count": 6}
        assert lasting["masked"]["mean"]["top1"] < 1
    assert figures["lengths"]["2.88 s"]["real"]["each"]["count"] == 12
    assert figures["checks"]["count"] == 6
    assert sum(figures["checks"]["leveled"].values()) < sum(figures["checks"]["raw"].values())
    again = evaluate(tiny_model, stamps_data, Oracle(stamps_data), SETTINGS, ("real", "masked", "checks"))
    assert again == {name: figures[name] for name in again}
    assert len(again) == 7


def test_parts_are_measured_alone_with_the_same_figures(stamps_data: ObjectSet, tiny_model: SoundingModel) -> None:
    judge = Oracle(stamps_data)
    alone = evaluate(tiny_model, stamps_data, judge, SETTINGS, ("background",))
    assert alone.keys() == {"background"}
    again = evaluate(tiny_model, stamps_data, judge, SETTINGS, ("pairs", "background"))
    assert again["background"] == alone["background"]


def test_a_background_is_what_no_object_covers(stamps_data: ObjectSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's guesses are prescribed: what is taken for an object of its scene is counted, and nothing else."""
    scenes = held_out_scenes(stamps_data, 4)
    guesses = [labels[-1] for _, labels in scenes]
    wrong = next(i for i, (_, labels) in enumerate(scenes) if len(labels) < 3)
    guesses[wrong] = next(label for label in range(3) if label not in scenes[wrong][1])
    asked: list[torch.Tensor] = []
    model = SimpleNamespace(
        see=lambda image: image,
        ground=lambda patches, mask, clamp: asked.append(mask),
    )

    def generated(model: object, data: ObjectSet, scenes: list, settings: Settings, *, by: str) -> torch.Tensor:
        for chosen in scenes:
            sounds.selection(model, data, chosen, by)  # type: ignore[arg-type]
        return torch.zeros(len(scenes), 1)

    monkeypatch.setattr(recognise, "generated", generated)
    judge = lambda waveform: torch.nn.functional.one_hot(torch.tensor(guesses), 3).float()  # noqa: E731
    figures = recognise.background_figures(model, stamps_data, judge, Settings(per_object=4))  # type: ignore[arg-type]
    assert figures["taken_for_an_object"] == pytest.approx(11 / 12)
    assert figures["chance"] == pytest.approx(sum(len(labels) for _, labels in scenes) / 12 / 3)
    for mask, (index, labels) in zip(asked, scenes, strict=True):
        masks = as_tensors(make_scene(stamps_data, scene_rng("held-out", index), labels=labels))[1]
        assert mask.shape == (1, SIDE, SIDE)
        assert (mask[0] * masks).amax() <= 0.25  # only where an object's edge is half transparent
        assert mask.mean() > 0.2


def test_late_silence_and_late_noise_show(stamps_data: ObjectSet) -> None:
    """A tone that stops half-way, one that turns into another's, and one that lasts."""
    judge, samples = Oracle(stamps_data), 4 * WINDOW
    times = torch.arange(samples) / 16_000
    tones = [0.3 * torch.sin(2 * torch.pi * TONES[stamp.name] * times) for stamp in stamps_data.entries]
    lasting, stopped, turned = tones[1].clone(), tones[1].clone(), tones[1].clone()
    stopped[samples // 2 :] = 0
    turned[samples // 2 :] = tones[2][samples // 2 :]
    figures = [score_length(judge, sound[None], torch.tensor([1])) for sound in (lasting, stopped, turned)]
    assert [figure["last"]["top1"] for figure in figures] == [1, 0, 0]  # type: ignore[index]
    assert [figure["worst"]["top1"] for figure in figures] == [1, 0, 0]  # type: ignore[index]
    assert [figure["each"]["top1"] for figure in figures] == [1, 0.5, 0.5]  # type: ignore[index]
    assert [figure["quiet_quarters"] for figure in figures] == [0, 1, 0]


def test_windows_of_the_judge_reach_the_end() -> None:
    assert window_starts(WINDOW) == [0]
    assert window_starts(WINDOW // 2) == [0]
    assert window_starts(2 * WINDOW) == [0, WINDOW]
    assert window_starts(2 * WINDOW + 5) == [0, WINDOW, WINDOW + 5]


def test_checks_are_counted_before_and_after_leveling() -> None:
    clean = 0.15 * torch.sin(2 * torch.pi * 440 * torch.arange(16_001) / 16_000)
    loud, clicking = 6.6 * clean, clean.clone()
    clicking[0] = 0.1
    figures = recognise.check_figures(torch.stack([clean, loud, clicking, torch.zeros(16_001)]))
    none = dict.fromkeys(CHECKS, 0)
    assert figures["raw"] == none | {"peak": 1, "loudness": 1, "click at the start": 1, "silence": 1}
    assert figures["leveled"] == none | {"silence": 1}


def test_the_sheet_shows_every_object(stamps_data: ObjectSet, tiny_model: SoundingModel, tmp_path: Path) -> None:
    settings = Settings(seconds=1.28, steps=1, per_object=2)
    written = write_sheet(tiny_model, stamps_data, Oracle(stamps_data), settings, tmp_path / "page.md", command="again")
    assert [path.name for path in written] == ["page.md", "page-1.webp"]
    text = written[0].read_text()
    assert "![Objects, real and generated sounds, sheet 1](page-1.webp)" in text
    assert "`again`" in text
    assert "GNU General Public License" in text
    for stamp in stamps_data.entries:
        assert f"| {stamp.caption} | " in text
    with Image.open(written[1]) as sheet:
        assert sheet.size == (4 * CELL[0] + 8, CELL[1] + 8)


def test_a_cell_tells_good_from_bad_and_real_from_made(stamps_data: ObjectSet) -> None:
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(40_960) / 16_000)
    entries = [Entry(0, "a bar", (0, (0,)), tone, torch.zeros(40_960), (rank, 1), "a disc") for rank in (1, 4, 9)]
    cells = [np.asarray(draw_cell(stamps_data, entry)).astype(int) for entry in entries]
    green, amber, red = (cell[6, CELL[0] - 14] for cell in cells)
    assert green.argmax() == 1
    assert red.argmax() == 0
    assert amber[0] > amber[1] > amber[2]
    sound = cells[0][22:, -184:-8]
    assert sound[:52].max() > 200  # the real one, above
    assert sound[60:112].max() < 60  # and a silent one


def test_the_judge_learns_the_recordings_and_is_read_again(stamps_data: ObjectSet, tmp_path: Path) -> None:
    loop = LoopConfig(steps=40, batch=6, lr=5e-3, warmup=5, precision="fp32", log_every=10)
    judge = train_classifier(ClassifierRecipe(loop, seconds=1.0), stamps_data, tmp_path)
    sounds = torch.stack([stamps_data.recordings[i].repeat(2)[:16_000] for i in range(3)])
    assert Judge(judge)(sounds).argmax(dim=1).tolist() == [0, 1, 2]
    again = train_classifier(ClassifierRecipe(loop, seconds=1.0), stamps_data, tmp_path)
    for name, value in judge.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_the_judge_of_other_recordings_is_another(
    stamps_data: ObjectSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder: the same objects in another order, with other recordings, or judged with other settings."""
    trained: list[Path] = []
    monkeypatch.setattr(classifier, "train", lambda objective, items, loop, folder: trained.append(folder))
    loop = LoopConfig(steps=1, batch=1, lr=1e-3)
    recipe = ClassifierRecipe(loop, seconds=1.0)
    turned, louder, fewer = (copy.copy(stamps_data) for _ in range(3))
    turned.entries, turned.sounds = stamps_data.entries[::-1], stamps_data.sounds[::-1]
    louder.sounds = [[stamps_data.recordings[0] * 0.5], *stamps_data.sounds[1:]]
    fewer.entries, fewer.sounds = stamps_data.entries[:2], stamps_data.sounds[:2]
    for data in (stamps_data, turned, louder, fewer, stamps_data):
        train_classifier(recipe, data, tmp_path)
    train_classifier(ClassifierRecipe(loop, seconds=2.0), stamps_data, tmp_path)
    assert trained[0] == trained[4]
    assert len(set(trained)) == 5


def test_the_judge_is_written_to_a_file(
    stamps_folder: Path, stamps_data: ObjectSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its objects' names; what reads it hears the same."""
    network = Classifier(len(stamps_data)).eval()
    monkeypatch.setattr("training.starter.evaluate.judge.open_judge", lambda data, folder: Judge(network))
    out = tmp_path / "judge.safetensors"
    done = CliRunner().invoke(app, ["judge", "--data", str(stamps_folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    model = open_features(out)
    assert model.classes == tuple(stamp.name for stamp in stamps_data.entries)
    sounds = torch.randn(2, 16_000)
    logits = model.logits(model.embed(sounds, 16_000))
    torch.testing.assert_close(logits.log_softmax(dim=-1), Judge(network)(sounds))


def test_a_stand_in_for_avc_is_written_to_a_file(
    tiny_checkpoint: Path, tiny_model: SoundingModel, stamps_folder: Path, stamps_data: ObjectSet, tmp_path: Path
) -> None:
    """With the judge of a file, whose classes have to be the objects."""
    names = [stamp.name for stamp in stamps_data.entries]
    write_classifier(tmp_path / "judge.safetensors", Classifier(len(names), width=4), names)
    options = [
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(stamps_folder),
        "--out",
        str(tmp_path / "avc.safetensors"),
    ]
    done = CliRunner().invoke(app, ["avc", *options, "--judge", str(tmp_path / "judge.safetensors")])
    assert done.exit_code == 0, done.output
    model = open_model(tmp_path / "avc.safetensors")
    assert isinstance(model, CaptionedClasses)
    captions = tiny_model.query.encode([stamp.caption for stamp in stamps_data.entries])
    torch.testing.assert_close(model.captions, torch.nn.functional.normalize(captions, dim=-1))
    write_classifier(tmp_path / "judge.safetensors", Classifier(len(names), width=4), names[::-1])
    refused = CliRunner().invoke(app, ["avc", *options, "--judge", str(tmp_path / "judge.safetensors")])
    assert refused.exit_code == 1
    assert "has other classes" in refused.output
