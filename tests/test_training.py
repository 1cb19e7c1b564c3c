"""The training package on a data set drawn and sung by the tests: three shapes, three tones."""

from __future__ import annotations

import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sounding.audio import write_audio
from sounding.checkpoint import read_header
from sounding.config import SoundingConfig
from sounding.grounding import match_moments
from sounding.model import SoundingModel
from training.data import scenes, stamps
from training.data.sounds import sounding_crops
from training.data.stamps import Stamps, fill, find_stamps, mix, trim
from training.encoders import attention_loss
from training.evaluate.classifier import Classifier
from training.evaluate.recognise import Judge, evaluate, score
from training.grounded import start_from_encoders
from training.loop import LoopConfig, rate_at, run
from training.recipe import RECIPES, read_model, read_recipe
from training.vae import VaeRecipe, train_vae
from training.vocoder import VocoderRecipe, stft_distance, train_vocoder

TONES = {"disc": 220.0, "square": 660.0, "bar": 1760.0}


def draw_stamp(name: str) -> Image.Image:
    picture = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    shapes = {"disc": pen.ellipse, "square": pen.rectangle, "bar": pen.rectangle}
    boxes = {"disc": (10, 5, 60, 55), "square": (20, 10, 60, 50), "bar": (5, 25, 75, 35)}
    shapes[name](boxes[name], fill=(200, 40, 40, 255))
    return picture


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the unpacked Debian package."""
    root = tmp_path_factory.mktemp("package")
    folder = root / "usr/share/tuxpaint/stamps/animals/shapes"
    folder.mkdir(parents=True)
    times = torch.arange(8000) / 16000
    for name, tone in TONES.items():
        draw_stamp(name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.\nes=Una forma.\n", encoding="utf-8")
        write_audio(folder / f"{name}.ogg", torch.sin(2 * math.pi * tone * times), 16000)
    draw_stamp("disc").save(folder / "silent.png")
    (folder / "silent.txt").write_text("A silent thing.\n")
    write_audio(folder / "silent.ogg", torch.zeros(8000), 16000)
    draw_stamp("disc").save(folder / "ghost.png")  # a name from the list of drawings
    write_audio(folder / "ghost.ogg", torch.ones(8000), 16000)
    return root


@pytest.fixture(scope="module")
def data(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Stamps:
    out = tmp_path_factory.mktemp("stamps")
    stamps.build(package, out)
    return Stamps(out)


def test_manifest_has_what_a_reader_needs(data: Stamps) -> None:
    assert [stamp.name for stamp in data.stamps] == ["bar", "disc", "square"]
    assert [stamp.label for stamp in data.stamps] == [0, 1, 2]
    assert data.stamps[1].caption == "a disc"
    assert all("GPL-2" in stamp.licence and "tuxpaint" in stamp.source for stamp in data.stamps)


def test_missing_package_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install tuxpaint-stamps-default"):
        find_stamps(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m training\.data\.stamps"):
        Stamps(tmp_path)


def test_trim_keeps_the_sound_and_drops_the_silence() -> None:
    sound = torch.cat([torch.zeros(5000), torch.ones(1000), torch.zeros(9000)])
    assert len(trim(sound)) == 1000 + 2 * 320


def test_short_recordings_repeat_and_long_ones_are_cut() -> None:
    rng = np.random.default_rng(0)
    clip = fill(torch.ones(1000), 40_000, rng)
    starts = ((clip[1:] == 1) & (clip[:-1] == 0)).sum()
    assert len(clip) == 40_000
    assert starts >= 3
    long = torch.arange(50_000.0)
    cut = fill(long, 10_000, rng)
    assert torch.equal(cut, long[int(cut[0]) : int(cut[0]) + 10_000])


def test_mix_brings_sounds_to_the_gains() -> None:
    times = torch.arange(16_000) / 16_000
    low, high = (torch.sin(2 * math.pi * f * times) for f in (101.0, 1003.0))
    spectrum = torch.fft.rfft(mix([0.01 * low, high], [0.0, -6.0])).abs()
    assert float(20 * torch.log10(spectrum[1003] / spectrum[101])) == pytest.approx(-6.0, abs=0.05)


def test_scenes_follow_from_split_and_index(data: Stamps) -> None:
    one, again, other = (
        scenes.make_scene(data, scenes.scene_rng(split, 5), labels=(0, 1)) for split in ("train", "train", "held-out")
    )
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)


def test_scene_masks_cover_their_objects_alone(data: Stamps) -> None:
    for index in range(6):
        scene = scenes.make_scene(data, scenes.scene_rng("train", index), labels=(1, 2))
        assert (scene.masks.astype(int).sum(axis=0) <= 257).all()  # what is hidden belongs to what hides it
        reds = [scene.image[mask > 250].astype(float).mean(axis=0) for mask in scene.masks]
        assert all(red[0] > red[1] + 30 for red in reds)  # both shapes are painted red
        caption = scenes.scene_caption(data, scene, np.random.default_rng(0))
        named = {name for name in ("disc", "square") if name in caption}
        assert named == {data.stamps[scene.labels[i]].name for i in scene.sounding}


def test_scene_sound_is_the_mix_of_the_sounding_objects(data: Stamps) -> None:
    scene = scenes.make_scene(data, scenes.scene_rng("train", 3), labels=(0, 1, 2))
    scene = dataclasses.replace(scene, sounding=(0, 2), gains_db=(0.0, 0.0))
    spectrum = torch.fft.rfft(scenes.scene_sound(data, scene, 32_000, np.random.default_rng(1))).abs()
    tones = [TONES[data.stamps[label].name] for label in (0, 1, 2)]
    bands = [float(spectrum[int(2 * tone) - 8 : int(2 * tone) + 8].max()) for tone in tones]
    assert bands[1] < 0.05 * min(bands[0], bands[2])


def test_crops_are_where_the_sound_is(data: Stamps) -> None:
    crops = sounding_crops(data.recordings, 16, 4000, np.random.default_rng(0))
    assert crops.shape == (16, 4000)
    assert (crops.abs().amax(dim=1) > 1e-3).all()


def test_attention_loss_is_least_where_attention_is_on_the_object() -> None:
    patches = torch.eye(4)[None] * 10  # four patches, each its own direction
    coverage = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    right, wrong = torch.eye(4)[1:2] * 10, torch.eye(4)[2:3] * 10
    assert attention_loss(right, patches, coverage) < 1e-6
    expected = 10 * 10 / 4**0.5  # log(e^0 / e^50) but for the rest
    assert float(attention_loss(wrong, patches, coverage)) == pytest.approx(expected, rel=1e-3)


def test_grounding_starts_with_the_encoders_attention(tiny_config: SoundingConfig) -> None:
    from sounding.grounding import Grounding

    grounding = Grounding(dataclasses.replace(tiny_config.grounding, positions=False), 16, 25)
    start_from_encoders(grounding)
    query, patches = torch.randn(2, 16), torch.randn(2, 25, 16)
    expected = torch.einsum("bl,bpl->bp", query, patches).div(4.0).softmax(-1)
    torch.testing.assert_close(grounding.attend(query, patches)[:, 0], expected)


def test_stft_distance_is_zero_only_for_equal_sounds() -> None:
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    assert float(stft_distance(sound, sound, (128, 512))) == 0
    assert float(stft_distance(0.5 * sound, sound, (128, 512))) == pytest.approx(0.5 + math.log(2), rel=1e-3)


def test_learning_rate_warms_up_and_falls() -> None:
    loop = LoopConfig(steps=1000, batch=1, lr=1.0, warmup=100)
    assert rate_at(0, loop) == pytest.approx(0.01)
    assert rate_at(100, loop) == pytest.approx(1.0)
    assert rate_at(550, loop) == pytest.approx(0.02 + 0.98 / 2, rel=1e-2)
    assert rate_at(999, loop) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, ema: float) -> None:
    def train(file: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 4)

        def losses(step, rng, generator):
            if step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 4, generator=generator) + float(rng.normal())
            return {"loss": (module(x) - x.flip(1)).square().mean()}

        # Saving after every step, as a slow step does with the usual interval.
        return run(module, losses, LoopConfig(12, 8, 0.01, warmup=2, ema=ema, save_minutes=0, bf16=False), file)

    whole = train(tmp_path / "whole.state")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken.state", stop_at=7)
    resumed = train(tmp_path / "broken.state")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)

    def losses(step, rng, generator):
        return {"loss": module.weight.sum() * (float("nan") if step == 3 else 1.0)}

    file = tmp_path / "nan.state"
    with pytest.raises(FloatingPointError, match="step 3"):
        run(module, losses, LoopConfig(5, 1, 0.01, save_minutes=0), file)
    assert torch.load(file, weights_only=True)["step"] == 3


def test_recipes_of_the_starter_are_readable_and_small_enough() -> None:
    from training.encoders import EncodersRecipe
    from training.evaluate.classifier import ClassifierRecipe
    from training.grounded import GroundedRecipe

    config = read_model(RECIPES / "starter" / "model.yaml")
    kinds = {
        "vae": VaeRecipe,
        "vocoder": VocoderRecipe,
        "vocoder_restored": VocoderRecipe,
        "encoders": EncodersRecipe,
        "grounded": GroundedRecipe,
        "classifier": ClassifierRecipe,
    }
    for name, kind in kinds.items():
        assert read_recipe(RECIPES / "starter" / f"{name}.yaml", kind).loop.steps > 0
    with torch.device("meta"):
        weights = sum(value.numel() for value in SoundingModel(config).state_dict().values())
    assert 2 * weights < 40e6


def test_recipe_errors_name_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "vae.yaml"
    file.write_text("loop: {steps: 1, batch: 1, lr: 0.1, stepz: 3}\n")
    with pytest.raises(ValueError, match=r"vae\.yaml.*loop\.stepz"):
        read_recipe(file, VaeRecipe)
    file.write_text("loop: {steps: 1, batch: many, lr: 0.1}\n")
    with pytest.raises(ValueError, match=r"loop\.batch is 'many'"):
        read_recipe(file, VaeRecipe)


def test_vae_and_vocoder_learn(
    data: Stamps, tiny_config: SoundingConfig, tiny_model: SoundingModel, tmp_path: Path
) -> None:
    loop = LoopConfig(steps=80, batch=4, lr=3e-3, warmup=5, log_every=10, bf16=False)
    seen: dict[str, list[float]] = {}

    import training.vae
    import training.vocoder

    def spying(module, losses, loop, file):
        def spy(step, rng, generator):
            named = losses(step, rng, generator)
            seen.setdefault(file.stem, []).append(named["l1" if "l1" in named else "mel"].item())
            return named

        return run(module, spy, loop, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.vae, "run", spying)
        patch.setattr(training.vocoder, "run", spying)
        vae = train_vae(tiny_config, VaeRecipe(loop, frames=32), data, tmp_path)
        train_vocoder(
            tiny_config,
            VocoderRecipe(loop, frames=24, resolutions=(256,), restored=0.2),
            data,
            tmp_path,
            start=tiny_model.vocoder.state_dict(),  # from scratch it stays too quiet for so few steps
            vae_weights=vae,
        )
    for distances in seen.values():
        assert np.mean(distances[-10:]) < 0.7 * np.mean(distances[:10])


def test_score_counts_ranks() -> None:
    logits = torch.tensor([[3.0, 1, 2, 0, -1, -2], [0, 5, 4, 3, 2, 1], [9, 8, 7, 6, 5, 4]])
    result = score(logits, torch.tensor([0, 0, 4]))
    assert (result.top1, result.top5, result.count) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)


def test_evaluation_hears_every_object(data: Stamps, tiny_model: SoundingModel) -> None:
    class Oracle(Judge):
        """Knows the real tones by their loudest frequency, and says "the first object" of all else."""

        def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
            loudest = torch.fft.rfft(waveform).abs().argmax(dim=1) * 16_000 / waveform.shape[1]
            tones = torch.tensor([TONES[stamp.name] for stamp in data.stamps])
            near = (loudest[:, None] - tones).abs() < 20
            return torch.cat([near.any(1, keepdim=True).logical_not(), near[:, 1:]], 1).float() + 2.0 * near

    settings = Namespace(seconds=0.64, steps=2, cfg=2.0, scheduler="dpm++", batch=4, per_object=2, pairs=3)
    figures = evaluate(tiny_model, data, Oracle(Classifier(len(data))), settings)
    assert figures["real"] == {"top1": 1.0, "top5": 1.0, "count": 6}
    assert figures["chance"]["top1"] == pytest.approx(1 / 3)
    assert figures["masked"]["count"] == figures["text"]["count"] == figures["copies"]["count"] == 6
    assert figures["masked"]["top1"] < 1  # a random model does not sing
    assert figures["masked_rank_by_object"].keys() == set(TONES)
    assert figures["pairs"]["count"] == 3


def test_moments_of_a_mask_meet_those_of_attention_in_training(tiny_config: SoundingConfig) -> None:
    from sounding.grounding import Grounding

    torch.manual_seed(0)
    grounding = Grounding(tiny_config.grounding, 16, 25).train()
    stds = []
    for _ in range(20):
        condition = grounding.by_query(torch.randn(8, 16) * 20, torch.randn(8, 25, 16))
        stds.append(condition.weights.std(dim=-1, unbiased=False).mean())
    assert float(grounding.weight_std) == pytest.approx(float(torch.stack(stds).mean().detach()), rel=1e-4)
    matched = match_moments((torch.rand(1, 25) > 0.5).float(), grounding.weight_std)
    assert float(matched.std(unbiased=False)) == pytest.approx(float(grounding.weight_std), rel=1e-4)


def test_manifest_is_json(data: Stamps, package: Path, tmp_path: Path) -> None:
    stamps.build(package, tmp_path)
    rows = json.loads((tmp_path / "manifest.json").read_text())
    assert {"name", "label", "caption", "image", "mask", "audio", "source", "licence", "seconds"} <= rows[0].keys()
    for row in rows:
        mask = np.asarray(Image.open(tmp_path / row["mask"]))
        assert mask.shape == np.asarray(Image.open(tmp_path / row["image"])).shape[:2]


def test_starter_run_exports_a_loadable_checkpoint(
    data: Stamps,
    tiny_config: SoundingConfig,
    tiny_model: SoundingModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safetensors.torch import save_file

    from training import starter

    monkeypatch.setattr(starter, "read_model", lambda path: tiny_config)
    training = starter.StarterRun(data, RECIPES / "starter", tmp_path)
    weights = tiny_model.state_dict()
    for stage, names in {
        "vae": ("vae.",),
        "encoders": ("patches.", "query."),
        "grounded": ("grounding.", "unet."),
        "vocoder_restored": ("vocoder.",),
    }.items():
        own = {name: value for name, value in weights.items() if name.startswith(names)}
        prefix = starter.PREFIXES.get(stage, "")
        save_file({name[len(prefix) :]: value for name, value in own.items()}, tmp_path / f"{stage}.safetensors")
    header = read_header(training.export())
    assert header.config.name == "tiny"
    assert header.config.vae.scale != tiny_config.vae.scale  # measured on this VAE's latents
    assert "GPL" in header.metadata["modelspec.license"]
