"""Steps with models: scores, tags and captions are those of the models, asked directly."""

from __future__ import annotations

import pickle
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
from training.refine.chat import Local
from training.refine.lists import list_clips
from training.refine.ontology import EMPTY, read_ontology
from training.refine.settings import CaptionSettings, EventSettings, MatchingSettings, RephraseSettings
from training.refine.step import measured
from training.refine.steps.captions import Blip, CaptionStep, NameCaptioner, joined
from training.refine.steps.events import EventStep
from training.refine.steps.matching import MatchingStep, NameScorer
from training.refine.steps.rephrase import RephraseStep

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
    def __init__(self, *captions: str):
        self.captions = captions

    def caption(self, frames: Tensor) -> list[str]:
        assert len(frames) == len(self.captions)
        return list(self.captions)


def test_captions_of_frames_are_joined_in_time(row: Row, tmp_path: Path) -> None:
    audio = tmp_path / "captions.csv"
    audio.write_text(f'id,caption\n{row["id"]},"a  tone, then\x07 a higher one"\nother,x\n')
    step = CaptionStep(CaptionSettings(frames="none", audio=str(audio), frames_per_second=2.0))
    step.open()
    step.captioner = Says("a dog", "a  dog", "", "a cat")
    found, other = step.measure([row, {**row, "id": "third", "tags": ["Bark", "Rain"]}])
    assert joined(found["frame_captions"]) == "a dog and then a cat"
    assert found["audio_caption"] == r"a tone, then\x07 a higher one"
    assert other["audio_caption"] == "Bark, Rain"  # the captioner has none of it
    (without,) = step.measure([row | {"id": "fourth"}])
    assert without["audio_caption"] == "Bark, yap"


def test_a_file_without_captions_is_refused(tmp_path: Path) -> None:
    for text in ("name,text\na,b\n", "\xff\xfe"):
        (tmp_path / "captions.csv").write_bytes(text.encode("latin-1"))
        step = CaptionStep(CaptionSettings(frames="none", audio=str(tmp_path / "captions.csv")))
        with pytest.raises(ValueError, match="CSV of captions"):
            step.open()


def test_the_namer_in_the_box_captions_frames() -> None:
    captions = NameCaptioner(CaptionSettings(device="cpu")).caption(
        torch.cat([frames_of("yard.png"), torch.full((1, 288, 288, 3), 0.5)])
    )
    assert captions[1] == ""  # nothing is named in a grey image
    assert len(captions) == 2


def tokenizer_of(words: list[str], folder: Path) -> None:
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *words]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def test_blip_captions_frames_from_its_folder(tmp_path: Path) -> None:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = ["a", "dog", "cat", "runs", "and", "barks"]
    tokenizer_of(words, tmp_path)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **tiny, "vocab_size": 7 + len(words), "max_position_embeddings": 64, "encoder_hidden_size": 16,
            "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3,
        },
        vision_config={**tiny, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(tmp_path / "vocab.txt"))).save_pretrained(tmp_path)
    frames = torch.rand(2, 40, 40, 3)
    found = Blip(CaptionSettings(frames="blip", blip=str(tmp_path), device="cpu")).caption(frames)
    with torch.inference_mode():
        pixels = images(list((frames * 255).to(torch.uint8).numpy()), return_tensors="pt").pixel_values
        tokens = model.generate(pixel_values=pixels, max_new_tokens=30, do_sample=False)
    assert found == BertTokenizer(str(tmp_path / "vocab.txt")).batch_decode(tokens, skip_special_tokens=True)
    assert len(found) == 2


def test_a_folder_without_a_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no folder of a BLIP model"):
        Blip(CaptionSettings(frames="blip", blip=str(tmp_path)))
    with pytest.raises(StopRun, match="is no folder of a language model"):
        Local(RephraseSettings(by="transformers", folder=str(tmp_path)))


def test_a_language_model_here_is_checked_as_one_elsewhere(row: Row, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "dog", "bark", "rain", "while", "a", "the"]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", eos_token="</s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=1,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    step = RephraseStep(RephraseSettings(by="transformers", folder=str(tmp_path), device="cpu"))
    step.open()
    heard = {**row, "audio_caption": "a bark", "frame_captions": ["a dog"]}
    (found,) = measured(step, [heard])
    assert found["rephrase_error"] == ""
    assert (found["caption"], found["caption_by"], found["caption_tries"]) == ("Bark, yap", "labels", 1)
    assert found["caption_problem"]  # random weights write no sentence
