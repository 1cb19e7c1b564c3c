"""CLIP, CLAP and HiFi-GAN in each published form against the libraries that define them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)
from typer.testing import CliRunner

import sounding
from sounding.cli import app
from sounding.config import SoundingConfig
from sounding.convert.assemble import _fill, convert
from sounding.convert.clap import read_clap, read_tokenizer
from sounding.convert.clip import _config, read_clip
from sounding.convert.hifigan import read_hifigan
from sounding.convert.read import Converted, ConvertError
from sounding.listen import ClapAudioQuery
from sounding.networks import build_vocoder
from sounding.text import build_query_encoder
from sounding.vision import PatchEncoder

from .published import FILM, TINY_CLIP, audioldm_pipeline, laion_text_name, louder, tiny_clip

__all__ = ["tiny_clip"]

WIDTH, LAYERS = int(TINY_CLIP["width"]), int(TINY_CLIP["layers"])


def built(converted: Converted) -> Any:
    """Our module with the converted weights, loaded as a conversion loads them."""
    kind = PatchEncoder if hasattr(converted.config, "grid") else build_query_encoder
    part = kind(converted.config).eval().requires_grad_(False)  # type: ignore[arg-type]
    _fill(part, converted, Path("peer"))
    return part


# CLIP


@pytest.fixture
def clip_peer(tiny_clip: Path) -> Any:
    """A small CLIP of open_clip, with OpenAI's activation."""
    return open_clip.create_model("tiny-vit", force_quick_gelu=True).eval().requires_grad_(False)


