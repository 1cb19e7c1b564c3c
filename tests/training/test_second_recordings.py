"""Second recordings, judges that learn from them, and retrieval, on tones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from training.__main__ import app
from training.data.object_set import ObjectSet
from training.data.waveforms import fill
from training.evaluate.items import read_items
from training.starter.evaluate.classifier import SecondRecipe, _content, _Items
from training.starter.evaluate.honest import Sounds, kind_figures, open_probe, read_sounds, share
from training.starter.evaluate.items import ItemsSettings, write_items
from training.starter.evaluate.retrieval import MelStatistics, gallery_of
from training.starter.second_recordings import SecondRecordings, build, overlap, read_table

TABLE = {
    "packages": {
        "games": {"from": "Debian", "version": "1.0", "licence": "CC0-1.0"},
        "birds": {"from": "PyPI", "version": "2.0", "licence": "CC-BY-4.0"},
    },
    "kinds": [
        {"name": "low", "family": "shape", "objects": ["disc"], "files": {"games": ["low/0.wav", "low/1.wav"]}},
        {"name": "higher one", "family": "shape", "objects": ["square"], "files": {"games": ["high.wav"]}},
        {"name": "gone", "family": "bird", "objects": ["bar"], "files": {"birds": ["bird.wav"]}},
    ],
}


def tone(hertz: float, seconds: float = 0.7) -> Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(16000 * seconds)) / 16000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    (root / "low").mkdir()
    for name, hertz in (("low/0", 215.0), ("low/1", 230.0), ("high", 650.0)):
        write_audio(root / f"{name}.wav", torch.cat([torch.zeros(8000), tone(hertz)]), 16000)
    return root


@pytest.fixture(scope="module")
def second(source: Path, tmp_path_factory: pytest.TempPathFactory) -> SecondRecordings:
    out = tmp_path_factory.mktemp("second")
    rows, missing = build(source, out, TABLE)
    assert missing == ["birds"]
    assert [row.audio for row in rows] == ["audio/low-00.wav", "audio/low-01.wav", "audio/higher-one-00.wav"]
    return SecondRecordings(out)


def test_recordings_keep_their_kind_source_and_licence(second: SecondRecordings) -> None:
    assert [kind.name for kind in second.kinds] == ["low", "higher one"]
    assert second.rows[1].source == "games 1.0 (Debian): low/1.wav"
    assert second.rows[1].licence == "CC0-1.0"
    assert list(second.of("low")) == ["games"]
    assert len(second.of("low")["games"]) == 2
    assert len(second.recordings[0]) == pytest.approx(0.7 * 16000, abs=700)  # without the silence before


def test_the_list_is_whole() -> None:
    table = read_table()
    objects = [name for kind in table["kinds"] for name in kind["objects"]]
    assert len(objects) == len(set(objects)) > 40
    for kind in table["kinds"]:
        assert kind["files"]
        assert kind["files"].keys() <= table["packages"].keys()
    used = {name for kind in table["kinds"] for name in kind["files"]}
    assert used == table["packages"].keys()
    assert all(package["licence"] and package["version"] for package in table["packages"].values())


def test_without_packages_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["starter", "second-recordings", "--source", str(tmp_path)])
    assert ended.exit_code == 1
    assert "apt-get download" in ended.stderr
    with pytest.raises(FileNotFoundError, match="starter second-recordings"):
        SecondRecordings(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kinds": [], "recordings": [{"kind": "x"}]}))
    with pytest.raises(ValueError, match="damaged"):
        SecondRecordings(tmp_path)


def test_overlap_finds_the_same_recording_wherever_it_begins() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8000))).float()
    found = overlap(0.1 * noise[0, 1000:], [noise[0], noise[1], -torch.cat([noise[1], noise[0]])])
    assert found[0] == pytest.approx(math.sqrt(7 / 8), abs=0.01)
    assert found[1] < 0.1
    assert found[2] == pytest.approx(math.sqrt(7 / 16), abs=0.02)


def test_every_source_of_a_kind_is_drawn_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(
        "training.starter.evaluate.classifier.augmented",
        lambda recording, samples, rng: (drawn.append(float(recording[0])), torch.zeros(samples))[1],
    )
    items = _Items([{"a": [torch.full((9,), 1.0)], "b": [torch.full((9,), v) for v in (2.0, 3.0, 4.0)]}], 8000)
    for number in range(300):
        items.item(0, np.random.default_rng(number))
    assert drawn.count(1.0) == pytest.approx(150, abs=35)
    assert drawn.count(3.0) == pytest.approx(50, abs=25)


def test_checkpoints_of_judges_depend_on_recordings_and_settings() -> None:
    recipe = SecondRecipe(loop={"batch": 2, "lr": 1e-3, "steps": 1})  # type: ignore[arg-type]
    one = {"low": {"games": [tone(200)]}}
    assert _content(recipe, one) == _content(recipe, {"low": {"games": [tone(200)]}})
    others = [{"low": {"games": [tone(210)]}}, {"low": {"birds": [tone(200)]}}, {"lower": {"games": [tone(200)]}}]
    assert len({_content(recipe, each) for each in [one, *others]}) == 4


@pytest.mark.parametrize(("hits", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (9, 10, 0.5958, 0.9821)])
def test_intervals_are_wilsons(hits: int, count: int, low: float, high: float) -> None:
    found = share(torch.arange(count) < hits)
    assert found["value"] == hits / count
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


class Bands:
    """A `FeatureModel` of statistics of log-mels, so that no weights are needed."""

    name, rate, seconds, width = "bands", 16_000, 2.56, 192
    classes: tuple[str, ...] = ()

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        return MelStatistics()(waveform)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :0]


def test_a_probe_of_second_recordings_knows_the_others(second: SecondRecordings, stamps_data: ObjectSet) -> None:
    probe = open_probe(second, Bands(), cuts=12)
    labels = {entry.name: entry.label for entry in stamps_data.entries}
    rng = np.random.default_rng(1)
    waveforms = torch.stack([fill(tone(hertz), 40_960, rng) for hertz in (220.0, 660.0, 1760.0)])
    chosen = torch.tensor([labels["disc"], labels["square"], labels["bar"]])  # a bar has no second recording
    found = kind_figures(probe, second, stamps_data, Sounds("x", waveforms, chosen))
    assert found["top1"]["value"] == 1
    assert found["top1"]["count"] == 2
    assert found["chance"] == {"top1": 0.5, "top5": 1.0, "family": 1.0}
    assert found["by_kind"] == {"low": "1 of 1", "higher one": "1 of 1"}
    found = kind_figures(probe, second, stamps_data, Sounds("x", waveforms.flip(0)[1:], chosen[:2]))
    assert found["top1"]["value"] == 0
    assert found["family"]["value"] == 1


def test_retrieval_ranks_the_right_recording_first(stamps_data: ObjectSet) -> None:
    embedding = MelStatistics()
    gallery = gallery_of(stamps_data.recordings, 20_000, embedding)
    rng = np.random.default_rng(3)
    cuts = torch.stack([fill(sound, 20_000, rng) for sound in stamps_data.recordings])
    assert gallery.ranks(embedding(cuts), torch.arange(3)).tolist() == [0, 0, 0]
    assert gallery.ranks(embedding(cuts), torch.tensor([1, 2, 0])).min() >= 1


def test_the_command_measures_systems_beside_the_recordings(
    second: SecondRecordings, source: Path, stamps_folder: Path, stamps_data: ObjectSet, tmp_path: Path
) -> None:
    settings = ItemsSettings(stream=5, per_object=1, pairs=0, backgrounds=1, seconds=1.28)
    items = write_items(stamps_folder, tmp_path / "items", settings)
    sounds = tmp_path / "wrong"
    sounds.mkdir()
    for item in read_items(items)[:3]:
        write_audio(sounds / f"{item.name}.wav", tone(220.0, 1.28), 16000)  # always the disc's
    build(source, tmp_path / "second", TABLE)
    arguments = ["starter", "evaluate", "honest", "--items", str(items), "--generated", str(sounds), "--no-scratch"]
    arguments += ["--data", str(stamps_folder), "--second", str(tmp_path / "second"), "--out", str(tmp_path / "f.json")]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "f.json").read_text())["retrieval"]
    assert found["recordings"]["top1"]["value"] == 1
    assert found["wrong"]["top1"]["value"] == pytest.approx(1 / 3)
    assert "| retrieval | wrong | 0.33 (" in ended.stdout
    with pytest.raises(ValueError, match="cannot be read"):
        read_sounds("none", tmp_path / "none", read_items(items), stamps_data, 1.28)
