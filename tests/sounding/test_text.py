"""Query encoders against the libraries they come from."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer
from transformers import ClapConfig, ClapModel

from sounding.config import QueryConfig
from sounding.convert.clap import read_tokenizer
from sounding.encoders.text import build_query_encoder

OPEN_CLIP = QueryConfig(tower="open_clip", width=16, layers=2, heads=2, hidden=32, context_length=16, tokenizer="")
CLAP = QueryConfig(width=16, layers=2, heads=2, hidden=32)
SENTENCES = ["a dog", "rain falls on a tin roof"]


def build(config: QueryConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_query_encoder(config).eval().requires_grad_(False)


def test_open_clip_query_is_its_text_tower() -> None:
    query = build(OPEN_CLIP)
    peer = TextTransformer(context_length=16, width=32, heads=2, layers=2, output_dim=16).eval()
    peer.load_state_dict(query.tower.state_dict())
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=16)(SENTENCES)
    with torch.no_grad():
        torch.testing.assert_close(query.encode(SENTENCES), peer(tokens))


def test_a_sentence_does_not_depend_on_its_batch() -> None:
    query = build(OPEN_CLIP)
    together = query.encode(SENTENCES)
    assert together.shape == (2, 16)
    torch.testing.assert_close(query.encode(SENTENCES[:1]), together[:1])
    torch.testing.assert_close(query.encode(["  a dog\n"]), together[:1])
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_long_sentences_are_cut() -> None:
    query = build(OPEN_CLIP)
    long = " ".join(["dog"] * 30)
    torch.testing.assert_close(query.encode([long]), query.encode([long + " cat"]))


@pytest.mark.parametrize("texts", [[], [""], ["a dog", "  "], [None]])
def test_sentences_must_say_something(texts: list) -> None:
    with pytest.raises(ValueError, match=r"text is .* a sentence is expected"):
        build(OPEN_CLIP).encode(texts)


def test_clap_query_is_claps_normalised_text_feature() -> None:
    query = build(CLAP)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    audio = {"hidden_size": 32, "depths": [1], "num_attention_heads": [2], "patch_embeds_hidden_size": 16}
    peer = ClapModel(ClapConfig(text_config=sizes, audio_config=audio, projection_dim=16)).eval()
    missing = peer.load_state_dict(query.tower.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    ids = torch.tensor([[0, 100, 200, 2], [0, 300, 2, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        features = peer.get_text_features(input_ids=ids, attention_mask=mask)
    features = getattr(features, "pooler_output", features)
    ours = query(ids, mask)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(2))


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A byte-pair tokenizer of single letters, in the form of CLAP's."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_clap_sentence_does_not_depend_on_its_padding(tokenizer_folder: Path) -> None:
    query = build(QueryConfig(width=16, layers=2, heads=2, hidden=32))
    query.tokenizer = read_tokenizer(tokenizer_folder)
    together = query.encode(SENTENCES)
    torch.testing.assert_close(query.encode(SENTENCES[:1]), together[:1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_missing_tokenizer_is_named_not_downloaded(tmp_path: Path) -> None:
    query = build(QueryConfig(width=16, layers=1, heads=2, hidden=32, tokenizer=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"nowhere.* neither in the checkpoint nor.*--tokenizer FOLDER"):
        query.encode(["a dog"])


@pytest.mark.parametrize(
    "name", ["laion/clap-htsat-unfused", "bert-base-uncased", "hf-hub:x/y", "https://example.org/x", "FOLDER", "../.."]
)
def test_a_tokenizers_name_leads_to_no_network_and_no_folder(
    name: str, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    query = build(
        QueryConfig(width=16, layers=1, heads=2, hidden=32, tokenizer=name.replace("FOLDER", str(tokenizer_folder)))
    )
    with pytest.raises(FileNotFoundError, match="neither in the checkpoint"):
        query.encode(["a dog"])


def test_a_known_tokenizer_comes_out_of_the_cache(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    whole = tmp_path / "cached.json"
    whole.write_bytes(read_tokenizer(tokenizer_folder).numpy().tobytes())
    asked: list[tuple[str, str]] = []

    def cached(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    query = build(QueryConfig(width=16, layers=1, heads=2, hidden=32))
    other = build(QueryConfig(width=16, layers=1, heads=2, hidden=32))
    other.load_state_dict(query.state_dict())
    other.tokenizer = read_tokenizer(tokenizer_folder)
    torch.testing.assert_close(query.encode(["a dog"]), other.encode(["a dog"]))
    assert asked == [("laion/clap-htsat-unfused", "tokenizer.json")]


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}},
        {"model": {"type": "BPE", "vocab": {"a": 4_000_000_000, "Ġ": 1}, "merges": []}},
        {"model": 5},
    ],
)
def test_tokenizers_of_other_kinds_are_refused(changes: dict, tokenizer_folder: Path) -> None:
    data = json.loads(read_tokenizer(tokenizer_folder).numpy().tobytes())
    query = build(QueryConfig(width=16, layers=1, heads=2, hidden=32))
    query.tokenizer = torch.frombuffer(bytearray(json.dumps(data | changes).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match="checkpoint's tokenizer") as error:
        query.encode(["a dog"])
    assert "\n" not in str(error.value)