class OpenAi(nn.Module):
    """What OpenAI's TorchScript archives hold: `visual`, and three numbers as buffers."""

    def __init__(self, peer: Any):
        super().__init__()
        self.visual = peer.visual
        for name, value in (("input_resolution", 48), ("context_length", 77), ("vocab_size", 64)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


def transformers_clip(peer: Any) -> CLIPVisionModelWithProjection:
    """The same weights in transformers' class."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        intermediate_size=4 * WIDTH,
        patch_size=TINY_CLIP["patch_size"],
        image_size=TINY_CLIP["image_size"],
        projection_dim=FILM,
        hidden_act="quick_gelu",
    )
    theirs, visual = CLIPVisionModelWithProjection(config).eval().requires_grad_(False), peer.visual
    vision, copy = theirs.vision_model, lambda to, source: to.load_state_dict(source.state_dict())
    vision.embeddings.class_embedding.copy_(visual.class_embedding)
    vision.embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
    vision.embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    copy(vision.pre_layrnorm, visual.ln_pre)
    copy(vision.post_layernorm, visual.ln_post)
    theirs.visual_projection.weight.copy_(visual.proj.T)
    for layer, block in zip(vision.encoder.layers, visual.transformer.resblocks, strict=True):
        copy(layer.layer_norm1, block.ln_1)
        copy(layer.layer_norm2, block.ln_2)
        copy(layer.mlp.fc1, block.mlp.c_fc)
        copy(layer.mlp.fc2, block.mlp.c_proj)
        copy(layer.self_attn.out_proj, block.attn.out_proj)
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            getattr(layer.self_attn, f"{name}_proj").weight.copy_(weight)
            getattr(layer.self_attn, f"{name}_proj").bias.copy_(bias)
    return theirs


def test_clip_patches_are_the_same_from_every_form(clip_peer: Any, tmp_path: Path) -> None:
    clip_peer.half().float()  # all forms hold what OpenAI's half precision holds
    state = clip_peer.state_dict()
    described = {"model_cfg": {"quick_gelu": True}}
    forms: dict[str, Path] = {}
    for name in ("safetensors", "bin"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        path = folder / f"open_clip_model.{name}"
        save_file(state, path) if name == "safetensors" else torch.save(state, path)
        forms[name], forms[f"{name} folder"] = path, folder
    theirs = transformers_clip(clip_peer)
    theirs.save_pretrained(tmp_path / "transformers")
    forms["transformers"] = tmp_path / "transformers"
    forms["transformers file"] = tmp_path / "transformers" / "model.safetensors"
    archive = OpenAi(open_clip.create_model("tiny-vit", force_quick_gelu=True)).eval()
    archive.visual.load_state_dict(clip_peer.visual.state_dict())
    traced = torch.jit.trace(archive.half(), torch.zeros(1, 3, 48, 48).half(), check_trace=False)
    torch.jit.save(traced, tmp_path / "OpenAI.pt")
    forms["OpenAI archive"] = tmp_path / "OpenAI.pt"
    torch.save(archive.state_dict(), tmp_path / "state.pt")
    forms["OpenAI state"] = tmp_path / "state.pt"

    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        hidden = theirs.vision_model(pixels).last_hidden_state
        patches = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden[:, 1:]))
        pooled = theirs(pixels).image_embeds
        torch.testing.assert_close(clip_peer.encode_image(pixels), pooled, atol=1e-5, rtol=1e-4)
    for name, path in forms.items():
        encoder = built(read_clip(path))
        assert encoder.config.quick_gelu, name
        torch.testing.assert_close(encoder.encode_pixels(pixels), patches, atol=1e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(encoder.tower(pixels)[0], pooled, atol=1e-5, rtol=1e-4, msg=name)


def test_clip_that_does_not_say_its_activation(clip_peer: Any, tmp_path: Path) -> None:
    save_file(clip_peer.state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(ConvertError, match=r"does not say whether.*--quick-gelu"):
        read_clip(tmp_path / "clip.safetensors")
    for quick in (True, False):
        assert read_clip(tmp_path / "clip.safetensors", quick_gelu=quick).config.quick_gelu == quick
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    assert not read_clip(tmp_path / "clip.safetensors").config.quick_gelu  # LAION's


@pytest.mark.parametrize(
    ("model", "width", "grid", "size"),
    [("ViT-B-32", 512, 7, 224), ("ViT-B-16", 512, 14, 224), ("ViT-L-14", 768, 16, 224), ("ViT-L-14-336", 768, 24, 336)],
)
def test_clip_sizes_are_known(model: str, width: int, grid: int, size: int) -> None:
    described = open_clip.get_model_config(model)
    with torch.device("meta"):
        state = _build_vision_tower(described["embed_dim"], CLIPVisionCfg(**described["vision_cfg"])).state_dict()
    config = _config(state, Path("clip"))
    assert (config.model, config.width, config.grid, config.image_size) == (model, width, grid, size)
    with torch.device("meta"):
        ours = PatchEncoder(config).tower.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in state.items()}


def test_other_towers_are_named(tmp_path: Path) -> None:
    save_file({"visual.layer1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ConvertError, match=r"has no 'conv1.weight'.*CLIP ViT image tower"):
        read_clip(tmp_path / "resnet.safetensors")
    state = {
        "visual.conv1.weight": torch.zeros(8, 3, 4, 4),
        "visual.positional_embedding": torch.zeros(5, 8),
        "visual.proj": torch.zeros(8, 4),
    }
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(ConvertError, match=r"width 8 with 0 layers and patches of 4 at 8 pixels.*ViT-B-32"):
        read_clip(tmp_path / "small.safetensors")


# CLAP


@pytest.fixture(scope="module")
def clap_peer() -> ClapModel:
    torch.manual_seed(3)
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    audio = {"hidden_size": 64, "depths": [2, 2, 1], "num_attention_heads": [2, 4, 8], "patch_embeds_hidden_size": 16}
    peer = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24)).eval().requires_grad_(False)
    norm = peer.audio_model.audio_encoder.batch_norm
    norm.running_mean.normal_(-20, 5)
    norm.running_var.uniform_(50, 200)
    return peer


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
        from sounding.listen import repeat_to_length

        got = audio.features(repeat_to_length(sound, 480_000))
        torch.testing.assert_close(got, expected.view_as(got), atol=2e-2, rtol=1e-3)  # decibels, of float32 spectra
    long = torch.randn(1, 700_000)
    torch.testing.assert_close(audio.encode(long, 48_000), audio.encode(long[:, :480_000], 48_000))
    with pytest.raises(ValueError, match=r"sound has shape \(3,\), but finite \[B, samples\]"):
        audio.encode(torch.zeros(3), 16_000)


def test_fused_clap_is_named(clap_peer: ClapModel, tmp_path: Path) -> None:
    state = laion_state(clap_peer) | {"audio_branch.patch_embed.mel_conv2d.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "fusion.pt")
    with pytest.raises(ConvertError, match=r"is a fused CLAP.*630k-audioset-best"):
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


# CLAP's tokenizer


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
    with pytest.raises(ConvertError, match=r"neither tokenizer.json nor vocab.json.*fetch clap-tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConvertError, match="damaged tokenizer"):
        read_tokenizer(tmp_path)


# HiFi-GAN


@pytest.fixture
def hifigan_peer() -> SpeechT5HifiGan:
    config = SpeechT5HifiGanConfig(
        model_in_dim=64,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        normalize_before=False,
    )
    peer = SpeechT5HifiGan(config).eval().requires_grad_(False)
    louder(peer)
    return peer


@pytest.mark.parametrize("form", ["folder", "generator", "generator, newer names", "generator with its config"])
def test_vocoder_is_the_same_from_every_form(form: str, hifigan_peer: SpeechT5HifiGan, tmp_path: Path) -> None:
    path = tmp_path / "vocoder"
    mel = torch.randn(2, 20, 64)
    if form == "folder":
        hifigan_peer.save_pretrained(path)
    else:
        normed = torch.nn.utils.parametrizations.weight_norm if "newer" in form else torch.nn.utils.weight_norm
        for module in list(hifigan_peer.modules()):
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                normed(module)
        for name, weight in hifigan_peer.named_parameters():
            if name.endswith(("weight_g", "original0")):
                weight.data.mul_(1.1)  # so that the magnitude matters
        state = {
            n.replace("upsampler", "ups"): v for n, v in hifigan_peer.state_dict().items() if n not in ("mean", "scale")
        }
        torch.save({"generator": state}, tmp_path / "vocoder.pt")
        path = tmp_path / "vocoder.pt"
        if "config" in form:
            written = {"upsample_rates": [5, 4, 2, 2, 2], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "resblock": "1"}
            (tmp_path / "config.json").write_text(json.dumps(written))
    converted = read_hifigan(path)
    ours = build_vocoder(SoundingConfig(vocoder=converted.config)).requires_grad_(False)
    _fill(ours, converted, path)
    with torch.no_grad():
        expected = hifigan_peer(mel)
    assert 1e-3 < expected.abs().max() < 0.99
    assert (ours(mel) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_strides_that_nothing_says(hifigan_peer: SpeechT5HifiGan, tmp_path: Path) -> None:
    state = {name.replace("upsampler", "ups"): value for name, value in hifigan_peer.state_dict().items()}
    state["ups.0.weight"] = torch.zeros(64, 32, 20)
    torch.save(state, tmp_path / "generator.pt")
    with pytest.raises(ConvertError, match=r"upsamples with kernels \(20, 16, 8, 4, 4\).*config.json beside it"):
        read_hifigan(tmp_path / "generator.pt")


@pytest.mark.skipif(not importlib.util.find_spec("audioldm"), reason="the audioldm package is not installed")
def test_vocoder_is_the_authors_own(tmp_path: Path) -> None:
    from audioldm.hifigan.models import Generator

    settings = SimpleNamespace(
        num_mels=64,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        resblock_kernel_sizes=[3, 7, 11],
        resblock_dilation_sizes=[[1, 3, 5]] * 3,
    )
    peer = Generator(settings).eval().requires_grad_(False)
    louder(peer)
    torch.save({"generator": peer.state_dict()}, tmp_path / "g_00000001")
    converted = read_hifigan(tmp_path / "g_00000001")
    ours = build_vocoder(SoundingConfig(vocoder=converted.config)).requires_grad_(False)
    _fill(ours, converted, tmp_path)
    mel = torch.randn(1, 20, 64)
    expected = peer(mel.transpose(1, 2))[:, 0]
    assert (ours(mel) - expected).abs().max() <= 1e-5 * expected.abs().max()


# All together, as a person types it


@pytest.fixture(scope="module")
def audioldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("audioldm") / "audioldm-tiny"
    audioldm_pipeline((32, 64)).save_pretrained(folder)
    return folder


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_command_says_what_it_did(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip)
    assert done.exit_code == 0, done.output
    for words in (
        f"patches    from {tiny_clip}",
        "grounding  starts anew",
        "unet cross-attention starts anew",
        "train it",
    ):
        assert words in done.output
    done = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, "--condition", "film", "--json")
    report = json.loads(done.stdout)
    assert report["path"] == str(out)
    assert set(report["anew"]) == {"grounding"}
    assert CliRunner().invoke(app, ["info", str(out)]).exit_code == 0


def test_the_tokenizer_travels(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(audioldm_folder, folder)
    convert(tmp_path / "with.safetensors", audioldm=folder, clip=tiny_clip)
    shutil.rmtree(folder / "tokenizer")
    report = convert(tmp_path / "without.safetensors", audioldm=folder, clip=tiny_clip)
    assert any("No tokenizer travels" in note for note in report.notes)
    shutil.rmtree(folder)
    model = sounding.load(tmp_path / "with.safetensors", device="cpu")
    assert model.query.encode(["a dog"]).shape == (1, FILM)  # type: ignore[union-attr, call-arg, arg-type]
    with pytest.raises(FileNotFoundError, match=r"vocab.json and merges.txt.*clap-htsat-unfused.*--tokenizer"):
        sounding.load(tmp_path / "without.safetensors", device="cpu").query.encode(["a dog"])  # type: ignore[union-attr, call-arg, arg-type]


def test_audio_queries(audioldm_folder: Path, tiny_clip: Path, clap_peer: ClapModel, tmp_path: Path) -> None:
    """Queries of another width than the patches', too: CLAP here has 24, CLIP 16."""
    clap_peer.save_pretrained(tmp_path / "clap")
    out = tmp_path / "out.safetensors"
    common = ("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, "--query", "audio")
    refused = command(*common)
    assert refused.exit_code == 1
    assert "has no CLAP audio tower" in refused.output
    done = command(*common, "--clap", tmp_path / "clap")
    assert done.exit_code == 0, done.output
    model = sounding.load(out, device="cpu")
    assert (model.config.patches.width, model.config.query.width) == (16, 24)
    patches = model.see(torch.rand(1, 48, 48, 3))
    condition = model.ground(patches, sound=0.1 * torch.randn(2, 16_000))
    assert condition.tokens.shape == (2, 1, FILM)
    torch.testing.assert_close(condition.weights.sum(dim=-1), torch.ones(2))
    with pytest.raises(ValueError, match="audio queries, so text cannot"):
        model.ground(patches, text="a dog")


def test_sounds_do_not_ground_a_text_checkpoint(tiny_model: sounding.SoundingModel) -> None:
    with pytest.raises(ValueError, match="trained with text queries, so sound cannot ground it"):
        tiny_model.ground(torch.randn(1, 25, 16), sound=torch.zeros(1, 100))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--condition", "film", "--query", "audio"), "FiLM slot was trained with AudioLDM's own CLAP"),
        (("--vocoder", "nothing.pt"), "nothing.pt is not a file"),
        (("--tokenizer", "."), "neither tokenizer.json nor"),
    ],
)
def test_command_refuses_in_one_sentence(
    arguments: tuple[str, ...], words: str, audioldm_folder: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    refused = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, *arguments)
    assert refused.exit_code == 1
    assert words in refused.output
    assert refused.output.count("\n") == 1
    assert not out.exists()


def test_result_must_be_a_safetensors(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    refused = command("--out", tmp_path / "out.ckpt", "--audioldm", audioldm_folder, "--clip", tiny_clip)
    assert "ends in '.ckpt', but .safetensors is expected" in refused.output
