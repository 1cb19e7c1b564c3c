"""Several models in one report, images and masks beside the sounds, and what happens where one of them is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.audio.files import write_audio
from sounding.images.files import write_image
from training.evaluate import run
from training.evaluate.audiovisual import AudioVisualModel, SoundSide
from training.evaluate.folders import compute_features
from training.evaluate.images import ItemImages, embed_images
from training.evaluate.run import Folders, evaluate_folders

RATE = 16_000
NAMES = [f"{item:02}" for item in range(24)]


class Tones:
    """Hears the energy in bands of a spectrum, and takes the first for classes."""

    rate, seconds, width = RATE, 0.5, 6

    def __init__(self, name: str, classes: tuple[str, ...] = ()):
        self.name, self.classes = name, classes

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        return torch.stack([x.mean(dim=1) for x in torch.fft.rfft(waveform).abs().chunk(self.width, dim=1)], dim=1)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, : len(self.classes)]


class ToneAndColour:
    """Sounds and images in one plane: energy of low and high tones, red and green of what is masked."""

    name, metric, scale, rate, seconds, width = "tone and colour", "ib", 100.0, RATE, 0.5, 2

    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        return torch.stack([x.mean(dim=1) for x in torch.fft.rfft(waveform).abs().chunk(2, dim=1)], dim=1)

    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        found = []
        for image, mask in zip(images, masks, strict=True):
            assert image.shape[0] == 3
            if image.shape[1:] != (20, 30):
                raise ValueError("This model knows images of one size alone.")
            chosen = torch.ones(image.shape[1:]) if mask is None else mask
            found.append((image[:2] * chosen).sum(dim=(1, 2)) / chosen.sum())
        return torch.stack(found)


def no_progress(label: str) -> object:
    from contextlib import nullcontext

    return nullcontext()


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 items of a reference and two systems, with images that are red on the left, and masks of that side."""
    root = tmp_path_factory.mktemp("items")
    generator = torch.Generator().manual_seed(0)
    for system in ("real", "one", "two"):
        for name in NAMES:
            write_audio(root / system / f"{name}.wav", 0.1 * torch.randn(RATE // 2, generator=generator), RATE)
    image = torch.zeros(20, 30, 3)
    image[:, :15, 0], image[:, 15:, 1] = 1, 1
    mask = torch.zeros(20, 30)
    mask[:, :15] = 1
    for name in NAMES:
        write_image(root / "images" / f"{name}.png", image)
        write_image(root / "masks" / f"{name}.png", mask)
    (root / "images" / "01.png").unlink()
    (root / "images" / "02.png").write_bytes(b"no image")
    (root / "masks" / "03.png").unlink()
    write_image(root / "masks" / "04.png", torch.zeros(20, 30))
    write_image(root / "images" / "05.png", torch.zeros(21, 30, 3))
    (root / "two" / "06.wav").unlink()
    return root


WITHOUT = {
    "01": "has no image",
    "02": "cannot be read as an image",
    "03": "no mask",
    "04": "selects nothing",
    "05": "one size alone",
}


def test_one_bad_image_never_ends_a_run(items: Path, tmp_path: Path) -> None:
    files = ItemImages.find(items / "images", items / "masks", NAMES)
    side = embed_images(files, NAMES, ToneAndColour(), tmp_path)
    assert side.without.keys() == WITHOUT.keys()
    for name, said in WITHOUT.items():
        assert said in side.without[name]
    assert side.usable() == set(NAMES) - WITHOUT.keys()
    np.testing.assert_allclose(side.store.embeddings[side.store.rows(["00"])], [[1, 0]])  # of the masked side
    whole = embed_images(ItemImages.find(items / "images", None, NAMES), NAMES, ToneAndColour(), tmp_path / "whole")
    np.testing.assert_allclose(whole.store.embeddings[whole.store.rows(["04"])], [[0.5, 0.5]])
    seen: list[tuple[int, int]] = []
    embed_images(files, NAMES, ToneAndColour(), tmp_path, lambda *step: seen.append(step))
    assert seen == [(24, 24)]  # only the one that the model had refused came again


def test_folders_of_images_are_checked(items: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder, but one of images"):
        ItemImages.find(tmp_path / "nowhere", None, NAMES)
    with pytest.raises(ValueError, match=r"has no file with the name of any sound, such as a\.png"):
        ItemImages.find(items / "images", None, ["a"])


def test_every_model_has_its_figures(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {
        "plain": Tones("plain tones"),
        "classes": Tones("tones with classes", ("dog", "cat", "owl")),
        "vggish": Tones("VGGish of a kind"),
        "seen": ToneAndColour(),
    }
    monkeypatch.setattr(run, "open_model", lambda path: models[path.name])
    assert isinstance(models["seen"], AudioVisualModel)
    assert not isinstance(models["plain"], AudioVisualModel)
    (tmp_path / "labels.csv").write_text("name,labels,others\n" + "".join(f"{name},dog,cat\n" for name in NAMES))
    asked = Folders(
        [items / "one", items / "two"],
        items / "real",
        [Path(name) for name in models],
        tmp_path / "report",
        labels=tmp_path / "labels.csv",
        images=items / "images",
        masks=items / "masks",
        resamples=10,
    )
    report = evaluate_folders(asked, no_progress)
    assert report["figures_by"] == {"classes": "tones with classes", "embeddings": "VGGish of a kind"}
    one, two = report["systems"]
    for name, model in (("fad", "VGGish of a kind"), ("acc", "tones with classes"), ("is", "tones with classes")):
        assert one["figures"][name] == one["by_model"][model]["figures"][name]
    assert "acc" not in one["by_model"]["plain tones"]["figures"]
    assert "no classes" in one["by_model"]["plain tones"]["not_computed"]["acc"]
    assert "acc" not in one["not_computed"]

    side = compute_features("one", items / "one", SoundSide(models["seen"]), 0.5, tmp_path / "again")
    usable = sorted(set(NAMES) - WITHOUT.keys())
    sounds = side.store.embeddings[side.store.rows(usable)]
    expected = 100 * (sounds[:, 0] / np.linalg.norm(sounds, axis=1)).mean()  # the masked side is [1, 0]
    assert one["figures"]["ib"]["value"] == pytest.approx(expected, rel=1e-5)
    assert one["figures"]["ib"]["count"] == len(usable)
    assert two["figures"]["ib"]["count"] == len(usable) - 1
    assert one["without_image"].keys() == WITHOUT.keys()
    assert report["reference"]["figures"]["ib"]["count"] == len(usable)
    (difference,) = report["differences"]
    assert difference["figures"]["ib"]["count"] == len(usable) - 1
    assert {"cs", "avc"} <= one["not_computed"].keys()
    table = (tmp_path / "report" / "table.md").read_text()
    assert "quoted: Ground Truth 0.66" in table
    assert "5 pairs have no image or mask that can be used" in table
    with np.load(tmp_path / "report" / "features.npz") as features:
        assert features["one/embeddings"].shape == (24, 6)
        assert features["tone-and-colour images/embeddings"].shape == (24, 2)


def test_without_images_the_rest_is_given(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"plain": Tones("plain tones"), "seen": ToneAndColour()}
    monkeypatch.setattr(run, "open_model", lambda path: models[path.name])
    paths = [Path(name) for name in models]
    asked = Folders([items / "one"], items / "real", paths, tmp_path, resamples=0)
    system = evaluate_folders(asked, no_progress)["systems"][0]
    assert system["figures"]["fad"]["low"] is None
    assert system["not_computed"]["ib"] == "There are no images; give --images."
    with pytest.raises(ValueError, match="models of sounds and images alone"):
        evaluate_folders(Folders([items / "one"], items / "real", paths[1:], tmp_path), no_progress)
    with pytest.raises(ValueError, match="is given twice"):
        evaluate_folders(Folders([items / "one"], items / "real", paths[:1] * 2, tmp_path), no_progress)
    with pytest.raises(ValueError, match="none of images"):
        evaluate_folders(Folders([items / "one"], items / "real", paths, tmp_path, masks=items), no_progress)
