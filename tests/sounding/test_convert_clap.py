"""CLAP and its tokenizer in each published form against transformers and LAION's own code."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizer

from sounding.config import SoundingConfig
from sounding.convert.clap import read_clap, read_tokenizer
from sounding.encoders.audio import ClapAudioQuery, repeat_to_length
from sounding.encoders.text import build_query_encoder
from sounding.weights import WeightsError

from .published_weights import built, clap_peer, laion_text_name

__all__ = ["clap_peer"]


def laion_name(name: str) -> str:
    """transformers' names to LAION's, but for q, k and v."""
    name = laion_text_name(name)
    if not name.startswith("audio_model"):
        return name
    for ours, theirs in {
        "audio_model.audio_encoder": "audio_branch",
        "attention.output.dense": "attn.proj",
        "attention.self": "attn",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "batch_norm": "bn0",
    }.items():
        name = name.replace(ours, theirs)
    return name


def laion_state(peer: ClapModel) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in peer.state_dict().items():
        if name.startswith("audio_model") and any(f".self.{one}." in name for one in ("query", "key", "value")):
            if ".query." in name:
                parts = [peer.state_dict()[name.replace(".query.", f".{one}.")] for one in ("query", "key", "value")]
                state[laion_name(name).replace("attn.query", "attn.qkv")] = torch.cat(parts)
        else:
            state[laion_name(name)] = value
    beside = {"audio_branch.head.weight": 3, "audio_branch.tscam_conv.bias": 3, "audio_transform.sequential.0.bias": 3}
    beside |= {
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": 3,
        "audio_branch.layers.0.blocks.1.attn_mask": 2,
    }
    return state | {name: torch.zeros(size) for name, size in beside.items()}


@pytest.mark.parametrize("form", ["folder", "old folder", "laion", "laion, parallel"])
def test_clap_embeddings_are_the_same_from_every_form(form: str, clap_peer: ClapModel, tmp_path: Path) -> None:
    path = tmp_path / "clap"
    if "folder" in form:
        clap_peer.save_pretrained(path)
        if form.startswith("old"):
            (path / "model.safetensors").unlink()
            torch.save(clap_peer.state_dict(), path / "pytorch_model.bin")
    else:
        prefix = "module." if "parallel" in form else ""
        state = {prefix + name: value for name, value in laion_state(clap_peer).items()}
        path = tmp_path / "clap.pt"
        torch.save({"epoch": 1, "name": "clap", "state_dict": state}, path)
    ids, mask = torch.tensor([[0, 90, 91, 2], [0, 92, 2, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    sounds = 0.1 * torch.randn(2, 480_000)
    text, audio = built(read_clap(path)), built(read_clap(path, "audio"))
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    features = extractor(list(sounds.numpy()), sampling_rate=48_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        for got, expected in (
            (text(ids, mask), clap_peer.get_text_features(input_ids=ids, attention_mask=mask)),
            (audio.encode(sounds, 48_000), clap_peer.get_audio_features(input_features=features)),
        ):
            expected = getattr(expected, "pooler_output", expected)
            assert torch.cosine_similarity(got, expected).min() >= 0.99999
            torch.testing.assert_close(got.norm(dim=-1), torch.ones(2))


def test_sounds_of_any_length_are_heard_as_clap_hears_them(clap_peer: ClapModel, tmp_path: Path) -> None:
    clap_peer.save_pretrained(tmp_path)
    audio: ClapAudioQuery = built(read_clap(tmp_path, "audio"))
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    for samples in (480_000, 130_000, 300_001):
        sound = 0.1 * torch.randn(1, samples)
        expected = extractor(sound[0].numpy(), sampling_rate=48_000, return_tensors="pt")["input_features"]
        got = audio.features(repeat_to_length(sound, 480_000))
        torch.testing.assert_close(got, expected.view_as(got), atol=2e-2, rtol=1e-3)  # decibels, of float32 spectra
    long = torch.randn(1, 700_000)
    torch.testing.assert_close(audio.encode(long, 48_000), audio.encode(long[:, :480_000], 48_000))
    with pytest.raises(ValueError, match=r"sound has shape \(3,\), but finite \[B, samples\]"):
        audio.encode(torch.zeros(3), 16_000)


def test_fused_clap_is_named(clap_peer: ClapModel, tmp_path: Path) -> None:
    state = laion_state(clap_peer) | {"audio_branch.patch_embed.mel_conv2d.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "fusion.pt")
    with pytest.raises(WeightsError, match=r"is a fused CLAP.*630k-audioset-best"):
        read_clap(tmp_path / "fusion.pt", "audio")


def laion_module(size: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """LAION's own CLAP at its own audio size (two text layers), without the network that it asks for."""
    spec = importlib.util.find_spec("laion_clap")
    assert spec is not None
    assert spec.origin is not None
    monkeypatch.syspath_prepend(str(Path(spec.origin).parent))
    from transformers import RobertaConfig, RobertaModel

    def roberta(name: str) -> RobertaModel:
        sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
        return RobertaModel(RobertaConfig(num_hidden_layers=2, **sizes))

    import clap_module.model as laion

    monkeypatch.setattr(laion.RobertaModel, "from_pretrained", roberta)
    settings = json.loads((Path(spec.origin).parent / "clap_module" / "model_configs" / f"{size}.json").read_text())
    settings["text_cfg"]["model_type"] = "roberta"
    return laion.CLAP(**settings).eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("laion_clap"), reason="laion_clap is not installed")
