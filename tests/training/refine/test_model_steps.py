"""Steps with models: scores, tags and captions are those of the models, asked directly."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.cluster.rows import Row
from training.cluster.stage import StopRun
from training.data.videos import read_frames, read_sound
from training.evaluate.features import open_features
from training.evaluate.models.classifier import Classifier, write_classifier
from training.evaluate.models.panns import FRONT_ENDS, Cnn14, PannsFeatures
from training.matching.checkpoint import write_matching
from training.matching.encoders import MelPatches, open_visual
from training.matching.network import MatchingConfig, MatchingNetwork
from training.matching.score import Matcher
from training.refine.lists import list_clips
from training.refine.ontology import EMPTY, read_ontology
from training.refine.settings import CaptionSettings, EventSettings, MatchingSettings
from training.refine.steps.captions import MOST_SEEN, CaptionStep, in_time, joined
from training.refine.steps.events import EventStep
from training.refine.steps.matching import MatchingStep, NameScorer

from .material import settings_of

CLASSES = ["Dog", "Guitar", "Rain", "Chime"]
EXAMPLES = Path(__file__).parents[3] / "example_workflows" / "input"


@pytest.fixture(scope="module")
def row(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Row:
    """The second clip of a video, as the first step leaves it."""
    listed = list_clips(settings_of(material, tmp_path_factory.mktemp("settings") / "out"))
    return {**listed.rows[1], "sound_seconds": 2.0, "tags": None}


@pytest.fixture(scope="module")
def sound(row: Row) -> Tensor:
    return torch.from_numpy(read_sound(Path(row["path"]), 2.0, 2.0))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("models") / "judge.safetensors"
    write_classifier(file, Classifier(len(CLASSES), width=4).eval(), CLASSES)
    return file


def test_events_are_those_that_the_classifier_hears(row: Row, sound: Tensor, classifier: Path, material: Path) -> None:
    ontology = read_ontology(material / "ontology.json")
    settings = EventSettings(model=str(classifier), keep=0.01, threshold=0.02, drop=("/m/music",), spare=("/m/bell",))
    step = pickle.loads(pickle.dumps(EventStep(settings, ontology)))
    step.open()
    (found,) = step.measure([row])
    heard = open_features(classifier)
    wanted = heard.logits(heard.embed(sound[None], 16_000))[0].softmax(dim=-1)
    assert dict(zip(found["tags"], found["tag_scores"], strict=True)) == pytest.approx(
        {name: float(wanted[number]) for number, name in enumerate(CLASSES)}, abs=1e-5
    )
    assert found["tag_scores"] == sorted(found["tag_scores"], reverse=True)
    assert step.verdict(found) == "Guitar is heard."  # a kind of music; the chime is spared
    assert not step.verdict({"tags": ["Guitar", "Chime"], "tag_scores": [0.01, 0.9]})


def test_events_of_panns_do_not_exclude_each_other(row: Row, sound: Tensor, classifier: Path) -> None:
    network = Cnn14(FRONT_ENDS[512], len(CLASSES), width=2).eval()
    step = EventStep(EventSettings(model=str(classifier), keep=0.0, threshold=0.0, drop=(), spare=()), EMPTY)
    step.tagger = PannsFeatures(network, tuple(CLASSES), "tiny")
    (found,) = step.measure([row])
    with torch.inference_mode():
        wanted = network.fc_audioset(network(sound[None]))[0].sigmoid()
    assert found["tag_scores"] == pytest.approx(sorted(wanted.tolist(), reverse=True), abs=1e-5)


def test_a_trained_matching_model_gives_the_score(
    row: Row, sound: Tensor, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    visual, audio = open_visual(str(tiny_checkpoint)), MelPatches()
    sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "hidden": 8, "feedforward": 16}
    network = MatchingNetwork(MatchingConfig(visual=visual.config, audio=audio.config, seconds=2.0, **sizes)).eval()
    file = tmp_path / "matching.safetensors"
    write_matching(file, network)
    settings = MatchingSettings(model=str(file), visual=str(tiny_checkpoint), frames_per_second=2.0, size=48)
    step = MatchingStep(settings)
    step.open()
    (found,) = step.measure([row])
    frames = np.stack(read_frames(Path(row["path"]), [2.25, 2.75, 3.25, 3.75], 48))
    wanted = Matcher(network, visual, audio).score(torch.from_numpy(frames), sound, 16_000)
    assert found["matching_score"] == pytest.approx(wanted, abs=1e-4)
    assert "do not match" in step.verdict({"matching_score": 0.59})
    assert not step.verdict({"matching_score": 0.6})
    assert not step.missing()


class Hears:
    """A classifier that is sure of one class."""

    classes = ("rooster", "dog", "tractor", "train")

    def __init__(self) -> None:
        self.heard = 0

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        return waveform[:, :1]

    def logits(self, embeddings: Tensor) -> Tensor:
        return 50 * torch.nn.functional.one_hot(torch.tensor([self.heard]), len(self.classes)).float()


def frames_of(name: str) -> Tensor:
    image = Image.open(EXAMPLES / name).convert("RGB").resize((288, 288))
    return torch.from_numpy(np.asarray(image)[None].copy()).float() / 255


def test_the_stand_in_compares_what_is_heard_with_what_is_seen(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears = Hears()
    monkeypatch.setattr("training.evaluate.features.open_features", lambda path: hears)
    scorer = NameScorer(MatchingSettings(scorer="names", sounds=str(classifier), device="cpu"))
    scores = []
    for number in range(len(hears.classes)):
        hears.heard = number
        scores += scorer.score([torch.zeros(16_000)], [frames_of("yard.png")])  # a dog and a rooster
    assert all(0 <= score <= 1 for score in scores)
    assert min(scores[:2]) > max(scores[2:])
    step = MatchingStep(MatchingSettings(scorer="names", sounds=str(classifier)))
    assert "no audio-visual matching model" in step.missing()


def test_a_classifier_without_classes_stops_the_run(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hears = Hears()
    monkeypatch.setattr(hears, "classes", (), raising=False)
    monkeypatch.setattr("training.evaluate.features.open_features", lambda path: hears)
    with pytest.raises(StopRun, match="has no classes"):
        NameScorer(MatchingSettings(scorer="names", sounds=str(classifier)))


class Says:
    """Captions in turn; asked once for all clips."""

    def __init__(self, *captions: str):
        self.captions = captions

    def caption(self, frames: Sequence[np.ndarray]) -> list[str]:
        assert len(frames) == len(self.captions)
        assert all(frame.dtype == np.uint8 and frame.shape[2] == 3 for frame in frames)
        return list(self.captions)


class Hums:
    """Captions a sound by its length."""

    def caption(self, sounds: Sequence[np.ndarray]) -> list[str]:
        return [f" a hum \n of {len(sound) / 16_000:.0f} s\u202e " for sound in sounds]


def test_captions_of_frames_are_joined_in_time(row: Row, tmp_path: Path) -> None:
    audio = tmp_path / "captions.csv"
    audio.write_text(f'id,caption\n{row["id"]},"a  tone, then\x07 a higher one"\nother,x\n')
    step = CaptionStep(CaptionSettings(frames="none", audio=str(audio), frames_per_second=2.0))
    step.open()
    step.sees = Says("a dog", "A  dog", "", "a cat", "a cat", "a cat", "a dog", "a cat", "", "", "", "")
    found, other, third = step.measure([row, {**row, "id": "third", "tags": ["Bark", "Rain"]}, {**row, "id": "fourth"}])
    assert joined(found["frame_captions"]) == "a dog and then a cat"
    assert joined(other["frame_captions"]) == "a cat and then a dog and then a cat"
    assert third["frame_captions"] == []
    assert found["audio_caption"] == r"a tone, then\x07 a higher one"
    assert other["audio_caption"] == "Bark, Rain"  # the captioner has none of it
    assert third["audio_caption"] == "Bark, yap"
    # A model captions what the file does not have.
    step.sees, step.hears = None, Hums()
    found, other = step.measure([row, {**row, "id": "third", "tags": ["Bark", "Rain"]}])
    assert found["audio_caption"] == r"a tone, then\x07 a higher one"
    assert other["audio_caption"] == r"a hum of 2 s\u202e"


def test_captions_of_frames_have_an_end() -> None:
    assert in_time(["a dog " * 100])[0].endswith("...")
    many = in_time([f"a dog and {number} cats" for number in range(1000)])
    assert 1900 < len(joined(many)) <= MOST_SEEN
    assert many[0] == "a dog and 0 cats"


def test_results_without_an_audio_captioner_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    plain = CaptionStep(CaptionSettings())
    assert set(plain.settings()) == {"models", "frames", "frames_per_second", "size"}
    asked = [CaptionStep(CaptionSettings(audio_model=str(tmp_path), audio_prompt=text)) for text in ("", "What?")]
    assert len({step.fingerprint({}) for step in (plain, *asked)}) == 3
    assert "no audio captions" in plain.missing()
    assert "no audio captions" not in asked[0].missing()


def test_workers_without_a_model_do_without_torch() -> None:
    code = """
import sys
from training.refine.settings import CaptionSettings, RephraseSettings
from training.refine.steps.captions import CaptionStep
from training.refine.steps.rephrase import RephraseStep
CaptionStep(CaptionSettings(frames="none")).open()
RephraseStep(RephraseSettings(by="endpoint", url="http://127.0.0.1/v1", model="any")).open()
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parents[1], check=False).returncode == 0


def test_a_file_without_captions_is_refused(tmp_path: Path) -> None:
    for text in ("name,text\na,b\n", "\xff\xfe"):
        (tmp_path / "captions.csv").write_bytes(text.encode("latin-1"))
        step = CaptionStep(CaptionSettings(frames="none", audio=str(tmp_path / "captions.csv")))
        with pytest.raises(ValueError, match="CSV of captions"):
            step.open()
