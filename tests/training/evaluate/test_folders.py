"""Folders of sounds to a report: sounds that are not alike, resuming, and figures that can be recomputed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from sounding.audio.resampling import resample
from training.evaluate.cli import app
from training.evaluate.folders import Side, compute_features, find_sounds, pairs, problems
from training.evaluate.frechet import frechet_distances
from training.evaluate.labels import Labels, read_labels
from training.evaluate.models.classifier import Classifier, write_classifier
from training.evaluate.report import measure
from training.evaluate.scores import kl_divergences, label_confidences

RATE = 16_000


class Bands:
    """Hears the energy in eight bands, and takes the first three for classes."""

    name, rate, seconds, width = "bands", RATE, 1.0, 8
    classes: tuple[str, ...] = ("Speech", "dog", "cat")

    def __init__(self, stop_after: int = 10**9):
        self.heard, self.stop_after = 0, stop_after

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        assert rate == RATE
        assert waveform.shape[1] == RATE
        if self.heard + len(waveform) > self.stop_after:
            raise KeyboardInterrupt
        self.heard += len(waveform)
        bands = torch.fft.rfft(waveform)[:, :1000].abs().chunk(8, dim=1)
        return torch.stack([band.mean(dim=1) for band in bands], dim=1)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :3]


class NoClasses(Bands):
    classes = ()

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :0]


def noise(seed: int, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(math.ceil(seconds * 2000) + 1, generator=generator)
    return 0.2 * resample(low, 2000, rate)[: round(seconds * rate)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference and two systems of 22 plain sounds each; the second has odd ones besides."""
    root = tmp_path_factory.mktemp("folders")
    for offset, system in enumerate(("reference", "first", "second")):
        for item in range(22):
            write_audio(root / system / f"{item:02}.wav", noise(100 * offset + item), RATE)
    odd = root / "second"
    for name in ("silent", "clipped", "stereo", "fast", "short", "long", "broken", "empty", "text", "missing"):
        write_audio(root / "reference" / f"{name}.wav", noise(7), RATE)
    write_audio(odd / "silent.wav", torch.zeros(RATE), RATE)
    write_audio(odd / "clipped.flac", 20 * noise(7), RATE)
    write_audio(odd / "stereo.wav", torch.stack([noise(7), noise(7)]), RATE)
    write_audio(odd / "fast.wav", resample(noise(7), RATE, 44_100), 44_100)
    write_audio(odd / "short.wav", noise(7, 0.3), RATE)
    write_audio(odd / "long.wav", noise(7, 2.0), RATE)
    soundfile.write(odd / "empty.wav", np.zeros(0), RATE)
    write_audio(odd / "unasked.wav", noise(8), RATE)
    (odd / "broken.wav").write_bytes((odd / "long.wav").read_bytes()[:20])
    (odd / "text.wav").write_text("no sound")
    (odd / "notes.txt").write_text("not looked at")
    (odd / "gone.wav").symlink_to(root / "nothing.wav")
    return root


@pytest.fixture(scope="module")
def sides(material: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Side]:
    out = tmp_path_factory.mktemp("features")
    return [
        compute_features(name, material / name, Bands(), 1.0, out / name) for name in ("reference", "first", "second")
    ]


def test_one_bad_file_never_ends_a_run(sides: list[Side]) -> None:
    reference, first, second = sides
    found = {kind: names for kind, names in problems(second, reference) if names}
    assert found["unreadable"] == ["broken", "empty", "gone", "text"]
    assert all("cannot be read as audio" in second.unreadable[name] for name in ("broken", "text", "gone"))
    assert "no samples" in second.unreadable["empty"]
    assert found["missing"] == ["missing"]
    assert found["without a reference"] == ["gone", "unasked"]
    assert found["silent"] == ["silent"]
    assert found["clipped"] == ["clipped"]
    assert found["mixed to mono"] == ["stereo"]
    assert found["resampled"] == ["fast"]
    assert found["padded"] == ["short"]
    assert found["cut"] == ["long"]
    plain = [f"{item:02}" for item in range(22)]
    assert pairs(second, reference) == sorted([*plain, "silent", "clipped", "stereo", "fast", "short", "long"])
    assert pairs(first, reference) == plain


