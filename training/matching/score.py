"""Scores of clips: the probability that a sound belongs to frames, by a trained network and its encoders.

matcher = Matcher.open("runs/matching/matching.safetensors")
probability = matcher.score(frames, waveform, rate)
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import read_matching
from .encoders import AudioEncoder, VisualEncoder, reopen
from .network import MatchingConfig, MatchingNetwork
from .tokens import frames_at, window


class Matcher:
    """A matching network with the encoders that its tokens come from."""

    def __init__(self, network: MatchingNetwork, visual: VisualEncoder, audio: AudioEncoder):
        self.network, self.visual, self.audio = network.eval(), visual, audio

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, visual: str = "", audio: str = "", device: str = "cpu") -> Matcher:
        """A trained network, and the encoders that its file names.

        Args:
            path: what `python -m training run training/recipes/matching.yaml` wrote.
            visual: where the visual encoder's weights lie here, if elsewhere than in training.
            audio: the same for the audio encoder ("mel", "beats:FILE").
            device: of the network and the encoders.

        Raises:
            MatchingCheckpointError: another file, or a damaged one.
            ValueError: an encoder is missing, or has other weights than those in training.
        """
        network = read_matching(Path(path)).to(device)
        seeing, hearing = reopen(network.config.visual, network.config.audio, visual=visual, audio=audio, device=device)
        return cls(network, seeing, hearing)

    @property
    def config(self) -> MatchingConfig:
        """The network's, with the `threshold` that suits it."""
        return self.network.config

    def score(self, frames: Tensor, waveform: Tensor, rate: int) -> float:
        """The probability that frames and sound belong together.

        Args:
            frames: [F, H, W, 3] uint8 or 0..1 float, evenly spaced over the clip: number i at (i + 0.5) / F of its
                length. The network was trained on `config.visual.rate` per second; where there are fewer, some are
                seen twice.
            waveform: [samples], the clip's whole sound, -1..1.
            rate: of the sound, in Hz.

        Raises:
            ValueError: no frames or no sound, or values that are not finite.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise ValueError(f"frames have shape {tuple(frames.shape)}, but [F, H, W, 3] with one or more is expected.")
        if waveform.ndim != 1 or not len(waveform) or not torch.isfinite(waveform).all():
            raise ValueError(f"waveform has shape {tuple(waveform.shape)}, but finite [samples] are expected.")
        seconds = len(waveform) / rate
        chosen = frames[frames_at(len(frames), seconds, self.config.visual)]
        if chosen.is_floating_point():
            chosen = (chosen.clamp(0, 1) * 255).round().to(torch.uint8)
        visual, audio = self.visual.encode(chosen), self.audio.encode(waveform, rate)
        return float(clip_probability(self.network, visual[None], audio[None])[0])


@torch.inference_mode()
def clip_probability(network: MatchingNetwork, visual: Tensor, audio: Tensor) -> Tensor:
    """Scores [B] of clips' tokens [B, F, K, W] and [B, A, M, V]: the mean probability of windows as long as in
    training, calibrated.

    The windows are the fewest that cover the clip, evenly spread; a clip shorter than one is scored as it is.
    """
    config, device = network.config, network.summary.device
    lengths = (visual.shape[1] / config.visual.rate, audio.shape[1] / config.audio.rate)
    seconds, length = config.seconds, min(lengths)
    count = math.ceil((length - 1 / config.visual.rate) / seconds)  # less than a frame more needs no further window
    if count <= 1 and length <= seconds:
        return calibrated(network(visual.to(device), audio.to(device)).float().sigmoid().cpu(), config)
    found = []
    for number in range(max(1, count)):
        start = (length - seconds) * (number / (count - 1) if count > 1 else 0.5)
        pieces = [
            torch.stack([window(row, tokens, start, seconds) for row in rows])
            for rows, tokens in ((visual, config.visual), (audio, config.audio))
        ]
        found.append(network(pieces[0].float().to(device), pieces[1].float().to(device)).float().sigmoid())
    return calibrated(torch.stack(found).mean(dim=0).cpu(), config)


def calibrated(probability: Tensor, config: MatchingConfig) -> Tensor:
    """Probabilities as the network's configuration wants them."""
    if (config.slope, config.shift) == (1.0, 0.0):
        return probability
    return (config.slope * torch.logit(probability, eps=1e-6) + config.shift).sigmoid()
