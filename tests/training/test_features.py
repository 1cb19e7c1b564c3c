"""Features of raw shards: what the model makes of them, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sounding.config import QueryConfig, SoundingConfig
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel
from training.data import features
from training.data.prepare import app
from training.data.shard_format import Sample, ShardIndex, Skipped
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.source import Source
from training.tasks.grounded import GroundedItems, GroundedSettings

from ..conftest import ROOT
from .video_material import content

# On CPUs `accelerate launch` begins one process, whatever number it is given; what it calls for GPUs begins two.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


class Mixed(Source):
    """Raw samples of several sizes, lengths and numbers of frames and captions, with and without masks."""

    def __len__(self) -> int:
        return 7

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return f"mixed-{position}"

    def make(self, position: int) -> Sample:
        rng = np.random.default_rng(position)
        height, width = 40 + 10 * position, 70
        masked = position in (1, 4)
        return Sample(
            id=self.name(position),
            captions=tuple(f"sound {i} of {position}" for i in range(position % 3)),
            licence="CC0",
            source="the test",
            seconds=1.28,
            labels=(5, 6, 7) if masked else None,
            sounding=(0, 2) if position == 4 else None,
            waveform=rng.uniform(-0.2, 0.3, (20_480, 12_000, 30_000)[position % 3]),  # the model trains on 20480
            images=tuple(rng.integers(0, 256, (1 + position % 2, height, width, 3), dtype=np.uint8)),
            masks=tuple(rng.integers(0, 256, (3, height, width), dtype=np.uint8)) if masked else (),
        )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    make_shards(Mixed(), out, shard_size=3)
    return out


def test_features_are_what_the_model_makes(
    mixed: Path, tiny_model: SoundingModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    command = ["features", "--raw", str(mixed), "--model", str(tiny_checkpoint), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--batch", "3", "--shard-size", "4"])
    assert result.exit_code == 0, result.output
    fields = ("id", "captions", "patches", "queries", "mean", "std")
    found = Shards(out, fields, optional=("coverage", "backdrop", "labels", "sounding"))
    raw = Shards(mixed, ("id", "captions", "waveform", "images"), optional=("masks", "sounding"))
    assert found.index.model == features.fingerprint(tiny_model)
    assert found.index.kind == "features"
    assert [shard.samples for shard in found.index.shards] == [4, 3]
    close = {"atol": 2e-3, "rtol": 2e-3}
    for sample, given in zip(found, raw, strict=True):
        assert sample["id"] == given["id"]
        picture = given["images"] / 255
        torch.testing.assert_close(sample["patches"].float(), tiny_model.see(picture), **close)
        sound = given["waveform"][:20_480]
        sound = sound - sound.mean()
        padded = torch.nn.functional.pad(0.5 * sound / sound.abs().max(), (0, 20_480 - len(sound)))
        if len(sound) == 20_480:
            latents = tiny_model.encode(given["waveform"][None, :20_480])[0]
            torch.testing.assert_close(sample["mean"].float(), latents, **close)
        mean, std = _posterior(tiny_model, padded)
        torch.testing.assert_close(sample["mean"].float(), mean, **close)
        torch.testing.assert_close(sample["std"].float(), std, **close)
        assert sample["queries"].shape == (len(given["captions"]), 16)
        if given["captions"]:
            expected = tiny_model.query.encode(given["captions"])
            torch.testing.assert_close(sample["queries"].float(), expected, **close)
        assert ("coverage" in sample) == ("masks" in given)
        if "masks" in given:
            union = np.max([given["masks"][i].numpy() for i in given.get("sounding", [0, 1, 2])], axis=0)
            grid = mask_to_grid(torch.from_numpy(union)[None] / 255, union.shape, tiny_model.config.patches)[0]
            torch.testing.assert_close(sample["coverage"].float(), grid, atol=1e-3, rtol=1e-3)
            free = 1 - torch.from_numpy(np.max(given["masks"].numpy(), axis=0))[None] / 255
            grid = mask_to_grid(free, union.shape, tiny_model.config.patches)[0]
            torch.testing.assert_close(sample["backdrop"].float(), grid, atol=1e-3, rtol=1e-3)
            assert sample["labels"] == [5, 6, 7]


def _posterior(model: SoundingModel, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation computed another way: the mel spectrogram is librosa's."""
    import librosa

    padded = np.pad(waveform.numpy(), 432, mode="reflect")
    spectrum = np.abs(librosa.stft(padded, n_fft=1024, hop_length=160, center=False))
    filters = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    mel = torch.from_numpy(np.log(np.maximum(filters @ spectrum, 1e-5)).T)
    with torch.no_grad():
        found = model.vae.encode(mel[None, None].float()).latent_dist
    scale = model.config.vae.scale
    return found.mean[0] * scale, found.std[0] * scale