def test_what_is_the_same_sound_has_the_same_features(sides: list[Side]) -> None:
    reference, _, second = sides
    expected = reference.store.embeddings[reference.store.rows(["stereo"])[0]]
    for name, tolerance in (("stereo", 1e-6), ("fast", 0.02)):
        found = second.store.embeddings[second.store.rows([name])[0]]
        np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())
    assert not second.store.embeddings[second.store.rows(["silent"])[0]].any()


def test_a_stopped_run_continues(material: Path, sides: list[Side], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compute_features("first", material / "first", Bands(stop_after=16), 1.0, tmp_path / "first")
    model, steps = Bands(), []
    resumed = compute_features(
        "first", material / "first", model, 1.0, tmp_path / "first", lambda *step: steps.append(step)
    )
    assert model.heard == 6
    assert steps == [(22, 22)]
    np.testing.assert_array_equal(resumed.store.embeddings, sides[1].store.embeddings)
    np.testing.assert_array_equal(resumed.store.logits, sides[1].store.logits)
    again = Bands()
    compute_features("first", material / "first", again, 1.0, tmp_path / "first")
    assert again.heard == 0


def test_changed_files_are_heard_anew(tmp_path: Path) -> None:
    write_audio(tmp_path / "sounds" / "a.wav", noise(1), RATE)
    before = compute_features("x", tmp_path / "sounds", Bands(), 1.0, tmp_path / "x").store.embeddings.copy()
    write_audio(tmp_path / "sounds" / "a.wav", noise(2, 0.9), RATE)
    assert not np.allclose(
        compute_features("x", tmp_path / "sounds", Bands(), 1.0, tmp_path / "x").store.embeddings, before
    )


def test_figures_are_those_of_the_pairs(sides: list[Side]) -> None:
    reference, first, second = sides
    labels = {"00": [1], "01": [1, 2], "silent": [0]}
    report = measure([first, second], reference, Bands.classes, labels, resamples=20)
    for system, side in zip(report["systems"], (first, second), strict=True):
        names = pairs(side, reference)
        made, real = side.store.rows(names), reference.store.rows(names)
        figures = system["figures"]
        assert figures["fad"]["count"] == figures["kad"]["count"] == system["pairs"] == len(names)
        once = np.ones((1, len(names)))
        fad = frechet_distances(side.store.embeddings[made], reference.store.embeddings[real], once)[0]
        assert figures["fad"]["value"] == pytest.approx(fad, rel=1e-6)
        logits = side.store.logits[made]
        kl = kl_divergences(logits, reference.store.logits[real], "audioldm_eval").mean()
        assert figures["kl_audioldm_eval"]["value"] == pytest.approx(kl)
        acc = np.nanmean(label_confidences(logits, [labels.get(name, []) for name in names], [0]))
        assert figures["acc"]["value"] == pytest.approx(acc)
        assert figures["acc"]["count"] == 2  # "silent" is only labelled Speech
        for found in figures.values():
            assert found["low"] <= found["value"] <= found["high"]


def test_differences_are_over_the_pairs_that_both_have(sides: list[Side]) -> None:
    reference, first, second = sides
    difference = measure([first, second], reference, Bands.classes, resamples=20)["differences"][0]
    assert difference["of"] == ["first", "second"]
    assert difference["pairs"] == 22
    real = reference.store.logits[reference.store.rows(pairs(first, reference))]
    one, two = (side.store.logits[side.store.rows(pairs(first, reference))] for side in (first, second))
    expected = kl_divergences(one, real, "av_benchmark").mean() - kl_divergences(two, real, "av_benchmark").mean()
    assert difference["figures"]["kl_av_benchmark"]["value"] == pytest.approx(expected)


def test_a_system_equal_to_the_reference(sides: list[Side]) -> None:
    figures = measure([sides[0]], sides[0], Bands.classes, resamples=5)["systems"][0]["figures"]
    assert figures["fad"]["value"] == pytest.approx(0, abs=1e-8)
    assert figures["kl_av_benchmark"]["value"] == pytest.approx(0, abs=1e-9)
    assert figures["cosine"]["value"] == pytest.approx(1)
    assert figures["kad"]["value"] < 0  # unbiased


def test_what_cannot_be_computed_is_said(material: Path, tmp_path: Path) -> None:
    for name in ("reference", "other"):
        write_audio(tmp_path / name / "a.wav", noise(1), RATE)
    reference, other = (
        compute_features(name, tmp_path / name, NoClasses(), 1.0, tmp_path / "out" / name)
        for name in ("reference", "other")
    )
    system = measure([other], reference, ())["systems"][0]
    assert system["figures"].keys() == {"cosine"}
    assert "no classes" in system["not_computed"]["is"]
    assert "two items" in system["not_computed"]["fad"]
    assert "at least 20" in system["not_computed"]["fad_infinity"]
    lone = compute_features("lone", material / "first", NoClasses(), 1.0, tmp_path / "out" / "lone")
    assert not measure([lone], reference, ())["systems"][0]["figures"]  # no pair at all


def test_labels_and_folders_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("name,labels\n00,Dog; cat\n01,\n02,zebra\n", encoding="utf-8")
    assert read_labels(file, Bands.classes) == Labels({"00": [1, 2], "01": [], "02": []}, {}, ["zebra"])
    file.write_text("name,labels,others\n00,dog,cat;dog\n01,,Cat;speech\n02,zebra,cat\n03,cat,lion\n")
    found = read_labels(file, Bands.classes)
    assert found.others == {"00": [2], "01": [0, 2]}  # without items whose own or other classes are all unknown
    assert found.unknown == ["lion", "zebra"]
    file.write_text("stem,classes\n")
    with pytest.raises(ValueError, match="columns name and labels"):
        read_labels(file, Bands.classes)
    file.write_text("name,labels,others\n00,dog,\n,,\n,,\n")
    assert read_labels(file, Bands.classes).own == {"00": [1]}
    file.write_text("name,labels\n00,dog\n00,cat\n")
    with pytest.raises(ValueError, match="00 twice"):
        read_labels(file, Bands.classes)
    with pytest.raises(ValueError, match="is not a folder"):
        find_sounds(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no sounds"):
        find_sounds(tmp_path)


def test_the_command_writes_a_report(material: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "judge.safetensors", tmp_path / "report"
    write_classifier(model, Classifier(3, width=4).eval(), ["Speech", "dog", "cat"])
    (tmp_path / "labels.csv").write_text("name,labels\n00,dog\n")
    options = ["--reference", str(material / "reference"), "--out", str(out), "--model", str(model), "--quiet"]
    both = ["--generated", str(material / "first"), "--generated", str(material / "second"), "--resamples", "20"]
    done = CliRunner().invoke(app, ["folders", *both, *options, "--labels", str(tmp_path / "labels.csv")])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert [system["pairs"] for system in report["systems"]] == [22, 28]
    assert report["systems"][0]["figures"]["acc"]["count"] == 1
    table = (out / "table.md").read_text()
    assert "| Ours (quoted) |  | 0.859 | 1.271 | 0.517 | 2.102 | 0.891 |" in table
    assert "| first | 22 |" in table
    assert "ACC is over the pairs with labels (first: 1 of 22, second: 1 of 28)." in table
    assert "- second: 28 pairs; 2 without a reference, 1 missing, 4 unreadable, 1 silent, 1 clipped" in table
    assert "without avc, ib, cs: There is no encoder of images" in table
    with np.load(out / "features.npz", allow_pickle=False) as features:
        names = {side: features[f"{side}/names"].tolist() for side in ("first", "reference")}
        rows = [names["reference"].index(name) for name in names["first"]]
        made, real = features["first/embeddings"], features["reference/embeddings"][rows]
    expected = frechet_distances(made, real, np.ones((1, 22)))[0]
    assert report["systems"][0]["figures"]["fad"]["value"] == pytest.approx(expected, rel=1e-6)
    twice = ["--generated", str(material / "first"), "--generated", str(material / "first")]
    refused = CliRunner().invoke(app, ["folders", *twice, *options])
    assert refused.exit_code == 1
    assert "different names" in refused.output
    (tmp_path / "labels.csv").write_text("name,labels\n00.wav,dog\n")
    refused = CliRunner().invoke(app, ["folders", *both, *options, "--labels", str(tmp_path / "labels.csv")])
    assert refused.exit_code == 1
    assert "names no sound" in refused.output
