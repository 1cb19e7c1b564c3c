"""What frozen parts of a model make of raw shards: all that training of grounding and U-Net needs of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sounding.audio.mel import MelSpectrogram, normalize
from sounding.audio.resampling import fit_length
from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel, load

from .shard_folders import Folders
from .shard_format import Kind, Sample, Skipped, known_of, reason
from .shards import Shards
from .source import Source, hash_json
from .storage import StorageError

T = TypeVar("T")
FROZEN = ("patches", "query", "vae")
# What is wrong with the device is wrong for every sample. `AcceleratorError` came with torch 2.8.
FATAL = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


def fingerprint(model: SoundingModel) -> str:
    """Names what features depend on: weights of the patch and query encoders and the VAE, their configuration,
    the mel's and the latents' scale, and the length of the sounds. Equal for a float16 and a float32 copy of equal
    weights.
    """
    return _with_seconds(weights_fingerprint(model), model.config.train_seconds)


def _with_seconds(weights: str, seconds: float) -> str:
    return hashlib.sha256(f"{weights} {float(seconds)!r}".encode()).hexdigest()


def weights_fingerprint(model: SoundingModel) -> str:
    """As `fingerprint`, but for the sounds' length: what features of earlier versions are named by."""
    config = dataclasses.asdict(model.config)
    config["query"]["tokenizer"] = ""  # a folder of this machine
    total = hashlib.sha256(json.dumps({part: config[part] for part in (*FROZEN, "audio")}, sort_keys=True).encode())
    for part in FROZEN:
        for piece in weight_bytes(getattr(model, part), f"{part}."):
            total.update(piece)
    return total.hexdigest()


def weight_bytes(network: torch.nn.Module, prefix: str = "") -> Iterator[bytes | memoryview]:
    """Names, shapes and values of weights for a digest, float16 as the float32 numbers that it stands for."""
    for name, value in sorted(network.state_dict().items()):
        yield f"{prefix}{name} {tuple(value.shape)}".encode()
        exact = value.detach().float() if value.is_floating_point() else value
        yield exact.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def check_features(shards: Shards, model: SoundingModel) -> None:
    """Whether all features were made by this model's frozen parts, of sounds as long as it trains on.

    Raises:
        ValueError: they were not; says which.
    """
    weights, seconds = weights_fingerprint(model), model.config.train_seconds
    for folder, index in shards.indices.items():
        made = index.settings.get("train_seconds")
        if index.model != _with_seconds(weights, seconds) and isinstance(made, (int, float)) and made != seconds:
            raise ValueError(
                f"The features in {folder} were made of sounds of {made:g} s, but this run trains on {seconds:g} s; "
                f"prepare them again with --seconds {seconds:g}, or give model.train_seconds={made:g}."
            )
        if index.model not in (weights, _with_seconds(weights, seconds)):
            raise ValueError(
                f"The features in {folder} were made with other encoders or another VAE than this run starts with; "
                "prepare them again with the checkpoint that `start` names."
            )


def check_conditions(shards: Shards, mask_training: float) -> None:
    """Whether every sample has what grounding is asked by: a caption or a mask and, where training takes masks, a mask.

    Raises:
        ValueError: some do not; names the first.
    """
    for folder, index in shards.indices.items():
        bare, masked = index.bare, index.masked
        if bare is None or masked is None:  # of an earlier version, which did not look
            described = Shards(str(folder), ("id", "queries"), optional=("coverage",))
            rows = [described[number] for number in range(len(described))]
            bare = tuple(row["id"] for row in rows if "coverage" not in row and not len(row["queries"]))
            masked = sum("coverage" in row for row in rows)
        if bare:
            raise ValueError(
                f"{len(bare)} samples in {folder} have neither a caption nor a mask (the first is {bare[0]}), but one "
                "is needed; give them captions or masks, or leave them out, and prepare raw shards and features again."
            )
        if mask_training and masked < index.samples:
            raise ValueError(
                f"{index.samples - masked} of {index.samples} samples in {folder} have no mask, but every one needs it "
                f"with grounding.mask_training {mask_training:g}; give data with masks, or set it to 0."
            )


