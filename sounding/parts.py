"""The parts of a model and what each does: see an image, sample, encode, decode, vocode."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from .audio.mel import MelSpectrogram, normalize
from .audio.resampling import fit_length
from .batches import one_by_one, share_of_steps
from .config import SoundingConfig, UnetConfig
from .cost import WINDOW_SECONDS
from .diffusion import Denoiser, OnStep, draw_varied_noise, sample_latents, sampler_name
from .encoders import patches as vision
from .encoders.audio import ClapAudioQuery
from .encoders.text import ClapQuery, OpenClipQuery, build_query_encoder
from .encoders.vocabulary import Vocabulary
from .grounding import Condition, Grounding
from .loading import Pretrained
from .looping import VAE_MARGIN, CircularDenoiser, WrappedDenoiser, around, stretched
from .multidiffusion import WindowedDenoiser, window_starts
from .naming.load import build_naming
from .networks.build import build_unet, build_vae, build_vocoder
from .networks.codec import VOCODER_MARGIN, decode_latents, encode_mel, vocode_mel
from .networks.few_steps import student_of, without_student
from .segment.network import ClickNetwork
from .utils.threads import adaptive_spinning


class Parts(Pretrained):
    """All parts of one checkpoint. Each step runs where its own part's weights lie, and in their precision."""

    late = MappingProxyType({"query": lambda config: build_query_encoder(config.query)})  # masks need none
    query: ClapQuery | OpenClipQuery | ClapAudioQuery

    def __init__(self, config: SoundingConfig, without: Collection[str] = ()):
        super().__init__(config, without)
        self.patches = vision.PatchEncoder(config.patches)
        self.register_module("query", None if "query" in without else build_query_encoder(config.query))
        sizes = config.patches.width, config.patches.grid**2, config.query.width
        self.grounding = Grounding(config.grounding, *sizes, config.generation)
        self.unet = build_unet(config)
        self.vae = build_vae(config)
        self.vocoder = build_vocoder(config)
        self.vocabulary = Vocabulary(config.vocabulary)
        self.segmenter = ClickNetwork(config.segmenter, config.patches) if config.segmenter else None
        self.naming = build_naming(config.naming, config.patches.width) if config.naming else None
        self._student: tuple[object, Any] = (None, None)
        self.eval()

    @property
    def student(self) -> Any:
        """The U-Net's few-step student, made of its weights where they are and kept while they stay there."""
        weight = self.require("unet")
        key = (weight.data_ptr(), weight.device, weight.dtype)
        if self._student[0] != key:
            self._student = (key, student_of(self.unet))
        return self._student[1]

    def drop_student(self) -> None:
        """Leave out the few-step student, which does not follow where further training takes the U-Net."""
        without_student(self.unet)
        unet = dataclasses.replace(self.config.unet, few_steps=0, few_steps_rank=UnetConfig.few_steps_rank)
        self.config = dataclasses.replace(self.config, unet=unet)

    @property
    def window_frames(self) -> int:
        """Mel frames that any network is given at once by default; longer sounds go through it in windows."""
        seconds = max(WINDOW_SECONDS, self.config.train_seconds)
        return self.config.latent_frames(seconds) * self.config.vae.stride

    def sampling_window(self, seconds: float) -> int:
        """Latent frames of the windows in which `sample` denoises longer sounds; training's clips are the least."""
        return self.config.latent_frames(max(seconds, self.config.train_seconds))

    @torch.inference_mode()
    def see(self, image: Tensor) -> Tensor:
        """Patch embeddings of images, needed once per image: [B, H, W, 3] 0..1 -> [B, P, L].

        Raises:
            ValueError: not an image.
        """
        with adaptive_spinning(self.require("patches").device):
            return cast(Tensor, self.patches(image))

    def noise(
        self,
        seconds: float,
        seeds: list[int],
        variations: Sequence[int | None] | None = None,
        strength: float = 0.0,
    ) -> Tensor:
        """[len(seeds), 8, T/4, 16] standard normal noise that covers `seconds`, one generator per seed; with seeds of
        variations moved towards theirs, see `diffusion.draw_varied_noise`.
        """
        shape = (
            self.config.vae.latent_channels,
            self.config.latent_frames(seconds),
            self.config.latent_bands,
        )
        return draw_varied_noise(shape, seeds, variations or [None] * len(seeds), strength)

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        noise: Tensor,
        *,
        negative: Condition | None = None,
        steps: int | None = None,
        cfg: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float = 1.0,
        latents: Tensor | None = None,
        renew: Tensor | None = None,
        window: float = WINDOW_SECONDS,
        changing: bool = False,
        loop: bool = False,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Run the sampler: a condition and noise to latents [B, 8, T/4, 16] float32.

        Args:
            condition: of `ground`; one serves any number of rows of noise.
            noise: [B, 8, T/4, 16] of `noise`; one row serves any number of conditions.
            negative: what the sounds are guided away from; it takes the null condition's place in equation 2. One
                serves any number of rows. At cfg 1 there is no guidance, so it has no effect, as in diffusers.
            steps, cfg, sampler: the checkpoint's own where they are None, see `config.sampling`.
            scheduler: the former spelling of `sampler`.
            denoise, latents, renew: to vary latents, or parts of them, see `diffusion.sample_latents`.
            window: seconds; sounds longer than this, and than the clips of the training, are denoised in overlapping
                windows of that length, see `multidiffusion.WindowedDenoiser`.
            changing: the rows of `condition` (and of `negative`, or its only one) are those of one sound's windows in
                turn. These overlap by half instead of a quarter: their starts are
                `window_starts(frames, sampling_window(window), sampling_window(window) // 2)`.
            loop: make latents whose end goes on with their beginning, for `decode` and `vocode` with `loop` as well.
            on_step: progress, `on_step(done, steps)`; may raise to cancel.

        Raises:
            ValueError: numbers of rows that do not fit, and see `diffusion.sample_latents`.
        """
        self.require("grounding")
        weight = self.require("unet")
        tokens = condition.tokens.to(weight)
        frames = self.sampling_window(window)
        overlap = frames // (2 if changing else 4)
        if changing:
            count = len(window_starts(noise.shape[2], frames, overlap))
            if loop or len(noise) != 1 or len(tokens) != count:
                raise ValueError(
                    f"There are {len(tokens)} conditions for {count} windows of {len(noise)} sounds, but one per "
                    "window of one sound, which is no loop, is expected."
                )
            tokens = tokens[None]  # [1, windows, N, D]
        batch = max(len(tokens), len(noise))
        if len(tokens) not in (1, batch) or len(noise) not in (1, batch):
            raise ValueError(
                f"There are {len(tokens)} conditions and {len(noise)} noises, but equal numbers (or one of either) "
                "are expected."
            )
        tokens, noise = tokens.expand(batch, *tokens.shape[1:]), noise.expand(batch, -1, -1, -1)
        null = self._null(negative, tokens)
        plain = negative is None and latents is None and denoise == 1.0
        chosen = self.config.sampling(steps, cfg, sampler_name(sampler, scheduler), plain=plain)
        unet = self.student if chosen.student else self.unet
        denoiser: Denoiser = CircularDenoiser(unet) if loop else unet
        if noise.shape[2] > frames or changing:
            denoiser = WindowedDenoiser(unet, frames, overlap)
            denoiser = WrappedDenoiser(denoiser, overlap) if loop else denoiser
        given = (None if each is None else each.expand(batch, -1, -1, -1) for each in (latents, renew))
        rows = one_by_one(tokens, noise, null, *given)
        made: list[Tensor] = []
        with adaptive_spinning(weight.device):
            for number, (row_tokens, row_noise, row_null, row_latents, row_renew) in enumerate(rows):
                made += sample_latents(
                    denoiser,
                    row_noise,
                    row_tokens,
                    row_null,
                    self.config.diffusion,
                    steps=chosen.steps,
                    cfg=chosen.cfg,
                    sampler=chosen.sampler,
                    denoise=denoise,
                    latents=row_latents,
                    renew=row_renew,
                    on_step=share_of_steps(on_step, number, len(rows)),
                )
        return torch.stack(made)

    def _null(self, negative: Condition | None, tokens: Tensor) -> Tensor:
        """What guidance leads away from, for the conditions' tokens [B, N, D] or [1, windows, N, D]: the same shape.

        Raises:
            ValueError: a negative condition of another model, or of another number of rows.
        """
        if negative is None:
            return self.grounding.null_condition(len(tokens)).to(tokens).expand_as(tokens)
        if negative.tokens.shape[1:] != tokens.shape[-2:] or len(negative) not in (1, tokens.shape[-3]):
            raise ValueError(
                f"The negative condition has shape {tuple(negative.tokens.shape)}, but {tuple(tokens.shape)} (or one "
                "row of that) is expected; make it with the same model, one for all sounds or one for each."
            )
        return negative.tokens.to(tokens).expand_as(tokens)

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """Waveform [B, samples] at the model's rate -> latents [B, 8, T/4, 16], T padded with silence as needed."""
        self.require("vae")
        settings, vae = self.config.audio, self.config.vae
        frames = self.config.latent_frames(waveform.shape[-1] / settings.sample_rate) * vae.stride
        fitted = fit_length(normalize(waveform.float()), frames * settings.hop)
        mel = MelSpectrogram(settings).to(waveform.device)(fitted)  # [B, T, 64]
        with adaptive_spinning(self.vae.device):
            return encode_mel(self.vae, vae, mel, self.window_frames)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, loop: bool = False) -> Tensor:
        """Latents [B, 8, T/4, 16] -> log-mel [B, T, 64]; with `loop` its end goes on with its beginning."""

        def mel(values: Tensor) -> Tensor:
            return decode_latents(self.vae, self.config.vae, values, self.window_frames)

        with adaptive_spinning(self.require("vae").device):
            parts = one_by_one(latents.to(self.require("vae").device))
            return torch.cat([around(mel, one, VAE_MARGIN, axis=2) if loop else mel(one) for (one,) in parts])

    @torch.inference_mode()
    def vocode(self, mel: Tensor, seconds: float | None = None, *, loop: bool = False) -> Tensor:
        """Log-mel [B, T, 64] -> waveform [B, 1, samples] float32, cut to `seconds` if given.

        With `loop` its end goes on with its beginning: nothing is cut, but the spectrogram is stretched to `seconds`,
        to the nearest frame (10 ms).
        """
        settings = self.config.audio
        if loop and seconds is not None:
            mel = stretched(mel, max(1, self.config.mel_frames(seconds)))

        def sound(values: Tensor) -> Tensor:
            return vocode_mel(self.vocoder, settings, values, self.window_frames)

        with adaptive_spinning(self.require("vocoder").device):
            parts = one_by_one(mel.to(self.require("vocoder").device))
            waveform = torch.cat([around(sound, one, VOCODER_MARGIN) if loop else sound(one) for (one,) in parts])
        if seconds is not None and not loop:
            waveform = waveform[:, : round(seconds * settings.sample_rate)]
        return waveform[:, None]
