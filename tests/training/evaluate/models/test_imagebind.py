"""ImageBind against its formulas written with functions, with random weights of the published structure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.evaluate.features import open_model
from training.evaluate.models.imagebind import ImageBind, Tower, spectrogram, to_clips
from training.evaluate.models.pixels import MEAN, STD, clip_pixels

WIDTHS = {"vision": 160, "audio": 128}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A published file's names and shapes, narrower and with two blocks per tower; texts stand for the other towers."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"modality_preprocessors.text.pos_embed": (1, 77, 8)}
    for kind, width in WIDTHS.items():
        before, trunk, head = (f"modality_{part}.{kind}" for part in ("preprocessors", "trunks", "heads"))
        shapes[f"{before}.cls_token"] = (1, 1, width)
        shapes[f"{before}.pos_embedding_helper.pos_embed"] = (1, 257 if kind == "vision" else 1 + 12 * 19, width)
        if kind == "vision":
            shapes[f"{before}.rgbt_stem.proj.1.weight"] = (width, 3, 2, 14, 14)
        else:
            shapes[f"{before}.rgbt_stem.proj.weight"] = (width, 1, 16, 16)
        norms = [f"{before}.rgbt_stem.norm_layer" if kind == "audio" else f"{trunk}.pre_transformer_layer.0"]
        for block in (f"{trunk}.blocks.{at}" for at in range(2)):
            shapes[f"{block}.attn.in_proj_weight"], shapes[f"{block}.attn.in_proj_bias"] = (
                (3 * width, width),
                (3 * width,),
            )
            if kind == "audio":
                shapes[f"{block}.attn.bias_k"] = shapes[f"{block}.attn.bias_v"] = (1, 1, width)
            for name, size in (
                ("attn.out_proj", (width, width)),
                ("mlp.fc1", (4 * width, width)),
                ("mlp.fc2", (width, 4 * width)),
            ):
                shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = size, size[:1]
            norms += [f"{block}.norm_1", f"{block}.norm_2"]
        for name in (*norms, f"{head}.0"):
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
        shapes[f"{head}.2.weight"] = (32, width)
    shapes["modality_postprocessors.audio.1.log_logit_scale"] = ()
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}


def by_hand(state: dict[str, Tensor], kind: str, tokens: Tensor) -> Tensor:
    """Trunk and head of tokens [B, N, D], written with functions only."""
    width = WIDTHS[kind]

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    before, trunk, head = (f"modality_{part}.{kind}" for part in ("preprocessors", "trunks", "heads"))
    x = torch.cat([state[f"{before}.cls_token"].repeat(len(tokens), 1, 1), tokens], dim=1)
    x = x + state[f"{before}.pos_embedding_helper.pos_embed"]
    if kind == "vision":
        x = norm(x, f"{trunk}.pre_transformer_layer.0")
    for block in (f"{trunk}.blocks.{at}" for at in range(2)):
        packed = norm(x, f"{block}.norm_1") @ state[f"{block}.attn.in_proj_weight"].T
        query, key, value = (packed + state[f"{block}.attn.in_proj_bias"]).chunk(3, dim=-1)
        if kind == "audio":
            key, value = (
                torch.cat([one, state[f"{block}.attn.bias_{name}"].repeat(len(x), 1, 1)], dim=1)
                for one, name in ((key, "k"), (value, "v"))
            )
        parts = []
        for own in (slice(0, width // 2), slice(width // 2, width)):
            weights = (query[..., own] @ key[..., own].mT / (width // 2) ** 0.5).softmax(dim=-1)
            parts.append(weights @ value[..., own])
        x = x + linear(torch.cat(parts, dim=-1), f"{block}.attn.out_proj")
        x = x + linear(functional.gelu(linear(norm(x, f"{block}.norm_2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return functional.normalize(linear(norm(x, f"{head}.0")[:, 0], f"{head}.2"), dim=-1)


def test_a_published_file_is_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "imagebind.pth")
    model = open_model(tmp_path / "imagebind.pth")
    assert isinstance(model, ImageBind)
    assert (model.metric, model.width) == ("ib", 32)
    sound, image = 0.3 * torch.randn(2, 70_000), torch.rand(3, 90, 120)
    clips = to_clips(sound)
    torch.testing.assert_close(clips, torch.stack([sound[:, at : at + 32_000] for at in (0, 19_000, 38_000)], dim=1))
    stem = "modality_preprocessors.audio.rgbt_stem"
    maps = functional.conv2d(spectrogram(clips.flatten(0, 1)), state[f"{stem}.proj.weight"], stride=10)
    tokens = functional.layer_norm(
        maps.flatten(2).mT, (128,), state[f"{stem}.norm_layer.weight"], state[f"{stem}.norm_layer.bias"]
    )
    expected = by_hand(state, "audio", tokens).unflatten(0, (2, 3)).mean(dim=1)
    torch.testing.assert_close(model.embed_sounds(sound, 16_000), expected, atol=1e-5, rtol=1e-4)
    twice = clip_pixels(image)[None, :, None].repeat(1, 1, 2, 1, 1)
    maps = functional.conv3d(twice, state["modality_preprocessors.vision.rgbt_stem.proj.1.weight"], stride=(2, 14, 14))
    expected = by_hand(state, "vision", maps.flatten(2).mT)
    torch.testing.assert_close(model.embed_images([image], [None]), expected, atol=1e-5, rtol=1e-4)


def test_front_end() -> None:
    """Kaldi's filter bank in float64."""
    sound = 0.3 * np.random.default_rng(0).standard_normal(20_000) + 0.05

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    step = (mel(8000) - mel(20)) / 129
    centres = mel(20) + step * np.arange(1, 129)[:, None]
    filters = np.maximum(0, 1 - np.abs(mel(np.arange(257) * 16_000 / 512) - centres) / step)
    centred = sound - sound.mean()
    frames = np.stack([centred[at : at + 400] for at in range(0, 20_000 - 399, 160)])
    frames = frames - frames.mean(axis=1, keepdims=True)
    raised = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(raised * np.hanning(400), 512)) ** 2
    expected = np.zeros((128, 204))
    expected[:, : len(frames)] = np.log(np.maximum(power @ filters.T, 2.0**-23)).T
    found = spectrogram(torch.tensor(sound, dtype=torch.float32)[None])
    np.testing.assert_allclose(found[0, 0], (expected + 4.268) / 9.138, atol=1e-3)


