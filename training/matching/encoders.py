"""Encoders of frames and sounds for matching: frozen, pluggable, described by a `TokenConfig`.

Frames: the patch tower of a checkpoint of ours ("starter" or a path), or published CLIP weights such as ViT-B/16, the
paper's (a folder or file that `sounding convert --clip` takes). Patches are averaged over a small grid of cells.
Sounds: "mel", patches of the log-mel spectrogram without any weights, or BEATs (`beats`), the paper's.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import fit_length, resample
from sounding.config import AudioConfig, PatchConfig
from sounding.encoders.patches import PatchEncoder

from .network import TokenConfig

MEL, BEATS = "mel", "beats:"
MEL_PATCH = 16  # frames of 10 ms, as long as BEATs' patches
FRAMES_AT_ONCE = {"cpu": 4}  # more are slower there; 64 elsewhere


class VisualEncoder(Protocol):
    """Frames to tokens."""

    config: TokenConfig

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [F, H, W, 3] uint8 -> [F, K, W] float32 on the CPU."""
        ...


class AudioEncoder(Protocol):
    """A sound to tokens."""

    config: TokenConfig

    def encode(self, waveform: Tensor, rate: int) -> Tensor:
        """A waveform [samples] at `rate` Hz -> [A, M, V] float32 on the CPU, A whole steps of it."""
        ...


class PatchTokens:
    """A patch tower, its patches averaged over cells x cells cells of each frame.

    Args:
        patches: the tower.
        encoder: what a checkpoint calls it.
        cells: per side; 1 averages the whole frame.
        rate: frames per second that are to be given.
        size: side of the square that frames are brought to; without it the tower's own. Convolutional towers alone
            take others.
    """

    def __init__(self, patches: PatchEncoder, encoder: str, *, cells: int = 1, rate: float = 8.0, size: int = 0):
        self.patches, self.cells = patches.requires_grad_(False).eval(), cells
        if size and size != patches.config.image_size:
            if patches.config.tower == "vit":
                raise ValueError(
                    f"Frames of {size} pixels were asked for, but {patches.config.model} takes "
                    f"{patches.config.image_size} alone; leave the size out."
                )
            grid = round(patches.config.grid * size / patches.config.image_size)
            patches.config = dataclasses.replace(patches.config, image_size=size, grid=grid)
        if not 1 <= cells <= patches.config.grid:
            raise ValueError(f"cells is {cells}, but 1 to {patches.config.grid}, the patches per side, is expected.")
        used = dataclasses.asdict(patches.config) | {"cells": cells}
        device = patches.mean.device
        self.at_once = FRAMES_AT_ONCE.get(device.type, 64)
        if device.type == "cpu" and patches.config.tower == "timm":
            for name, value in patches.named_parameters():
                if value.ndim == 4:  # convolutions take two thirds of the time so
                    patches.get_parameter(name).data = value.data.contiguous(memory_format=torch.channels_last)
        self.config = TokenConfig(
            encoder=encoder,
            width=patches.config.width,
            per_step=cells**2,
            rate=rate,
            size=patches.config.image_size,
            fingerprint=fingerprint(patches, repr(sorted(used.items()))),
        )

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """See `VisualEncoder`."""
        made = [self.patches(part / 255.0).float() for part in frames.split(self.at_once)]
        patches = torch.cat(made)  # [F, P, L]
        square = patches.transpose(1, 2).unflatten(-1, (self.patches.config.grid, -1))
        return nn.functional.adaptive_avg_pool2d(square, self.cells).flatten(2).transpose(1, 2).cpu()