def posterior(model: SoundingModel, waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation [B, 8, T/4, 16] of the VAE's posterior times the latents' scale.

    Sounds [samples] of any lengths are cut to the seconds that the model trains on, then brought to a level and
    padded as `SoundingModel.encode` does (section 4.1: "truncated or zero-padded").
    """
    config, like = model.config, next(model.vae.parameters())
    frames = config.latent_frames(config.train_seconds) * config.vae.stride
    fitted = [
        fit_length(normalize(sound[: config.train_samples].float()), frames * config.audio.hop) for sound in waveforms
    ]
    mel = MelSpectrogram(config.audio).to(like.device)(torch.stack(fitted).to(like.device))
    normal = config.vae.normal(mel).to(like)
    found = model.vae.encode(normal).latent_dist
    return found.mean.float() * config.vae.scale, found.std.float() * config.vae.scale


@torch.inference_mode()
def encode_batch(model: SoundingModel, samples: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Features of samples with the fields captions, waveform, images and, where they have them, masks and
    sounding: patches [F, P, L], queries [C, L], mean and std [8, T/4, 16], and with masks coverage [P] by all
    that sounds and backdrop [P], what no object covers; float16 on the CPU.
    """
    mean, std = posterior(model, [sample["waveform"] for sample in samples])
    pixels = [model.patches.preprocess(sample["images"] / 255.0) for sample in samples]  # each [F, 3, S, S]
    patches = model.patches.encode_pixels(torch.cat(pixels)).split([len(frames) for frames in pixels])
    found = []
    for i, query in enumerate(_queries(model, samples)):
        features = {"patches": patches[i], "queries": query, "mean": mean[i], "std": std[i]}
        if (masks := samples[i].get("masks")) is not None:
            sounding = samples[i].get("sounding") or range(len(masks))
            shown = masks / 255.0
            both = torch.stack([shown[list(sounding)].amax(dim=0), 1 - shown.amax(dim=0)])
            size = (samples[i]["images"].shape[1], samples[i]["images"].shape[2])
            features["coverage"], features["backdrop"] = mask_to_grid(both, size, model.config.patches)
        found.append({name: value.half().cpu().contiguous() for name, value in features.items()})
    return found


def _queries(model: SoundingModel, samples: list[dict[str, Any]]) -> Sequence[Tensor]:
    """[C, L] a sample: of its captions or, for a model that is asked by sound, of its own sound."""
    if isinstance(model.query, ClapAudioQuery):
        rate = model.config.audio.sample_rate
        return [model.query.encode(sample["waveform"][None], rate) for sample in samples]
    captions = [caption for sample in samples for caption in sample["captions"]]
    queries = model.query.encode(captions) if captions else torch.zeros(0, model.config.query.width)
    return queries.split([len(sample["captions"]) for sample in samples])


class FeatureSource(Source):
    """Features of a folder of raw shards, made in this process; `threads` read and decode ahead of the model.

    Numbers of one batch depend on each other only by rounding: another `batch` gives features that differ in
    the last bit.

    Raises:
        ValueError: not a folder of raw shards, or bad numbers.
    """

    kind: Kind = "features"

    def __init__(self, raw: Folders, model: SoundingModel, *, batch: int = 16, threads: int = 2):
        if batch < 1 or threads < 1:
            raise ValueError(f"batch {batch} and {threads} threads came, but 1 or more of both are expected.")
        fields = ("id", "captions", "licence", "source", "seconds", "waveform", "images")
        self.raw = Shards(raw, fields, optional=("labels", "sounding", "masks"))
        self.network, self.batch, self.threads = model, batch, threads
        # A convolutional tower takes two thirds of the time so.
        model.patches.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = weights_fingerprint(model)
        self.model, self.former = _with_seconds(weights, model.config.train_seconds), weights

    def __len__(self) -> int:
        return len(self.raw)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        index = self.raw.index
        shards = [(shard.name, shard.bytes, shard.offsets) for shard in index.shards]
        return {
            "from": "features",
            "train_seconds": self.network.config.train_seconds,
            "raw": index.settings,
            "inputs": hash_json(shards),
        }

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {position}"

    def make(self, position: int) -> Sample:
        """See Source."""
        return self._described(*self._encode([self.raw[position]])[0])

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        """See Source; the model sees `batch` samples at once."""
        batch: list[dict[str, Any]] = []
        for item in _ahead(self._read, range(first, last), self.threads, 2 * self.batch):
            if isinstance(item, dict):
                batch.append(item)
            if isinstance(item, Skipped) or len(batch) == self.batch:
                yield from self._made(batch)
                batch = []
            if isinstance(item, Skipped):
                yield item
        yield from self._made(batch)

    def _read(self, position: int) -> dict[str, Any] | Skipped:
        try:
            return self.raw[position]
        except StorageError:
            raise  # nothing is wrong with the sample
        except Exception as error:  # decoders raise almost every kind for broken data
            return Skipped(self.name(position), reason(error))

    def _made(self, batch: list[dict[str, Any]]) -> Iterator[Sample | Skipped]:
        try:
            made = self._encode(batch) if batch else []
        except FATAL:
            raise
        except Exception as error:  # of one sample, so that the others are made without it
            if len(batch) == 1:
                yield Skipped(batch[0]["id"], reason(error))
            else:
                for sample in batch:
                    yield from self._made([sample])
            return
        for sample, features in made:
            try:
                yield self._described(sample, features)
            except ValueError as error:
                yield Skipped(sample["id"], reason(error))

    def _encode(self, batch: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        return list(zip(batch, encode_batch(self.network, batch), strict=True))

    def _described(self, sample: dict[str, Any], features: dict[str, Tensor]) -> Sample:
        arrays: dict[str, np.ndarray] = {name: value.numpy() for name, value in features.items()}
        bad = [name for name, value in arrays.items() if not np.isfinite(value).all()]
        if bad:
            raise ValueError(f"Its {bad[0]} are not finite as float16.")
        return Sample(**known_of(sample), features=arrays)


@dataclass(frozen=True)
class OpenFeatures:
    """Opens a `FeatureSource` in any process: folders of raw shards, and the model from its file.

    `seconds` is the length of the sounds, if it is not the checkpoint's own.
    """

    raw: tuple[str, ...]
    model: str
    batch: int = 16
    threads: int = 2
    seconds: float | None = None

    def __call__(self, device: str) -> FeatureSource:
        """The source, its model on a device.

        Raises:
            ValueError, OSError: the model's file or the raw shards cannot be read.
        """
        # Made once and used for long, so in full precision.
        model = load(self.model, device=device, dtype=torch.float32)
        if self.seconds is not None:
            model.config = dataclasses.replace(model.config, train_seconds=self.seconds)
        return FeatureSource(self.raw, model, batch=self.batch, threads=self.threads)


def _ahead(work: Callable[[int], T], numbers: range, threads: int, window: int) -> Iterator[T]:
    """`map(work, numbers)` by `threads`, at most `window` results ahead of the one that is asked for."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(work, number))
                if len(waiting) > window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