@pytest.mark.skipif(not importlib.util.find_spec("torchaudio"), reason="torchaudio is not installed")
def test_front_end_is_kaldis() -> None:
    from torchaudio.compliance.kaldi import fbank

    sound = 0.3 * torch.randn(1, 32_000)
    expected = fbank(
        sound - sound.mean(), htk_compat=True, sample_frequency=16_000, window_type="hanning", num_mel_bins=128
    )
    found = spectrogram(sound)[0, 0] * 9.138 - 4.268
    torch.testing.assert_close(found[:, :198], expected.T, atol=1e-3, rtol=1e-4)


def test_a_short_sound_is_heard_three_times() -> None:
    sound = torch.randn(1, 8000)
    torch.testing.assert_close(to_clips(sound), sound[:, None].repeat(1, 3, 1))


def test_pixels_are_clips() -> None:
    picture = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    image = torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255
    resized = np.asarray(picture.resize((298, 224), Image.Resampling.BICUBIC))[:, 37:261]
    expected = (resized / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(clip_pixels(image).movedim(0, -1), expected, atol=1e-5)
    with pytest.raises(ValueError, match="21 x 1 pixels"):
        clip_pixels(torch.zeros(3, 1, 21))


def test_the_published_size() -> None:
    """Shapes of the published towers: ViT-H/14 (632 million parameters) and ViT-B over 12 x 19 patches."""
    with torch.device("meta"):
        images, sounds = Tower("vision", 1280, 32, 1024), Tower("audio", 768, 12, 1024)
    assert images.positions.shape == (1, 257, 1280)
    assert sounds.positions.shape == (1, 229, 768)
    assert images.blocks[0].attn.num_heads == 16
    assert sounds.blocks[0].attn.num_heads == 12
    assert round(sum(value.numel() for value in images.parameters()) / 1e6) == 632


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modality_trunks.audio.blocks.0.attn.bias_k": None}, r"blocks\.0\.attn\.bias_k is missing"),
        ({"modality_trunks.vision.extra.weight": torch.zeros(1)}, r"vision\.extra\.weight is not its own"),
        ({"modality_heads.audio.2.weight": torch.zeros(32, 9)}, r"head\.weight has shape \(32, 9\)"),
        ({"modality_preprocessors.vision.rgbt_stem.proj.1.weight": None}, "not laid out"),
    ],
)
def test_other_tensors_are_refused(
    state: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], said: str
) -> None:
    changed = {name: value for name, value in (state | change).items() if value is not None}
    torch.save(changed, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said):
        open_model(tmp_path / "x.pth")
