"""OpenL3 against its formulas, with random weights in files as Keras writes them."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sounding.weights import WeightsError
from training.evaluate.features import open_features, open_model
from training.evaluate.models import openl3
from training.evaluate.models.openl3 import OpenL3, Tower, spectrogram, to_pixels, to_windows

from ..tiny_openl3 import write_openl3

AUDIO, IMAGE = "openl3_audio_linear_env-v0_4_0.h5", "openl3_image_linear_env-v0_4_0.h5"


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tower, Tower]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("openl3")
    sounds, images = write_openl3(folder / AUDIO, 1), write_openl3(folder / IMAGE, 3)
    return folder, sounds, images


def by_hand(made: Tower, x: Tensor, swapped: bool) -> Tensor:
    """openl3/models.py, written with functions only."""

    def norm(x: Tensor, at: int) -> Tensor:
        layer = made.norms[at]
        return functional.batch_norm(
            x, layer.running_mean, layer.running_var, layer.weight, layer.bias, training=False, eps=0.001
        )

    def conv(x: Tensor, at: int) -> Tensor:
        return functional.conv2d(x, made.convs[at].weight, made.convs[at].bias, padding=1)

    x = norm(conv(norm(x, 0), 0), 1).relu()
    x = conv(x, 1)
    x = functional.max_pool2d(norm(x.relu(), 2) if swapped else norm(x, 2).relu(), 2)
    for block in (2, 4):
        x = norm(conv(x, block), block + 1).relu()
        x = functional.max_pool2d(norm(conv(x, block + 1), block + 2).relu(), 2)
    x = conv(norm(conv(x, 6), 7).relu(), 7)
    return functional.max_pool2d(x, x.shape[-2:]).flatten(1)


def test_published_files_are_read(towers: tuple[Path, Tower, Tower], tmp_path: Path) -> None:
    folder, sounds, images = towers
    for name in (AUDIO, IMAGE):
        with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
            file.write((folder / name).read_bytes())
    sound, picture = 0.3 * torch.randn(2, 33_000), torch.rand(3, 224, 224)
    heard, seen = [], []
    for path in (folder / AUDIO, folder / IMAGE, tmp_path / f"{AUDIO}.gz"):
        model = open_model(path)
        assert isinstance(model, OpenL3)
        heard.append(model.embed_sounds(sound, 48_000))
        seen.append(model.embed_images([picture], [None]))
    windows = to_windows(sound)
    with torch.no_grad():
        expected = [by_hand(sounds, spectrogram(one), False).mean(dim=0) for one in windows]
        expected_image = by_hand(images, 2 * picture[None] - 1, True)
    assert windows.shape == (2, 3, 48_000)
    for found, pixels in zip(heard, seen, strict=True):
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pixels, expected_image, atol=1e-4, rtol=1e-4)
    assert model.width == 5
    with pytest.raises(ValueError, match="but one of sounds is expected"):
        open_features(folder / AUDIO)


def test_front_end() -> None:
    sound = 0.3 * np.random.default_rng(0).standard_normal(48_000) * np.linspace(1, 0, 48_000) ** 8
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([sound[at : at + 512] * hann for at in range(0, 48_000 - 511, 242)])
    expected = 10 * np.log10(np.maximum(np.abs(np.fft.rfft(frames)), 1e-10))
    expected = np.maximum(expected - expected.max(), -80).T
    found = spectrogram(torch.tensor(sound, dtype=torch.float32)[None])
    assert found.shape == (1, 1, 257, 197)
    assert expected.min() == -80  # so that the range is tested
    clear = expected > -55  # below, float32 rounds
    np.testing.assert_allclose(found[0, 0][clear], expected[clear], atol=0.05)
    assert float(found.min()) >= -80


@pytest.mark.parametrize(("samples", "windows"), [(1, 1), (24_000, 1), (24_001, 2), (28_800, 2), (480_000, 96)])
def test_every_sample_is_in_a_window(samples: int, windows: int) -> None:
    sound = torch.arange(1, samples + 1).float()[None]
    found = to_windows(sound)
    assert found.shape == (1, windows, 48_000)
    assert found[0, 0, 23_999] == 0
    assert found[0, 0, 24_000] == 1
    assert found[0, -1].amax() == samples


def test_images_are_prepared_as_by_openl3() -> None:
    from skimage import transform

    image = torch.rand(3, 301, 400)
    scaled = transform.rescale(
        image.movedim(0, -1).double().numpy(), 256 / 301, mode="constant", channel_axis=-1, anti_aliasing=False
    )
    top, left = (size // 2 - 112 for size in scaled.shape[:2])
    expected = torch.from_numpy(scaled[top : top + 224, left : left + 224]).movedim(-1, 0).float()
    torch.testing.assert_close(to_pixels(image), expected, atol=1e-4, rtol=0)
    exact = torch.rand(3, 224, 224)
    torch.testing.assert_close(to_pixels(exact), 2 * exact - 1)
    between = torch.rand(3, 240, 250) / 2
    torch.testing.assert_close(to_pixels(between), (between / between.max())[:, 8:232, 13:237])
    assert to_pixels(torch.rand(3, 50, 70)).shape == (3, 224, 224)


def test_the_published_size() -> None:
    """Shapes of both published networks."""
    with torch.device("meta"):
        sounds = Tower(1)
    shapes = [tuple(conv.weight.shape[:2]) for conv in sounds.convs]
    assert shapes == [(64, 1), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]
    assert len(sounds.norms) == 8


def _link(file: h5py.File) -> None:
    del file["conv2d_0/conv2d_0/bias:0"]
    file["conv2d_0/conv2d_0/bias:0"] = h5py.ExternalLink("/etc/hostname", "x")


def _vast(file: h5py.File) -> None:  # claims more than the file holds
    del file["conv2d_0/conv2d_0/bias:0"]
    file.create_dataset("conv2d_0/conv2d_0/bias:0", shape=(10**12,), dtype="f4")


def _packed(file: h5py.File) -> None:
    del file["conv2d_0/conv2d_0/bias:0"]
    file.create_dataset("conv2d_0/conv2d_0/bias:0", data=np.zeros(10**6, "f4"), compression="gzip")


def _short(file: h5py.File) -> None:
    file.attrs["layer_names"] = file.attrs["layer_names"][:-3]


def _turned(file: h5py.File) -> None:
    del file["conv2d_1/conv2d_1/kernel:0"]
    file.create_dataset("conv2d_1/conv2d_1/kernel:0", data=np.zeros((3, 3, 3, 2), "f4"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_link, "missing, or a link"),
        (_vast, "larger than the file"),
        (_packed, "not plain"),
        (_short, r"convs|layers"),
        (_turned, r"convs\.1\.weight has shape"),
        (lambda file: file.attrs.pop("layer_names"), "not a readable file of Keras"),
    ],
)
def test_hostile_files_are_refused(
    towers: tuple[Path, Tower, Tower], tmp_path: Path, change: Callable[[h5py.File], object], said: str
) -> None:
    for name in (AUDIO, IMAGE):
        shutil.copy(towers[0] / name, tmp_path)
    with h5py.File(tmp_path / AUDIO, "a") as file:
        change(file)
    with pytest.raises(WeightsError, match=said) as error:
        open_model(tmp_path / AUDIO)
    assert "\n" not in str(error.value)


def test_files_that_are_no_openl3_are_refused(
    towers: tuple[Path, Tower, Tower], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (towers[0] / AUDIO).read_bytes()
    (tmp_path / AUDIO).write_bytes(whole)
    with pytest.raises(WeightsError, match="is missing beside"):
        open_model(tmp_path / AUDIO)
    (tmp_path / IMAGE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable file of Keras"):
        open_model(tmp_path / AUDIO)
    (tmp_path / "openl3_audio_mel256_env.h5").write_bytes(whole)
    with pytest.raises(WeightsError, match="only those of OpenL3 with a linear spectrogram"):
        open_model(tmp_path / "openl3_audio_mel256_env.h5")
    monkeypatch.setitem(openl3.read_keras.__globals__, "MOST_BYTES", 1000)
    for name in (AUDIO, IMAGE):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(WeightsError, match="no HDF5 of at most 1000 bytes"):
        open_model(tmp_path / f"{AUDIO}.gz")
