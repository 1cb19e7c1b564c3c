"""VAE and vocoder together as the host's VAE, from latents to sound and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy import model_management
from comfy.sd import VAE
from torch import Tensor

from ...sounding.audio.resampling import resample
from .conversions import audio_waveform, latent_samples

if TYPE_CHECKING:
    from .loaded import LoadedModel

# Older hosts play what any VAE decodes at this rate, and bring to it what it encodes. Newer ones ask the VAE.
HOST_RATE = 44_100
OWN_RATES = "audio_sample_rate" in VAE.__init__.__code__.co_names


class NativeVae(VAE):
    """The host's VAE over a loaded model's VAE and vocoder, which stay under the loaded model's memory management."""

    def __init__(self, loaded: LoadedModel):
        """Take the parts of `loaded`. The host's own constructor, which builds networks from weights, is not called."""
        config = loaded.config
        self._loaded = loaded
        self.patcher = loaded.patcher("vae")
        self.first_stage_model = self.patcher.model
        self.device, self.output_device = self.patcher.load_device, model_management.intermediate_device()
        self.vae_dtype = next(self.first_stage_model.parameters()).dtype
        self.working_dtypes = [self.vae_dtype]
        self.audio_sample_rate = config.audio.sample_rate if OWN_RATES else HOST_RATE
        self.latent_channels, self.latent_dim, self.output_channels = config.vae.latent_channels, 2, 1
        self.upscale_ratio = self.downscale_ratio = config.vae.stride * config.audio.hop
        self.upscale_index_formula = self.downscale_index_formula = self.extra_1d_channel = self.size = None
        self.disable_offload, self.not_video, self.crop_input, self.handles_tiling = True, True, False, True
        self.process_input = self.process_output = lambda values: values
        self.memory_used_encode = self.memory_used_decode = lambda shape, dtype: loaded.activation_bytes(
            "vae", shape[0], shape[2] * config.vae.stride
        )

    def decode(self, samples_in: Tensor, *_: Any, **__: Any) -> Tensor:
        """Latents [B, 8, T/4, 16] -> waveforms [B, samples, 1] float32, at `audio_sample_rate`.

        Raises:
            ValueError: they are another model's latents.
        """
        config = self._loaded.config
        latents = latent_samples({"samples": samples_in}, config)
        frames = latents.shape[2] * config.vae.stride
        mel = self._loaded.on_device("vae", batch=len(latents), frames=frames).decode(latents)
        waveform = self._loaded.on_device("vocoder", batch=len(latents), frames=frames).vocode(mel)
        waveform = resample(waveform.to(self.output_device), config.audio.sample_rate, self.audio_sample_rate)
        return waveform.movedim(1, -1)

    def encode(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Waveforms [B, samples, channels] at `audio_sample_rate`, mixed to mono -> latents [B, 8, T/4, 16] float32.

        Raises:
            ValueError: they are no sound, an image for instance.
        """
        config = self._loaded.config
        audio = {"waveform": pixel_samples.movedim(-1, 1), "sample_rate": self.audio_sample_rate}
        waveform, rate = audio_waveform(audio)
        mono = resample(waveform.mean(dim=1), rate, config.audio.sample_rate)
        frames = config.latent_frames(mono.shape[-1] / config.audio.sample_rate) * config.vae.stride
        latents = self._loaded.on_device("vae", batch=len(mono), frames=frames).encode(mono)
        return latents.to(self.output_device, torch.float32)

    # VAE and vocoder work in windows anyway, and their results do not depend on the size of tiles.

    def decode_tiled(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """As `decode`."""
        return self.decode(samples)

    def encode_tiled(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """As `encode`."""
        return self.encode(pixel_samples)