@pytest.mark.parametrize("size", ["HTSAT-tiny", "HTSAT-base"])
def test_clap_is_laions_own(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = laion_module(size, monkeypatch)
    peer.audio_branch.bn0.running_mean.normal_(-20, 5)
    peer.audio_branch.bn0.running_var.uniform_(50, 200)
    torch.save({"state_dict": {f"module.{n}": v for n, v in peer.state_dict().items()}}, tmp_path / "clap.pt")
    text, audio = built(read_clap(tmp_path / "clap.pt")), built(read_clap(tmp_path / "clap.pt", "audio"))
    tokens = {"input_ids": torch.tensor([[0, 90, 91, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    sound = 0.1 * torch.randn(1, 480_000)
    with torch.no_grad():
        said = peer.get_text_embedding(tokens)
        heard = peer.get_audio_embedding([{"waveform": sound[0], "longer": torch.tensor(False)}])
    assert torch.cosine_similarity(text(**tokens), said).min() >= 0.99999
    assert torch.cosine_similarity(audio.encode(sound, 48_000), heard).min() >= 0.99999


# The tokenizer


@pytest.fixture(scope="module")
def roberta_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt as RoBERTa has them, learned from a few sentences."""
    folder = tmp_path_factory.mktemp("roberta")
    trained = ByteLevelBPETokenizer()
    sentences = ["a dog barks at the rain", "rain falls on a tin roof", "the dog sleeps", "a bell rings twice"] * 20
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(sentences, vocab_size=320, min_frequency=2, special_tokens=special)
    trained.save_model(str(folder))
    return folder


SENTENCES = ["a dog barks", " The rain,  falls!\n", "Größe 東京 🐕", "twice <mask> rings", "a" * 900]


@pytest.mark.parametrize("form", ["vocab and merges", "tokenizer.json"])
def test_tokenizer_is_robertas(form: str, roberta_files: Path, tmp_path: Path) -> None:
    peer = RobertaTokenizer.from_pretrained(str(roberta_files), local_files_only=True, model_max_length=512)
    folder = roberta_files
    if form == "tokenizer.json":
        folder = tmp_path
        peer.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").is_file()
    data = read_tokenizer(folder)
    config = dataclasses.replace(SoundingConfig().query, layers=1, hidden=64, heads=1, tokenizer_bytes=len(data))
    query = build_query_encoder(config)
    query.tokenizer.copy_(data)  # type: ignore[union-attr, operator]
    ids, mask = query._tokens(SENTENCES)  # type: ignore[union-attr, operator]
    expected = peer(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    assert ids.tolist() == expected["input_ids"].tolist()
    assert mask.tolist() == expected["attention_mask"].tolist()


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"neither tokenizer.json nor vocab.json.*fetch clap-tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="damaged tokenizer"):
        read_tokenizer(tmp_path)