def test_damaged_raw_samples_are_skipped(mixed: Path, tiny_model: SoundingModel, tmp_path: Path) -> None:
    raw = shutil.copytree(mixed, tmp_path / "raw")
    tar = raw / "shard-000001.tar"
    data = tar.read_bytes()
    at = data.index(b"fLaC") + 60
    tar.write_bytes(data[:at] + bytes(400) + data[at + 400 :])
    index = make_shards(features.FeatureSource(raw, tiny_model, batch=2), tmp_path / "out", shard_size=100)
    assert index.samples == 6
    assert [skipped.id for skipped in index.skipped] == ["sample 3"]
    assert "is damaged" in index.skipped[0].why
    shards = Shards(tmp_path / "out", ("id",))
    assert [sample["id"] for sample in shards] == [f"mixed-{i}" for i in (0, 1, 2, 4, 5, 6)]


def test_features_of_another_model_or_kind_are_refused(
    mixed: Path, tiny_model: SoundingModel, tiny_config: Any, tmp_path: Path
) -> None:
    make_shards(features.FeatureSource(mixed, tiny_model), tmp_path)
    torch.manual_seed(1)
    other = SoundingModel(tiny_config)
    with pytest.raises(ValueError, match="was made with model"):
        make_shards(features.FeatureSource(mixed, other), tmp_path)
    with pytest.raises(ValueError, match="features shards, which have no 'waveform'"):
        features.FeatureSource(tmp_path, tiny_model)


def test_fingerprint_names_encoders_vae_and_scale(tiny_model: SoundingModel, tiny_config: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "half.safetensors", dtype=torch.float16)
    single, half = (
        SoundingModel.from_pretrained(tmp_path / "half.safetensors", dtype=kind)
        for kind in (torch.float32, torch.float16)
    )
    first = features.fingerprint(single)
    assert features.fingerprint(half) == first
    single.unet.conv_in.bias.data += 1
    assert features.fingerprint(single) == first
    for part in ("patches", "query", "vae"):
        weight = next(getattr(single, part).parameters())
        weight.data += 1e-3
        assert features.fingerprint(single) != first
        weight.data = SoundingModel.from_pretrained(tmp_path / "half.safetensors").require(part).data
        assert features.fingerprint(single) == first
    single.config = dataclasses.replace(tiny_config, vae=dataclasses.replace(tiny_config.vae, scale=0.5))
    assert features.fingerprint(single) != first


def test_features_of_another_length_are_refused_in_a_sentence(
    mixed: Path, tiny_model: SoundingModel, tiny_config: SoundingConfig, tmp_path: Path
) -> None:
    make_shards(features.FeatureSource(mixed, tiny_model), tmp_path / "new")
    longer = SoundingModel(dataclasses.replace(tiny_config, train_seconds=10.24))
    longer.load_state_dict(tiny_model.state_dict())
    assert features.fingerprint(longer) != features.fingerprint(tiny_model)
    said = r"made of sounds of 1\.28 s, but this run trains on 10\.24 s; prepare them again with --seconds 10\.24"
    with pytest.raises(ValueError, match=said):
        features.check_features(Shards(tmp_path / "new", ("id",)), longer)
    with pytest.raises(ValueError, match=r"was made with train_seconds 1\.28, but 10\.24 came"):
        make_shards(features.FeatureSource(mixed, longer), tmp_path / "new")
    # What an earlier version made is named by its weights alone, and goes on being used where the length fits.
    old = shutil.copytree(tmp_path / "new", tmp_path / "old")
    index = dataclasses.replace(ShardIndex.read(old), model=features.weights_fingerprint(tiny_model), bare=None)
    index.write(old)
    features.check_features(Shards(old, ("id",)), tiny_model)
    assert make_shards(features.FeatureSource(mixed, tiny_model), old).samples == 7
    with pytest.raises(ValueError, match=said):
        features.check_features(Shards(old, ("id",)), longer)
    for folder in (old, tmp_path / "new"):
        with pytest.raises(ValueError, match=r"3 samples .* neither a caption nor a mask \(the first is mixed-0\)"):
            features.check_conditions(Shards(folder, ("id",)), 0.0)


