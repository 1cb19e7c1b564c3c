"""The audio query encoder: a sound to one embedding in CLAP's space (the paper's audio-image attention, table 3)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..audio.mel import mel_filters
from ..audio.resampling import resample
from ..config import QueryConfig
from ..utils.libraries import importing

# CLAP's audio front end, from LAION's `HTSAT-tiny.json` and transformers' `ClapFeatureExtractor` ("rand_trunc").
RATE = 48_000
SAMPLES = 480_000  # 10 s
FFT, HOP, BANDS, F_MIN, F_MAX = 1024, 480, 64, 50.0, 14_000.0


def repeat_to_length(waveform: Tensor, samples: int) -> Tensor:
    """CLAP's "repeatpad": [B, any] repeated whole times and zero-padded -> [B, samples]; longer sounds are cut.

    CLAP itself cuts longer sounds at random; here the beginning is kept, so that a sound has one embedding.
    """
    whole = samples // waveform.shape[1]
    if whole > 1:
        waveform = waveform.repeat(1, whole)
    return nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))[:, :samples]


class ClapAudioQuery(nn.Module):
    """CLAP's audio encoder (HTS-AT, transformers), L2-normalised as in its own training."""

    filters: Tensor
    window: Tensor

    def __init__(self, config: QueryConfig):
        super().__init__()
        with importing("transformers"):
            from transformers import ClapAudioConfig, ClapAudioModelWithProjection

        self.config = config
        stages = len(config.depths)
        self.tower = ClapAudioModelWithProjection(
            ClapAudioConfig(
                patch_embeds_hidden_size=config.hidden,
                hidden_size=config.hidden * 2 ** (stages - 1),
                depths=list(config.depths),
                num_attention_heads=[config.heads * 2**stage for stage in range(stages)],
                num_hidden_layers=stages,
                projection_dim=config.width,
            )
        ).eval()
        with torch.device("cpu"):  # models are first built on the meta device, where these cannot be computed
            filters = mel_filters(FFT, BANDS, F_MIN, F_MAX, RATE)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Sounds [B, samples] -1..1 at `sample_rate` Hz -> queries [B, L]; only the first 10 s are used.

        Raises:
            ValueError: not [B, samples], empty, or not finite.
        """
        if waveform.ndim != 2 or 0 in waveform.shape or not torch.isfinite(waveform).all():
            raise ValueError(
                f"sound has shape {tuple(waveform.shape)}, but finite [B, samples] is expected; mix stereo to mono."
            )
        waveform = waveform.to(self.filters.device, torch.float32)
        return self(self.features(repeat_to_length(resample(waveform, sample_rate, RATE), SAMPLES)))

    def features(self, waveform: Tensor) -> Tensor:
        """[B, 480000] at 48 kHz -> [B, 1, 1001, 64] decibels."""
        spectrum = torch.stft(
            waveform, FFT, HOP, window=self.window.float(), center=True, pad_mode="reflect", return_complex=True
        )  # [B, 513, 1001]
        mel = spectrum.abs().square().transpose(1, 2) @ self.filters.float()
        return 10 * mel.clamp(min=1e-10).log10()[:, None]

    def forward(self, features: Tensor) -> Tensor:
        """[B, 1, 1001, 64] -> queries [B, L]."""
        like = next(self.tower.parameters())
        embeddings = self.tower(input_features=features.to(like)).audio_embeds
        return nn.functional.normalize(cast(Tensor, embeddings), dim=-1)
