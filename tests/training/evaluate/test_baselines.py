"""Systems by name over items: what they are given, folders of sounds, resuming, and options found wrong early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from sounding.audio.files import read_audio, write_audio
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel
from sounding.naming.load import boxed_namer
from sounding.naming.sentences import sentences
from training.evaluate.baselines import run
from training.evaluate.baselines.baseline import Settings, crop_object, item_seed, scene_caption, selected_caption
from training.evaluate.baselines.captioning import Captioning, CaptioningAndMix
from training.evaluate.baselines.ours import Ours
from training.evaluate.baselines.systems import SYSTEMS, Weights, chosen
from training.evaluate.cli import app
from training.evaluate.items import Item, ItemEntry, ItemObject, read_items, write_entries
from training.starter.evaluate.items import ItemsSettings, write_items

SETTINGS = Settings(seconds=0.64, steps=2, seed=3)


@pytest.fixture(scope="module")
def items(stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ItemsSettings(per_object=0, pairs=2, backgrounds=1, seconds=0.64)
    return write_items(stamps_folder, tmp_path_factory.mktemp("items") / "items", settings)


class Words:
    """A captioner that measures images."""

    def caption(self, image: Tensor) -> str:
        return f"{image.shape[2]} by {image.shape[1]}"


class Tones:
    """A text-to-audio model of noise that follows from text and seed."""

    rate = 16_000

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def sound(self, text: str, image: Tensor, seed: int) -> Tensor:
        assert text == Words().caption(image)
        self.asked.append((text, seed))
        return torch.randn(1000, generator=torch.Generator().manual_seed(seed + len(text)))


def test_captioning_sees_the_whole_image_and_mix_each_object(items: Path) -> None:
    item = read_items(items)[0]
    seed = item_seed(SETTINGS, item)
    audio = Tones()
    whole = Captioning(Words(), audio, SETTINGS).generate(item)
    assert audio.asked == [("288 by 288", seed)]
    torch.testing.assert_close(whole, audio.sound("288 by 288", read_image(item.image), seed))
    audio = Tones()
    mixed = CaptioningAndMix(Words(), audio, SETTINGS).generate(item)
    crops = [crop_object(read_image(item.image), thing.box) for thing in item.entry.objects]
    assert audio.asked == [(Words().caption(crop), seed + number) for number, crop in enumerate(crops)]
    first, second = (audio.sound(Words().caption(crop), crop, seed + number) for number, crop in enumerate(crops))
    expected = first / first.square().mean().sqrt() + second / second.square().mean().sqrt()
    expected = expected - expected.mean()
    torch.testing.assert_close(mixed, 0.5 * expected / expected.abs().max(), atol=1e-4, rtol=1e-4)


def test_crops_have_a_margin_and_stay_in_the_image() -> None:
    image = torch.arange(100.0).view(1, 10, 10, 1)
    assert crop_object(image, (2, 3, 4, 5), margin=0).flatten().tolist() == [32, 33, 42, 43]
    assert crop_object(image, (0, 0, 10, 5)).shape == (1, 6, 10, 1)
    with pytest.raises(ValueError, match="is not in the image"):
        crop_object(image, (0, 0, 11, 5))


def test_captions_of_a_selection_and_of_a_scene() -> None:
    things = tuple(ItemObject(name, f"a {name}", (0, 0, 1, 1)) for name in ("dog", "cat", "cow"))
    item = Item(ItemEntry("x", "object", "a dog", things), Path("x.png"), None)
    assert selected_caption(item) == "a dog"
    assert scene_caption(item) == "a dog, a cat and a cow"
    bare = Item(ItemEntry("x", "object", "two dogs bark"), Path("x.png"), None)
    assert scene_caption(bare) == "two dogs bark"
    with pytest.raises(ValueError, match="'x' has no caption"):
        scene_caption(Item(ItemEntry("x", "object", ""), Path("x.png"), None))


def test_ours_is_the_model_selected_in_four_ways(items: Path, tiny_model: SoundingModel) -> None:
    item = read_items(items)[0]
    image, seed = read_image(item.image), item_seed(SETTINGS, item)
    assert item.mask is not None
    mask = read_mask(item.mask)
    (named,) = boxed_namer().name(image, mask)
    for way, selection in (
        ("mask", {"mask": mask}),
        ("text", {"text": item.entry.caption}),
        ("name", {"text": sentences(named)[0][0]}),
        ("whole", {"mask": torch.ones(1, *image.shape[1:3])}),
    ):
        made = Ours(tiny_model, SETTINGS, way, boxed_namer()).generate(item)
        expected = tiny_model.generate(image=image, seconds=0.64, steps=2, seed=seed, level=False, **selection)  # type: ignore[arg-type]
        torch.testing.assert_close(made, expected.waveform[0, 0])


class Half:
    """Fails on some items, and can be stopped."""

    rate = 16_000

    def __init__(self, stop_after: int = 100):
        self.made: list[str] = []
        self.stop_after = stop_after

    def generate(self, item: Item) -> Tensor:
        if len(self.made) == self.stop_after:
            raise KeyboardInterrupt
        if item.entry.kind == "background":
            raise ValueError("nothing\nto hear")
        self.made.append(item.name)
        return torch.full((100,), 0.5 if len(self.made) < 2 else torch.nan)


def test_one_bad_item_never_ends_a_run(items: Path, tmp_path: Path) -> None:
    read = read_items(items)
    steps: list[tuple[int, int]] = []
    failed = run.generate(Half(), read, tmp_path, lambda *step: steps.append(step))
    assert failed == {
        "pair-00001": "The sound has values that are not finite.",
        "background-00000": "nothing to hear",
    }
    assert json.loads((tmp_path / "failed.json").read_text()) == failed
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert read_audio(tmp_path / "pair-00000.wav", 16_000).shape == (100,)
    assert not (tmp_path / "pair-00001.wav").exists()
    again = Half()
    run.generate(again, read, tmp_path)
    assert again.made == ["pair-00001"]  # its first one, so that this time it has a sound
    run.generate(Half(), read[:2], tmp_path)
    assert not (tmp_path / "failed.json").exists()


def test_a_stopped_run_continues(items: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.generate(Half(stop_after=1), read_items(items), tmp_path)
    rest = Half()
    run.generate(rest, read_items(items), tmp_path)
    assert rest.made == ["pair-00001"]


def test_command(items: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--items", str(items), "--model", str(tiny_checkpoint), "--steps", "1", "--quiet", "--device", "cpu"]
    systems = ["ours-mask", "ours-text", "standin-captioning"]
    command = ["baselines", *options, "--out", str(tmp_path)] + [
        part for name in systems for part in ("--system", name)
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "ours-mask: 3 of 3 items" in result.output
    assert "ours-text: 2 of 3 items" in result.output  # a background has no caption
    sounds = {path: path.read_bytes() for path in tmp_path.rglob("*.wav")}
    assert len(sounds) == 8
    assert {len(read_audio(path, 16_000)) for path in sounds} == {10_240}  # as long as the items' recordings
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.wav")} == sounds
    other = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert other.exit_code == 1
    assert "has sounds of other settings (seed differ)" in other.output


def test_bad_options_are_found_before_weights_are_read(items: Path, tmp_path: Path) -> None:
    def said(*more: str) -> str:
        result = CliRunner().invoke(app, ["baselines", "--items", str(items), "--out", str(tmp_path / "out"), *more])
        assert result.exit_code == 1
        return " ".join(result.output.split())

    assert "No system is asked for" in said()
    assert "'theirs', but one of ours-mask" in said("--system", "theirs")
    assert "each system once" in said("--system", "ours-mask", "--system", "ours-mask")
    assert "--audioldm2 is not given" in said("--system", "ours-mask", "--system", "captioning")
    assert "is not a folder" in said("--system", "audioldm", "--audioldm", str(tmp_path / "nothing"))
    assert "--model: " in said("--system", "ours-mask", "--model", str(tmp_path / "nothing"))
    assert "--sampler is 'euler'" in said("--system", "ours-mask", "--sampler", "euler")
    assert not (tmp_path / "out").exists()
    write_audio(tmp_path / "out" / "ours-mask" / "mine.wav", torch.zeros(10), 16_000)
    assert "is not empty, but has no settings.json" in said("--system", "ours-mask")


def test_the_list_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["baselines", "--list", "--blip", str(tmp_path)])
    assert result.exit_code == 0
    for system in SYSTEMS.values():
        assert f"{system.name}: {system.what}" in result.output
    assert "cannot run here: --audioldm2 is not given" in result.output
    assert "--blip is not given" not in result.output
    (one,) = chosen(["ours-mask"], Weights())
    assert not one.lacks(Weights())


def test_descriptions_from_outside(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "items.json").write_bytes(write_entries([], {}))
    result = CliRunner().invoke(
        app, ["baselines", "--items", str(tmp_path), "--out", str(tmp_path / "o"), "--system", "ours-mask"]
    )
    assert result.exit_code == 1
    assert "has no items" in result.output