def test_what_grounding_is_asked_by_is_looked_for_before_training(
    mixed: Path, tiny_model: SoundingModel, tmp_path: Path
) -> None:
    class Captioned(Mixed):
        def make(self, position: int) -> Sample:
            return dataclasses.replace(super().make(position), captions=("a sound",))

    make_shards(Captioned(), tmp_path / "raw")
    out = tmp_path / "features"
    make_shards(features.FeatureSource(tmp_path / "raw", tiny_model), out)
    index = ShardIndex.read(out)
    assert (index.bare, index.masked) == ((), 2)
    GroundedItems(out, tiny_model, GroundedSettings())
    taught = dataclasses.replace(
        tiny_model.config, grounding=dataclasses.replace(tiny_model.config.grounding, mask_training=0.5)
    )
    masks = SoundingModel(taught)
    masks.load_state_dict(tiny_model.state_dict())
    with pytest.raises(
        ValueError, match=r"5 of 7 samples in .*features have no mask, .* with grounding\.mask_training 0\.5"
    ):
        GroundedItems(out, masks, GroundedSettings())


def test_raw_folders_combine_into_features(mixed: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(mixed, tmp_path / "raw" / name)
    command = ["features", "--model", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path / "features")]
    result = CliRunner().invoke(app, [*command, "--raw", str(tmp_path / "raw" / "*"), "--seconds", "0.64"])
    assert result.exit_code == 0, result.output
    assert "14 samples" in result.output
    assert "6 samples have neither a caption nor a mask" in result.output
    made = Shards(tmp_path / "features", ("id", "mean"))
    assert [made[i]["id"] for i in (0, 7)] == ["mixed-0", "mixed-0"]
    assert made[0]["mean"].shape == (8, 16, 16)


def test_one_sample_that_the_model_cannot_take_does_not_end_a_run(
    mixed: Path, tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = features.encode_batch

    def choosy(model: SoundingModel, samples: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        if any(sample["id"] == "mixed-4" for sample in samples):
            raise RuntimeError("not this one")
        return encode(model, samples)

    monkeypatch.setattr(features, "encode_batch", choosy)
    index = make_shards(features.FeatureSource(mixed, tiny_model, batch=3), tmp_path)
    assert index.samples == 6
    assert [(skip.id, skip.why) for skip in index.skipped] == [("mixed-4", "RuntimeError: not this one")]

    def full(model: SoundingModel, samples: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(features, "encode_batch", full)
    with pytest.raises(torch.OutOfMemoryError):
        make_shards(features.FeatureSource(mixed, tiny_model, batch=3), tmp_path / "other")


def test_a_model_that_is_asked_by_sound_gets_its_queries_from_sounds(tiny_config: SoundingConfig, mixed: Path) -> None:
    query = QueryConfig(tower="clap_audio", width=16, hidden=8, heads=1, depths=(1, 1, 1, 1), tokenizer="")
    model = SoundingModel(dataclasses.replace(tiny_config, query=query))
    rows = Shards(mixed, ("captions", "waveform", "images"))
    made = features.encode_batch(model, [rows[0], rows[1]])
    expected = model.query.encode(rows[1]["waveform"][None], 16_000)  # type: ignore[call-arg, arg-type]
    assert made[1]["queries"].shape == (1, 16)
    torch.testing.assert_close(made[1]["queries"], expected.half())


def test_two_launched_processes_make_the_bytes_of_one(mixed: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    class Stopped(features.FeatureSource):
        def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
            if first >= 2:
                raise KeyboardInterrupt
            return super().samples(first, last)

    arguments = ["features", "--raw", str(mixed), "--model", str(tiny_checkpoint), "--device", "cpu"]
    arguments += ["--shard-size", "2", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    result = CliRunner().invoke(app, [*arguments, str(one)])
    assert result.exit_code == 0, result.output
    model = SoundingModel.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with pytest.raises(KeyboardInterrupt):
        make_shards(Stopped(mixed, model, threads=4), two, shard_size=2)
    begun = (two / "shard-000000.tar").stat().st_mtime_ns

    def launch() -> subprocess.CompletedProcess[str]:
        command = [*LAUNCH, "-m", "training", "prepare", *arguments, str(two)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = launch()
    assert done.returncode == 0, done.stderr
    assert content(two) == content(one)
    assert (two / "shard-000000.tar").stat().st_mtime_ns == begun
    assert done.stdout.count("7 samples in 4 shards") == 1
    (two / "shards.json").write_text((two / "shards.json").read_text().replace('"shard_size": 2', '"shard_size": 3'))
    refused = launch()
    assert refused.returncode != 0
    assert "was made with shard_size 3, but 2 came" in refused.stderr
