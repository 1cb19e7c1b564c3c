"""HiFi-GAN (Kong et al. 2020) or Vocos: mel and multi-resolution STFT distances, and discriminators where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sounding.audio.mel import MelSpectrogram
from sounding.model import SoundingModel
from sounding.networks.build import build_vocoder
from sounding.networks.vocos import Vocos, uniform
from sounding.utils.fields import Checked, Length, Range

from ..data.settings import DataSettings
from ..data.sounds import Clips, find_clips
from ..engine.loader import Item
from ..engine.objective import Critic, Objective
from ..engine.settings import Frames, Scale, Share, Weight
from .discriminators import WaveformCritic
from .task import Context, Task

if TYPE_CHECKING:
    from transformers import SpeechT5HifiGan

QUIET = 0.005  # -46 dB
QUIETEST = 1e-3  # of a bin's magnitude; what is below differs from silence by less and less


@dataclass(frozen=True)
class VocoderSettings(Checked):
    """What the vocoder's trainer takes from a recipe. With discriminators, mel 45 and stft 0 is the published loss.

    Attributes:
        frames: length of the crops, in mel frames.
        mel: weight of the L1 of the log-mels.
        stft: weight of the multi-resolution STFT distance.
        energy: weight of the spectral energy distance, for a Vocos with noise; it takes two sounds per item.
        resolutions: FFT sizes of both distances.
        reconstructed: share of items whose mel is a sample of the VAE's posterior, decoded: what sampled latents become
            lacks what the VAE lost, and a vocoder that knows such mels can make up for it.
        critic: scales the widths of the multi-period and multi-scale discriminators (0: none, 1: the published ones).
        adversarial: weight of the generator's adversarial loss.
        matching: weight of feature matching.
        mel_mean, mel_std: of the log-mels, for a vocoder that normalises its input and starts from random weights.
    """

    frames: Frames = 48
    mel: Weight = 1.0
    stft: Weight = 1.0
    energy: Weight = 0.0
    resolutions: Annotated[tuple[Annotated[int, Range(16, 65_536)], ...], Length(1, 16)] = (256, 512, 1024, 2048)
    reconstructed: Share = 0.0
    critic: Scale = 0.0
    adversarial: Weight = 1.0
    matching: Weight = 2.0
    mel_mean: Annotated[float, Range(-100, 100)] = -4.6
    mel_std: Annotated[float, Range(1e-3, 100)] = 2.2


def magnitudes(sounds: Tensor, size: int) -> Tensor:
    """[B, samples] -> [B, bins, T] of an STFT of `size` points in steps of a quarter."""
    window = torch.hann_window(size, device=sounds.device)
    return torch.stft(sounds, size, size // 4, window=window, return_complex=True).abs()


def stft_distance(made: Tensor, real: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Spectral convergence plus log-magnitude L1 (Yamamoto et al. 2020), averaged over FFT sizes and items.

    Both [B, samples].
    """
    total = made.new_zeros(())
    for size in sizes:
        a, b = (magnitudes(x, size).clamp(min=1e-5) for x in (made, real))
        # Near silence the ratio would grow without bounds: nothing counts as quieter than noise at an RMS of QUIET.
        quiet = QUIET * (3 / 8 * size * a[0].numel()) ** 0.5
        convergence = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp(min=quiet)
        total = total + convergence.mean() + (a.log() - b.log()).abs().mean()
    return total / len(sizes)


