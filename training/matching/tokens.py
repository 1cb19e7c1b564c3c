"""Tokens of clips, computed once into shards: all that training and evaluating a matching network need."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.utils.fields import from_dict

from ..data.shard_folders import Folders
from ..data.shard_format import SAMPLE_RATE, Kind, Sample, known_of
from ..data.shards import Shards
from ..data.source import Source, hash_json
from .encoders import AudioEncoder, VisualEncoder
from .network import TokenConfig

FROM = "matching"  # what the settings of shards say
ENOUGH = 0.9  # of the frames that an encoder wants


class ShardClips(Source):
    """The clips of raw shards, as `python -m training prepare videos` makes them."""

    def __init__(self, folders: Folders):
        fields = ("id", "captions", "licence", "source", "seconds", "waveform", "images")
        self.raw = Shards(folders, fields, optional=("labels", "sounding"))

    def __len__(self) -> int:
        return len(self.raw)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        index = self.raw.index
        shards = [(shard.name, shard.bytes, shard.offsets) for shard in index.shards]
        return {"raw": index.settings, "inputs": hash_json(shards)}

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {position}"

    def make(self, position: int) -> Sample:
        """See Source."""
        row = self.raw[position]
        return Sample(**known_of(row), waveform=row["waveform"].numpy(), images=tuple(row["images"].numpy()))


class TokenSource(Source):
    """Tokens of another source's clips, made in this process.

    Raises:
        ValueError: see the encoders.
    """

    kind: Kind = "features"

    def __init__(self, clips: Source, visual: VisualEncoder, audio: AudioEncoder):
        self.clips, self.visual, self.audio = clips, visual, audio
        self._seen: tuple[tuple[np.ndarray, ...], Tensor] | None = None
        both = f"{visual.config.fingerprint} {visual.config.rate} {audio.config.fingerprint}"
        self.model = hashlib.sha256(both.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.clips)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        configs = {name: dataclasses.asdict(encoder.config) for name, encoder in self._encoders().items()}
        return {"from": FROM, "clips": self.clips.settings(), **configs}

    def name(self, position: int) -> str:
        """See Source."""
        return self.clips.name(position)

    def make(self, position: int) -> Sample:
        """See Source.

        Raises:
            ValueError: too few frames for the visual encoder's rate, or numbers that are not finite as float16.
        """
        clip = self.clips.make(position)
        assert clip.waveform is not None
        wanted = self.visual.config.steps(clip.seconds)
        if len(clip.images) < ENOUGH * wanted:
            raise ValueError(
                f"It has {len(clip.images)} frames in {clip.seconds:g} s, but {self.visual.config.rate:g} per second "
                f"are expected; prepare clips with --frames {wanted}."
            )
        waveform = torch.from_numpy(clip.waveform).float()
        made = {
            "visual_tokens": self._see(clip).half(),
            "audio_tokens": self.audio.encode(waveform, SAMPLE_RATE).half(),
        }
        for name, value in made.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"Its {name} are not finite as float16.")
        features = {name: value.contiguous().numpy() for name, value in made.items()}
        return dataclasses.replace(clip, waveform=None, images=(), masks=(), features=features)

    def _see(self, clip: Sample) -> Tensor:
        """Visual tokens [F, K, W]; those of the last clip are kept for one with the same frames and another sound."""
        if self._seen is None or not same_frames(self._seen[0], clip.images):
            chosen = frames_at(len(clip.images), clip.seconds, self.visual.config)
            frames = torch.stack([torch.from_numpy(clip.images[number]) for number in chosen])
            self._seen = clip.images, self.visual.encode(frames)
        return self._seen[1]

    def _encoders(self) -> dict[str, VisualEncoder | AudioEncoder]:
        return {"visual": self.visual, "audio": self.audio}


def same_frames(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> bool:
    """Whether two clips show the same."""
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def video_of(clip: str) -> str:
    """The video that a clip is of, by its id: without where it begins (`YTID_30`) or which take it is (`train-7@2`)."""
    return re.sub(r"(_\d+(\.\d+)?|@\d+)$", "", clip)


def frames_at(count: int, seconds: float, tokens: TokenConfig) -> list[int]:
    """Which of `count` evenly spaced frames of a clip of `seconds` are shown at the middles of the encoder's steps."""
    times = ((step + 0.5) / tokens.rate for step in range(tokens.steps(seconds)))
    return [min(count - 1, int(time * count / seconds)) for time in times]


def open_tokens(folders: Folders) -> tuple[Shards, TokenConfig, TokenConfig]:
    """Shards of tokens, and what encoders made the visual and the audio ones.

    Raises:
        ValueError: other shards, or damaged ones.
    """
    shards = Shards(folders, ("id", "visual_tokens", "audio_tokens"))
    configs: list[TokenConfig] = []
    for folder, index in shards.indices.items():
        if index.settings.get("from") != FROM:
            raise ValueError(
                f"{folder} holds no tokens for matching; make them with `python -m training prepare matching`."
            )
        try:
            configs = [from_dict(TokenConfig, dict(index.settings[name])) for name in ("visual", "audio")]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} is damaged ({error}); prepare it again.") from None
    return shards, configs[0], configs[1]


def window(tokens: Tensor, config: TokenConfig, start: float, seconds: float) -> Tensor:
    """Tokens [N, K, W] of the `seconds` that begin `start` seconds into their clip: the nearest whole steps.

    Raises:
        ValueError: the clip is shorter.
    """
    steps = config.steps(seconds)
    first = min(round(start * config.rate), len(tokens) - steps)
    if first < 0:
        raise ValueError(
            f"A clip has {len(tokens)} steps of {config.encoder} tokens, but windows of {seconds:g} s need {steps}."
        )
    return tokens[first : first + steps]
