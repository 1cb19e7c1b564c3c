"""A judge that hears none of what the model learned, retrieval and variety, on tones."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig
from sounding.grounding import Condition
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.object_set import ObjectEntry, ObjectSet
from training.data.scenes import draw_scene
from training.data.waveforms import fill
from training.starter.evaluate import honest
from training.starter.evaluate.honest import HonestJudge, HonestSettings, check_apart, over_kinds, selections, shares
from training.starter.evaluate.retrieval import Gallery, MelStatistics, NearestRecording, gallery_of
from training.starter.evaluate.sounds import check_stream
from training.starter.evaluate.variety import distance, recording_distances

from .conftest import TONES, draw_stamp

HEARD = TONES | {"bell": 3500.0, "ghost": 5000.0}  # Hz; there are no images of the last two, and a class of the bell
SAMPLES = 20_480


def tone(hertz: float, seconds: float = 0.7) -> Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(16000 * seconds)) / 16000)


def write_set(folder: Path, factors: tuple[float, ...]) -> Path:
    """A set with one recording per factor, by which the tone of each kind is multiplied."""
    folder.mkdir()
    rows = []
    for label, (name, hertz) in enumerate(HEARD.items()):
        if name in TONES:
            draw_stamp(name).save(folder / f"{name}.png")
        audio = [f"{name}-{number}.wav" for number in range(len(factors))]
        for file, factor in zip(audio, factors, strict=True):
            write_audio(folder / file, 0.5 * tone(factor * hertz), 16000)
        image = f"{name}.png" if name in TONES else ""
        entry = ObjectEntry(name, label, f"a {name}", image, "", audio[0], 0.7, "made up", "CC0-1.0")
        rows.append(asdict(replace(entry, recordings=tuple(audio[1:]), classes=(7,) if name == "bell" else ())))
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """To train with, and to test with."""
    root = tmp_path_factory.mktemp("sets")
    return write_set(root / "train", (1.0, 1.06)), write_set(root / "test", (1.03, 0.97))


def test_kinds_count_alike_and_are_resampled() -> None:
    """Beside a bootstrap of its own; three of four sounds are right, but of the two kinds a half."""
    ranks, labels = torch.tensor([0, 0, 0, 1]), torch.tensor([4, 4, 4, 9])
    found = shares(ranks, labels)["top1"]
    assert (found["value"], found["count"]) == (0.5, 2)
    assert (found["low"], found["high"]) == (0, 1)  # what is resampled of two would go beyond
    rng = np.random.default_rng(5)
    values = torch.from_numpy(rng.random(60))
    found = over_kinds(values, torch.arange(60))
    drawn = [values[rng.integers(0, 60, 60)].mean() for _ in range(4000)]
    assert found["value"] == pytest.approx(float(values.mean()))
    assert found["low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.015)
    assert found["high"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.015)


def test_distances_are_those_of_all_pairs() -> None:
    sounds = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 8000))).float() * 0.1
    groups = torch.tensor([0, 1, 0, 1, 1])
    peaks = [0.5 * (sound - sound.mean()) / (sound - sound.mean()).abs().max() for sound in sounds]
    mels = [MelSpectrogram(AudioConfig())(sound[None])[0].double().numpy() for sound in peaks]
    pairs = [(one, other) for one in range(5) for other in range(one)]
    for same in (True, False):
        far = [np.abs(mels[i] - mels[j]).mean() for i, j in pairs if (groups[i] == groups[j]) == same]
        assert distance(sounds, groups, same=same) == pytest.approx(np.mean(far), rel=1e-4)
        louder = sounds * torch.tensor([1, 2, 3, 4, 5])[:, None]
        assert distance(louder, groups, same=same) == pytest.approx(np.mean(far), rel=1e-4)
    assert math.isnan(distance(sounds[:1], groups[:1], same=True))


def test_cuts_of_two_recordings_differ_more_than_those_of_one() -> None:
    within, between = recording_distances([tone(300, 4.0), tone(2000, 4.0)], SAMPLES, 0)
    assert 0 < within < 0.3 * between


def test_the_nearest_recording_of_each_kind_counts() -> None:
    rng = np.random.default_rng(1)
    centres = functional.normalize(torch.from_numpy(rng.standard_normal((7, 3))), dim=1)
    kinds = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    gallery = Gallery(centres, kinds, torch.tensor([1.0, 2, 3]), torch.tensor([0.5, 1, 2]))
    embedded = torch.from_numpy(rng.standard_normal((20, 3)))
    asked = torch.from_numpy(rng.integers(0, 4, 20))
    expected = []
    for sound, kind in zip(embedded.numpy(), asked.tolist(), strict=True):
        place = (sound - [1, 2, 3]) / [0.5, 1, 2]
        cosines = centres.numpy() @ place / np.linalg.norm(place)
        best = [cosines[(kinds == each).numpy()].max() for each in range(4)]
        expected.append(sorted(best, reverse=True).index(best[kind]))
    assert gallery.ranks(embedded, asked).tolist() == expected


def test_retrieval_ranks_the_right_kind_first() -> None:
    embedding, rng = MelStatistics(), np.random.default_rng(3)
    recordings = [[tone(220), tone(5000)], [tone(660)], [tone(1760), tone(3500)]]
    gallery = gallery_of(recordings, SAMPLES, embedding)
    cuts = embedding(torch.stack([fill(sounds[-1], SAMPLES, rng) for sounds in recordings]))
    assert gallery.ranks(cuts, torch.arange(3)).tolist() == [0, 0, 0]
    assert gallery.ranks(cuts, torch.tensor([1, 2, 0])).min() >= 1

    judge = NearestRecording(recordings, SAMPLES, embedding)
    scores = judge(torch.stack([fill(sounds[-1], SAMPLES, rng) for sounds in recordings]))
    assert scores.shape == (3, 3)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]
    assert judge.described == "the recording that statistics of log-mels finds nearest"


def test_the_judge_names_recordings_that_it_never_heard() -> None:
    embedding, rng = MelStatistics(), np.random.default_rng(1)
    recordings = {"low": [tone(215), tone(230)], "high": [tone(1700)], "highest": [tone(5000)]}
    embedded = embedding(torch.stack([fill(tone(hertz), SAMPLES, rng) for hertz in (1760.0, 222.0)]))
    for kinds in (2, 3):
        judge = HonestJudge(dict(list(recordings.items())[:kinds]), SAMPLES, embedding)
        heard = judge(embedded)
        assert heard.argmax(dim=1).tolist() == [1, 0]
        np.testing.assert_allclose(heard.exp(), judge.probe.predict_proba(embedded.double().numpy()), rtol=1e-6)
        far = judge(1e5 * embedded)  # probabilities of 0 are no ties
        assert far.isfinite().all()
        assert len(far[0].unique()) == kinds
    with pytest.raises(ValueError, match="came: 1, but"):
        HonestJudge({"low": [tone(215)]}, SAMPLES, embedding)


def test_what_was_learned_is_no_test() -> None:
    heard = {"low": [tone(215)], "high": [tone(650), tone(660)]}
    check_apart([tone(220)], heard, Path("train"), Path("test"))
    with pytest.raises(ValueError, match="test shares 1 of its recordings with train, the first one of 'high'"):
        check_apart([tone(220), tone(660)], heard, Path("train"), Path("test"))
    with pytest.raises(ValueError, match="training draws"):
        check_stream(11)


def test_the_asked_object_is_selected_wherever_the_scene_has_it(stamps_data: ObjectSet) -> None:
    """What fills an image lies below all else, so that it is not the first in its scene."""
    data = copy.copy(stamps_data)
    data.entries = [replace(entry, whole=entry.name == "square") for entry in stamps_data.entries]
    label = {entry.name: entry.label for entry in data.entries}
    disc, square, bar = (label[name] for name in ("disc", "square", "bar"))
    asked: list[Tensor | str] = []

    def ground(patches: Tensor, mask: Tensor | None = None, text: str = "", clamp: bool | None = None) -> None:
        asked.append(text if mask is None else mask[0])

    model = SimpleNamespace(see=lambda image: image, ground=ground)
    scenes = [(4, (disc, square)), (5, (square, bar))]
    selections(model, data, scenes, HonestSettings(stream=77))  # type: ignore[arg-type]
    captions = [data.entries[one].caption for one in (disc, square)]
    assert asked[1::2] == captions
    for (number, labels), mask, shown in zip(scenes, asked[::2], ((square, disc), (square, bar)), strict=True):
        _, scene = draw_scene(data, np.random.default_rng([77, number]), labels=labels)
        assert scene.labels == shown
        expected = scene.masks[scene.labels.index(labels[0])]
        np.testing.assert_array_equal(np.asarray(mask) * 255, expected)


def test_figures_are_those_of_the_sounds(
    sets: tuple[Path, Path], tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By mask every bar sounds as the disc does, and always alike; by caption all is right, and differs as is real."""

    def repeated(model: SoundingModel, conditions: list[Condition], settings: HonestSettings) -> Tensor:
        by_mask = conditions[0].source == "mask"
        rng, sounds = np.random.default_rng(3), []
        for number in range(len(conditions)):
            hertz = TONES[list(TONES)[number // settings.per_object]]
            for turn in range(settings.seeds):
                if by_mask:
                    sounds.append(fill(tone(220 if hertz == 1760 else hertz), SAMPLES, np.random.default_rng(number)))
                else:
                    sounds.append(fill(tone(hertz * (1, 1.06)[turn]), SAMPLES, rng))
        return torch.stack(sounds)

    monkeypatch.setattr(honest, "repeated", repeated)
    settings = HonestSettings(seconds=1.28, steps=1, per_object=4, seeds=2)
    figures = honest.evaluate(tiny_model, *sets, MelStatistics(), settings)
    judge, retrieval, variety = figures["judge"], figures["retrieval"], figures["variety"]
    assert (judge["kinds"], retrieval["kinds"]) == (4, 4)  # a ghost cannot be seen
    assert judge["chance"] == {"top1": 0.25, "top5": 1.0}
    for found in (judge, retrieval):
        tops = {name: found[name]["top1"]["value"] for name in ("real", "mask", "text")}
        assert tops == {"real": 1, "mask": pytest.approx(2 / 3), "text": 1}
        assert found["mask"]["top1"]["count"] == 3
        assert found["mask"]["top5"]["value"] == 1
    assert judge["mask"]["top1_by_kind"] == {"disc": 1.0, "square": 1.0, "bar": 0.0}
    assert judge["copies"]["top1"]["value"] < 1  # random weights copy nothing
    assert variety["mask"]["value"] == pytest.approx(0, abs=1e-6)
    assert variety["text"]["value"] == pytest.approx(1, abs=0.25)
    assert 0 < variety["one recording"]["value"] < 1


def test_the_command_measures_a_checkpoint(sets: tuple[Path, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    train, test = map(str, sets)
    command = ["starter", "evaluate", "honest", "--checkpoint", str(tiny_checkpoint), "--train-data", train]
    options = ["--seconds", "1.28", "--steps", "1", "--per-object", "1", "--out", str(tmp_path / "figures.json")]
    ended = CliRunner().invoke(app, [*command, "--data", test, *options])
    assert ended.exit_code == 0, ended.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["embedding"] == "statistics of log-mels"
    assert figures["judge"]["real"]["top1"]["value"] == 1
    assert figures["variety"]["mask"]["value"] > 0  # of two seeds
    assert "| judge | real | 1.00 (1.00 to 1.00) |" in ended.stdout
    assert "| retrieval | text | " in ended.stdout
    refused = CliRunner().invoke(app, [*command, "--data", train, *options])
    assert refused.exit_code == 1
    assert "shares 10 of its recordings" in refused.stderr
    refused = CliRunner().invoke(app, [*command, "--data", str(tmp_path), *options])
    assert refused.exit_code == 1
    assert "training starter data" in refused.stderr