class MelPatches:
    """Patches of 16 frames (0.16 s) of the log-mel spectrogram over all bands, or over `bands` groups of bands.

    The loudest value of a clip becomes 1 and what is 78 dB (9 nepers) below it -2, so that the level does not count.
    """

    def __init__(self, bands: int = 1):
        config = AudioConfig()
        if config.mel_bands % bands:
            raise ValueError(f"bands is {bands}, but a divisor of {config.mel_bands} is expected.")
        self.to_mel, self.bands = MelSpectrogram(config), bands
        self.patch = MEL_PATCH * config.hop  # samples
        self.config = TokenConfig(
            encoder=MEL,
            width=MEL_PATCH * config.mel_bands // bands,
            per_step=bands,
            rate=config.sample_rate / self.patch,
            fingerprint=hashlib.sha256(f"mel {config} {MEL_PATCH} {bands}".encode()).hexdigest(),
        )

    @torch.inference_mode()
    def encode(self, waveform: Tensor, rate: int) -> Tensor:
        """See `AudioEncoder`."""
        sound = resample(waveform.cpu(), rate, self.to_mel.config.sample_rate).float()
        steps = max(1, len(sound) // self.patch)
        mel = self.to_mel(fit_length(sound, steps * self.patch)[None])[0]  # [16 * steps, 64]
        level = (mel - mel.max()).clamp(min=-9) / 3 + 1
        return level.view(steps, MEL_PATCH, self.bands, -1).transpose(1, 2).flatten(2)


def open_visual(
    encoder: str, *, cells: int = 1, rate: float = 8.0, size: int = 0, device: str = "cpu"
) -> VisualEncoder:
    """The visual encoder of a name: "starter", a checkpoint of ours, or the folder or file of published CLIP weights.

    Raises:
        ValueError: neither of them, or settings that the tower does not take.
    """
    return PatchTokens(_patches(encoder).to(device), encoder, cells=cells, rate=rate, size=size)


def open_audio(encoder: str, *, bands: int = 1, device: str = "cpu") -> AudioEncoder:
    """The audio encoder of a name: "mel", or "beats:FILE" with Microsoft's checkpoint.

    Raises:
        ValueError: another name, a file that is no BEATs, or the library for it is missing.
    """
    if encoder == MEL:
        return MelPatches(bands)
    if encoder.startswith(BEATS):
        from .beats import BeatsTokens

        return BeatsTokens(Path(encoder.removeprefix(BEATS)), device=device)
    raise ValueError(f"The audio encoder is {encoder!r}, but mel or beats:FILE is expected.")


def reopen(
    seen: TokenConfig, heard: TokenConfig, *, visual: str = "", audio: str = "", device: str = "cpu"
) -> tuple[VisualEncoder, AudioEncoder]:
    """The encoders that made tokens, to make more of the same; `visual` and `audio` say where they lie, if elsewhere.

    Raises:
        ValueError: an encoder cannot be opened, or is not the one of the tokens.
    """
    cells = round(seen.per_step**0.5)
    seeing = open_visual(visual or seen.encoder, cells=cells, rate=seen.rate, size=seen.size, device=device)
    hearing = open_audio(audio or heard.encoder, bands=heard.per_step, device=device)
    for opened, wanted in ((seeing.config, seen), (hearing.config, heard)):
        if dataclasses.replace(opened, encoder=wanted.encoder) != wanted:
            raise ValueError(
                f"{opened.encoder} is not the encoder that the matching network was trained with ({wanted.encoder}); "
                "give the same weights."
            )
    return seeing, hearing


def fingerprint(module: nn.Module, used: str) -> str:
    """SHA-256 of a module's weights and of how they are used."""
    total = hashlib.sha256(used.encode())
    for name, value in sorted(module.state_dict().items()):
        exact = value.detach().float() if value.is_floating_point() else value
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(exact.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _patches(encoder: str) -> PatchEncoder:
    from sounding.checkpoint import CheckpointError, read_header, resolve

    try:
        header = read_header(resolve(encoder))
    except CheckpointError as error:
        if encoder == "starter" or not Path(encoder).exists():
            raise
        return _clip(Path(encoder), error)
    import sounding

    return sounding.load(str(header.path), device="cpu", dtype=torch.float32, parts=("patches",)).patches


def _clip(path: Path, error: Exception) -> PatchEncoder:
    from sounding.convert.clip import read_clip

    try:
        converted = read_clip(path)
    except ValueError as other:
        raise ValueError(f"{path} is neither a checkpoint ({error}) nor CLIP's weights ({other}).") from None
    assert isinstance(converted.config, PatchConfig)
    encoder = PatchEncoder(converted.config)
    encoder.load_state_dict(converted.tensors)
    return encoder
