"""Retrieve & Separate: bands, separation, its training on tones, and retrieval by captions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.engine.settings import LoopConfig
from training.evaluate.baselines.baseline import Settings
from training.evaluate.baselines.retrieval import ByCaptions
from training.evaluate.baselines.separation import (
    BANDS,
    RetrieveAndSeparate,
    Separator,
    SeparatorConfig,
    _bands_of_bins,
    _bins_of_bands,
    read_separator,
    spectrum_of,
    to_bands,
    visual_features,
    write_separator,
)
from training.evaluate.items import read_items
from training.recipe import RECIPES, read_recipe
from training.starter.evaluate.items import ItemsSettings, write_items
from training.starter.evaluate.separator import SeparatorRecipe, object_features, train_separator, write_library

from ..conftest import TONES

RECIPE = SeparatorRecipe(
    loop=LoopConfig(steps=60, batch=6, lr=1e-2, warmup=5, precision="fp32", trackers="none"),
    seconds=0.64,
    scenes=2,
    components=4,
    width=4,
)


@pytest.fixture(scope="module")
def told_apart() -> Tensor:
    """Features of the three objects, which a model with random weights can hardly tell apart."""
    return torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def separator(
    stamps_data: ObjectSet, tiny_model: SoundingModel, told_apart: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Separator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.starter.evaluate.separator.object_features", lambda *_: told_apart)
        return train_separator(RECIPE, stamps_data, tiny_model, tmp_path_factory.mktemp("separator"))


def tone(name: str) -> Tensor:
    return 0.2 * torch.sin(2 * math.pi * TONES[name] * torch.arange(10_240) / 16_000)


def test_bands_keep_levels_and_places() -> None:
    torch.testing.assert_close(_bands_of_bins().sum(dim=1), torch.ones(BANDS))
    torch.testing.assert_close(_bins_of_bands().sum(dim=1), torch.ones(513))
    assert _bands_of_bins().min() >= 0
    assert _bins_of_bands().min() >= 0
    for bin_number in (1, 8, 40, 200, 512):  # a bin goes to bands that come back to it
        there = _bands_of_bins()[:, bin_number]
        back = (_bins_of_bands() @ there).argmax()
        assert abs(int(back) - bin_number) <= max(1, 0.05 * bin_number)


def test_all_or_nothing_of_a_mixture() -> None:
    separator = Separator(SeparatorConfig(visual=3, components=2, width=4)).eval()
    sound = tone("disc") + 0.1 * torch.randn(10_240)
    with torch.no_grad():
        separator.typical[1].bias.fill_(100)
        torch.testing.assert_close(separator.separate(sound, torch.zeros(3)), sound, atol=1e-5, rtol=0)
        separator.typical[1].bias.fill_(-100)
        assert separator.separate(sound, torch.zeros(3)).abs().max() < 1e-6


def test_training_separates_tones(separator: Separator, told_apart: Tensor, stamps_data: ObjectSet) -> None:
    names = [entry.name for entry in stamps_data.entries]
    for one, other in (("disc", "bar"), ("bar", "square")):
        mixture = tone(one) + tone(other)
        made = separator.separate(mixture, told_apart[names.index(one), 0])
        # Samples at the ends have no full window.
        error, before = ((x - tone(one))[600:-600].square().mean() for x in (made, mixture))
        assert error < 0.25 * before


def test_training_goes_on_from_what_it_kept(
    stamps_data: ObjectSet, tiny_model: SoundingModel, separator: Separator, tmp_path: Path
) -> None:
    assert object_features(tiny_model, stamps_data, 2).shape == (3, 2, 16)
    short = SeparatorRecipe(LoopConfig(steps=2, batch=2, lr=1e-3, trackers="none"), 0.64, 1, 2, 4)
    first = train_separator(short, stamps_data, tiny_model, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = train_separator(short, stamps_data, tiny_model, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_files_are_read_back_for_their_model_alone(
    separator: Separator, tiny_model: SoundingModel, tmp_path: Path
) -> None:
    file = tmp_path / "separator.safetensors"
    write_separator(file, separator)
    sound, visual = tone("disc") + tone("bar"), torch.randn(16)
    torch.testing.assert_close(
        read_separator(file, tiny_model).separate(sound, visual), separator.separate(sound, visual)
    )
    write_separator(file, Separator(SeparatorConfig(visual=16, encoder="another", components=2, width=4)))
    with pytest.raises(ValueError, match="by features of 'another'"):
        read_separator(file, tiny_model)
    file.write_bytes(b"no separator")
    with pytest.raises(ValueError, match="is no separator"):
        read_separator(file, tiny_model)


def test_a_feature_is_the_mean_of_the_patches_within_the_mask(tiny_model: SoundingModel) -> None:
    image = torch.rand(1, 160, 160, 3)
    masks = torch.zeros(2, 160, 160)
    masks[0, 32:64, 64:128] = 1  # two of the 5 x 5 cells, whole
    masks[1] = 1
    patches = tiny_model.see(image)[0]
    made = visual_features(tiny_model, image, masks)
    torch.testing.assert_close(made[0], patches[[7, 8]].mean(dim=0))
    torch.testing.assert_close(made[1], patches.mean(dim=0))


def test_the_library_is_searched_by_captions(
    stamps_data: ObjectSet,
    stamps_folder: Path,
    separator: Separator,
    tiny_model: SoundingModel,
    tmp_path: Path,
) -> None:
    library = write_library(stamps_data, tmp_path / "library", 4, 1.0)
    rows = (library / "captions.csv").read_text().splitlines()
    assert rows[0] == "name,caption"
    assert len(rows) == 5
    with pytest.raises(ValueError, match="is there already"):
        write_library(stamps_data, tmp_path / "library", 4)
    (library / "captions.csv").write_text('name,caption\n00000,a disc\n00001,a bar\n00002,"a disc and a bar"\n')
    found = ByCaptions(tiny_model, library)
    for number, caption in enumerate(("a disc", "a bar", "a disc and a bar")):
        assert found.find(caption).stem == f"{number:05}"
    item = read_items(
        write_items(stamps_folder, tmp_path / "items", ItemsSettings(per_object=0, pairs=1, backgrounds=0))
    )[0]
    baseline = RetrieveAndSeparate(found, separator, tiny_model, Settings(seconds=1.28))
    made = baseline.generate(item)
    assert item.mask is not None
    (visual,) = visual_features(tiny_model, read_image(item.image), read_mask(item.mask))
    scene = " and ".join(thing.caption for thing in item.entry.objects)
    sound = torch.nn.functional.pad(read_audio(found.find(scene), 16_000), (0, 4480))
    torch.testing.assert_close(made, separator.separate(sound, visual))


def test_libraries_without_captions(tiny_model: SoundingModel, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone("disc"), 16_000)
    with pytest.raises(ValueError, match="no list of captions"):
        ByCaptions(tiny_model, tmp_path)
    (tmp_path / "captions.csv").write_text("file,text\n")
    with pytest.raises(ValueError, match="other columns"):
        ByCaptions(tiny_model, tmp_path)
    (tmp_path / "captions.csv").write_text("name,caption\nb,a dog\n")
    with pytest.raises(ValueError, match="no caption of any sound"):
        ByCaptions(tiny_model, tmp_path)


def test_the_recipe_can_be_read() -> None:
    assert read_recipe(RECIPES / "starter" / "separator.yaml", SeparatorRecipe).loop.steps > 0


def test_bands_of_silence_are_finite() -> None:
    separator = Separator(SeparatorConfig(visual=3, components=2, width=4)).eval()
    assert separator(to_bands(spectrum_of(torch.zeros(2, 4000)).abs()), torch.zeros(2, 3)).isfinite().all()