def spectral_energy_distance(real: Tensor, made: Tensor, again: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """How far sounds are from being drawn as real ones are (Gritsenko et al. 2020, equation 5, without constants).

    Twice the distance from what is real, less the distance from each other: an energy distance, least if noise makes of
    a spectrogram what nature does. A sound that is the mean of all that are possible is not near any of them, but one
    that is possible is as near to the real one as two real ones are.

    Args:
        real, made, again: [B, samples]; the last two of the same spectrograms by independent noise.
        sizes: of the FFTs.
    """
    total = real.new_zeros(())
    for size in sizes:
        loudness = (3 / 8 * size) ** 0.5  # of noise with an RMS of 1
        a, b, c = (magnitudes(x, size) / loudness for x in (real, made, again))
        total = total + _spectral_norm(a, b) + _spectral_norm(a, c) - _spectral_norm(b, c)
    return total / len(sizes)


def _spectral_norm(a: Tensor, b: Tensor) -> Tensor:
    """L1 of magnitudes plus L2 of their logarithms, over the bins of a frame; the mean over frames. [B, bins, T]."""
    linear = (a - b).abs().sum(dim=1).mean()
    logs = ((a + QUIETEST).log() - (b + QUIETEST).log()).square().sum(dim=1)
    scale = (2 * (a.shape[1] - 1)) ** 0.5
    return (2 * linear + (logs + 1e-4).sqrt().mean()) / scale


class VocoderItems:
    """Crops of sounds, as waveforms [samples]."""

    def __init__(self, clips: Clips, model: SoundingModel, settings: VocoderSettings):
        self.clips = clips
        stride = model.config.vae.stride
        self.samples = settings.frames // stride * stride * model.config.audio.hop
        audio = model.config.audio
        self.noise = (2, self.samples // audio.hop, audio.mel_bands) if settings.energy else ()
        self.reconstructed, latents = settings.reconstructed, model.config.vae.latent_channels
        self.latents = (latents, self.samples // audio.hop // stride, model.config.latent_bands)
        widest = max(settings.resolutions)
        if self.samples <= widest // 2:  # what `torch.stft` reflects at the ends
            raise ValueError(
                f"vocoder.frames {settings.frames} are {self.samples} samples, but more than half of the largest of "
                f"vocoder.resolutions ({widest}) is expected; ask for more frames, or leave that one out."
            )

    def __len__(self) -> int:
        return len(self.clips)

    def ids(self) -> Sequence[str]:
        """See `NamedItems`."""
        return self.clips.ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """waveform [samples], with an energy distance noise [2, T, bands] between 0 and 1, and where mels are to be
        reconstructed whether this one is, with the noise [C, T/4, bands/4] that samples the posterior.
        """
        item: Item = {"waveform": self.clips.crop(index, self.samples, rng)}
        if self.reconstructed:
            item["reconstructed"] = bool(rng.random() < self.reconstructed)
            item["latents"] = torch.from_numpy(rng.standard_normal(self.latents, np.float32))
        if self.noise:
            item["noise"] = torch.from_numpy(rng.random(self.noise, np.float32))
        return item


class VocoderObjective(Objective):
    """Learns a weight-normed copy of the model's vocoder; `install` folds it back."""

    def __init__(self, model: SoundingModel, settings: VocoderSettings, *, fresh: bool):
        super().__init__()
        self.settings, self.config = settings, model.config
        if settings.energy and not model.config.vocoder.noise:
            raise ValueError(
                "vocoder.energy is the distance of sounds that noise makes, but model.vocoder.noise is false; set it "
                "to true, or energy to 0."
            )
        self.generator = build_vocoder(model.config)
        self.generator.load_state_dict(model.vocoder.state_dict())
        if fresh and model.config.vocoder.normalize:
            self.generator.mean.fill_(settings.mel_mean)
            self.generator.scale.fill_(settings.mel_std)
        with_weight_norm(self.generator)
        self.requires_grad_(True)
        self.to_mel = MelSpectrogram(model.config.audio)
        self.adversarial_weight, self.matching_weight = settings.adversarial, settings.matching
        # Frozen, so no child module: neither states nor other processes need it.
        self._vae = [model.vae.requires_grad_(False)] if settings.reconstructed else []

    def place(self, device: torch.device) -> None:
        """Move the VAE, which is no child module."""
        for vae in self._vae:
            vae.to(device)

    def checkpoint_gradients(self) -> None:
        """Of the generator, its residual blocks, which keep most."""
        for block in self.generator.blocks if isinstance(self.generator, Vocos) else self.generator.resblocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        audio, frames = self.config.audio, self.settings.frames
        batch = {"waveform": torch.zeros(1, frames * audio.hop, device=device)}
        if self.settings.energy:
            batch["noise"] = torch.zeros(1, 2, frames, audio.mel_bands, device=device)
        if self.settings.reconstructed:
            vae = self.config.vae
            shape = (vae.latent_channels, frames // vae.stride, self.config.latent_bands)
            batch["reconstructed"] = torch.zeros(1, dtype=torch.bool, device=device)
            batch["latents"] = torch.zeros(1, *shape, device=device)
        return batch

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `VocoderItems`; mel is in nats of the log-mel."""
        real = batch["waveform"]
        mel = self.to_mel(real)  # [B, T, 64]
        given, again = self.input_mel(mel, batch), None
        if self.settings.energy:
            noise = uniform(batch["noise"])
            made, again = self.generator(given.repeat(2, 1, 1), noise.transpose(0, 1).flatten(0, 1)).chunk(2)
        else:
            made = self.generator(given).float()
        made = made[:, : real.shape[1]]  # some kernels end a few samples late
        mel_l1 = (self.to_mel(made) - mel).abs().mean()
        stft = stft_distance(made, real, self.settings.resolutions)
        losses = {"loss": self.settings.mel * mel_l1 + self.settings.stft * stft, "mel": mel_l1, "stft": stft}
        if again is not None:
            energy = spectral_energy_distance(real, made, again, self.settings.resolutions)
            losses["loss"] = losses["loss"] + self.settings.energy * energy
            losses["energy"] = energy
        return losses | {"real": real, "made": made} if self.settings.critic else losses

    def input_mel(self, mel: Tensor, batch: dict[str, Any]) -> Tensor:
        """The log-mel [B, T, 64] that the generator gets for the true one."""
        if not self._vae or not (rows := batch["reconstructed"]).any():
            return mel
        mixed = mel.clone()
        mixed[rows] = self.reconstruct(mel[rows], batch["latents"][rows])
        return mixed

    @torch.no_grad()
    def reconstruct(self, mel: Tensor, noise: Tensor) -> Tensor:
        """Log-mels [B, T, 64] encoded, sampled by `noise` [B, C, T/4, 16] and decoded."""
        (vae,), config = self._vae, self.config.vae
        posterior = vae.encode(config.normal(mel)).latent_dist
        return config.log_mel(vae.decode(posterior.mean + posterior.std * noise).sample)

    def install(self, model: SoundingModel) -> None:
        """Give the model what was learnt, as plain weights."""
        folded = build_vocoder(model.config)
        with_weight_norm(folded)
        folded.load_state_dict(self.generator.state_dict())
        fold_weight_norm(folded)
        model.vocoder.load_state_dict(folded.state_dict())


def with_weight_norm(generator: SpeechT5HifiGan | Vocos) -> None:
    """Give HiFi-GAN weight norm, without which small ones do not get anywhere; Vocos has layer norms."""
    if not isinstance(generator, Vocos):
        generator.apply_weight_norm()


def fold_weight_norm(module: nn.Module) -> None:
    """Turn weight-normed layers into plain ones. transformers' own `remove_weight_norm` knows only the hooks
    of older torch versions, while its `apply_weight_norm` makes parametrizations.
    """
    for layer in module.modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")


class VocoderTask(Task[VocoderSettings]):
    """Crops of sounds, from shards or stamps."""

    name = "vocoder"
    settings = VocoderSettings

    def objective(self, model: SoundingModel, settings: VocoderSettings, context: Context) -> VocoderObjective:
        """See `Task`."""
        return VocoderObjective(model, settings, fresh="vocoder" in context.fresh)

    def critic(self, settings: VocoderSettings) -> Critic | None:
        """See `Task`."""
        return WaveformCritic(settings.critic) if settings.critic else None

    def items(self, model: SoundingModel, settings: VocoderSettings, data: DataSettings) -> VocoderItems:
        """See `Task`."""
        return VocoderItems(find_clips(data), model, settings)
