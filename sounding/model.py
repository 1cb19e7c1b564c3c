"""The parts together: see a picture, ground a selection, sample, decode, vocode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from .audio.loudness import level as leveled
from .audio.mel import MelSpectrogram, normalize
from .audio.resampling import fit_length
from .batches import one_by_one, paired, share_of_steps
from .config import SoundingConfig
from .cost import WINDOW_SECONDS
from .diffusion import Denoiser, OnStep, draw_noise, item_seeds, sample_latents, sampler_name
from .encoders import patches as vision
from .encoders.audio import ClapAudioQuery
from .encoders.text import ClapQuery, OpenClipQuery, build_query_encoder, check_texts, listed
from .encoders.vocabulary import Vocabulary, names_it
from .grounding import Condition, Grounding, between
from .loading import Pretrained
from .multidiffusion import WindowedDenoiser
from .networks.build import build_unet, build_vae, build_vocoder
from .networks.codec import decode_latents, encode_mel, vocode_mel
from .segment.network import ClickNetwork
from .sound import Sound
from .utils.threads import adaptive_spinning

OnUse = Callable[[tuple[str, ...]], None]


def load(
    model: str | os.PathLike[str] = "starter",
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | None = None,
    parts: Iterable[str] | None = None,
) -> SoundingModel:
    """Load a checkpoint.

    Args:
        model: "starter" or the path of a .safetensors file.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        dtype: of the weights; without it float16 on CUDA, else float32. VAE and vocoder take float32 for bfloat16.
        parts: names out of `PARTS` to read, all without it. Masks need no "query", and only `encode` and `decode`
            need the "vae"; a stage whose part was left on disk says so.

    Raises:
        CheckpointError: the file is missing, broken or of another kind.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype is None:
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return SoundingModel.from_pretrained(model, device=device, dtype=dtype, parts=parts)


class SoundingModel(Pretrained):
    """All parts of one checkpoint. Each stage runs where, and in what precision, its own part lies."""

    def __init__(self, config: SoundingConfig):
        super().__init__(config)
        self.patches = vision.PatchEncoder(config.patches)
        self.query: ClapQuery | OpenClipQuery | ClapAudioQuery = build_query_encoder(config.query)
        sizes = config.patches.width, config.patches.grid**2, config.query.width
        self.grounding = Grounding(config.grounding, *sizes, config.generation)
        self.unet = build_unet(config)
        self.vae = build_vae(config)
        self.vocoder = build_vocoder(config)
        self.vocabulary = Vocabulary(config.vocabulary)
        self.segmenter = ClickNetwork(config.segmenter, config.patches) if config.segmenter else None
        self.eval()

    @property
    def window_frames(self) -> int:
        """Mel frames that any network gets to see at once by default; what is longer goes through it in windows."""
        seconds = max(WINDOW_SECONDS, self.config.train_seconds)
        return self.config.latent_frames(seconds) * self.config.vae.stride

    @torch.inference_mode()
    def see(self, image: Tensor) -> Tensor:
        """Patch embeddings of a picture, once a picture: [B, H, W, 3] 0..1 -> [B, P, L].

        Raises:
            ValueError: not a picture.
        """
        with adaptive_spinning(self.require("patches").device):
            return cast(Tensor, self.patches(image))

    @torch.inference_mode()
    def ground(
        self,
        patches: Tensor,
        *,
        mask: Tensor | None = None,
        text: str | list[str] | None = None,
        sound: Tensor | None = None,
        image_size: tuple[int, int] | None = None,
        clamp: bool | None = None,
    ) -> Condition:
        """Condition of one selection a row, by mask, by text or by sound, once a selection.

        Args:
            patches: [B, P, L] of `see`. One picture serves any number of masks or texts.
            mask: [B, H, W] 0..1, any resolution; takes attention's place (section 3.2).
            text: one sentence, or one a row; attention does its own work.
            sound: [B, samples] at the model's rate, for a checkpoint trained with audio queries; likewise.
            image_size: (H, W) of the picture, which crop and pad geometries need to place a mask of another size.
            clamp: overrides the checkpoint's setting, see `grounding.match_moments`.

        Raises:
            ValueError: none or several of mask, text and sound; an empty mask; numbers of rows that do not fit.
        """
        if sum(one is not None for one in (mask, text, sound)) != 1:
            raise ValueError("ground got several or none of mask, text and sound, but one is expected; give one.")
        weight = self.require("grounding")
        patches = patches.to(weight)
        if mask is not None:
            mask = vision.check_mask(mask)
            size = image_size or (mask.shape[-2], mask.shape[-1])
            coverage = vision.mask_to_grid(mask, size, self.config.patches)
            patches, coverage = paired(patches, coverage, "masks")
            rows = one_by_one(patches, coverage)
            return Condition.cat([self.grounding.by_mask(cover, patch, clamp=clamp) for patch, cover in rows])
        query = self._ask(text, sound)
        patches, query = paired(patches, query.to(weight), "texts" if sound is None else "sounds")
        rows = one_by_one(patches, query)
        condition = Condition.cat([self.grounding.by_query(asked, patch) for patch, asked in rows])
        if text is None:
            return condition
        sureness = condition.sureness * self.familiarity(text).to(condition.sureness)
        return replace(condition, sureness=sureness)

    @torch.inference_mode()
    def nearest_words(self, text: str | list[str], top: int = 3) -> list[list[tuple[str, float]]]:
        """The known names (`config.vocabulary`) that each text is nearest to, the nearest first, with their cosines.

        Empty lists where the checkpoint has no such names or is not asked by text.
        """
        texts = check_texts(listed(text))
        if not self.vocabulary.names or isinstance(self.query, ClapAudioQuery):
            return [[] for _ in texts]
        self.require("query")
        return self.vocabulary.nearest(self.query, texts, top)

    def familiarity(self, text: str | list[str]) -> Tensor:
        """How sure it is that the model knows the words of each text, by the nearest known name: [texts], 0..1.

        1 where the text has that name's noun among its words, and for all texts where the checkpoint lists no names.
        """
        nearest = [found[0] if found else ("", 1.0) for found in self.nearest_words(text, top=1)]
        near = between(torch.tensor([cosine for _, cosine in nearest]), *self.config.generation.name_cosine)
        named = [names_it(sentence, name) for sentence, (name, _) in zip(listed(text), nearest, strict=True)]
        return near.where(~torch.tensor(named), 1.0)

    def _ask(self, text: str | list[str] | None, sound: Tensor | None) -> Tensor:
        """The query [B, L] of texts or sounds, whichever the checkpoint was trained with."""
        wants = self.config.grounding.query
        if (sound is None) != (wants == "text"):
            came = "text" if sound is None else "sound"
            raise ValueError(
                f"This checkpoint was trained with {wants} queries, so {came} cannot ground it; use a mask."
            )
        self.require("query")
        if sound is None and not isinstance(self.query, ClapAudioQuery):
            return self.query.encode(listed(text or []))
        if sound is not None and isinstance(self.query, ClapAudioQuery):
            return self.query.encode(sound, self.config.audio.sample_rate)
        raise ValueError(
            f"grounding.query is {wants!r}, but the query tower is {self.config.query.tower!r}; the checkpoint's "
            "configuration contradicts itself, export it again."
        )

    @torch.inference_mode()
    def condition_by_text(self, text: str | list[str]) -> Condition:
        """Sentences alone as conditions, without a picture, as AudioLDM has it: one row a sentence.

        Raises:
            ValueError: the U-Net has no FiLM slot, so it was trained to hear about pictures only.
        """
        if not self.config.unet.film_width:
            raise ValueError(
                "This checkpoint's U-Net attends to pictures, so text alone cannot condition it; give a picture, or "
                "convert AudioLDM with --condition film."
            )
        query = self._ask(check_texts(listed(text)), None)
        places = self.config.patches.grid**2
        weights = query.new_full((len(query), places), 1 / places)
        return Condition(query[:, None], weights, self.familiarity(text).to(query.device, torch.float32))

    def noise(self, seconds: float, seeds: list[int]) -> Tensor:
        """[len(seeds), 8, T/4, 16] standard normal noise that covers `seconds`, one generator a seed."""
        shape = (
            self.config.vae.latent_channels,
            self.config.latent_frames(seconds),
            self.config.latent_bands,
        )
        return draw_noise(shape, seeds)

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        noise: Tensor,
        *,
        steps: int | None = None,
        cfg: float | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float = 1.0,
        latents: Tensor | None = None,
        renew: Tensor | None = None,
        window: float = WINDOW_SECONDS,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents [B, 8, T/4, 16] for a condition; see `diffusion.sample_latents`.

        Steps, guidance and sampler are the checkpoint's own (`config.generation`) where they are None.
        Condition and noise of one row serve any number of the other. What is longer than `window` seconds (and than
        the training's clips) is denoised in overlapping windows of that length, see `multidiffusion.WindowedDenoiser`.
        """
        self.require("grounding")
        weight = self.require("unet")
        tokens = condition.tokens.to(weight)
        batch = max(len(tokens), len(noise))
        if len(tokens) not in (1, batch) or len(noise) not in (1, batch):
            raise ValueError(
                f"There are {len(tokens)} conditions and {len(noise)} noises, but equal numbers (or one of either) "
                "are expected."
            )
        tokens, noise = tokens.expand(batch, -1, -1), noise.expand(batch, -1, -1, -1)
        null = self.grounding.null_condition(batch).to(weight).expand_as(tokens)
        denoiser: Denoiser = self.unet
        own, sampler = self.config.generation, sampler_name(sampler, scheduler)
        frames = self.config.latent_frames(max(window, self.config.train_seconds))
        if noise.shape[2] > frames:
            denoiser = WindowedDenoiser(self.unet, frames, frames // 4)
        old = (None if each is None else each.expand(batch, -1, -1, -1) for each in (latents, renew))
        rows = one_by_one(tokens, noise, null, *old)
        made: list[Tensor] = []
        with adaptive_spinning(weight.device):
            for place, (token, noisy, nothing, before, anew) in enumerate(rows):
                made += sample_latents(
                    denoiser,
                    noisy,
                    token,
                    nothing,
                    self.config.diffusion,
                    steps=own.steps if steps is None else steps,
                    cfg=own.cfg if cfg is None else cfg,
                    sampler=own.sampler if sampler is None else sampler,
                    denoise=denoise,
                    latents=before,
                    renew=anew,
                    on_step=share_of_steps(on_step, place, len(rows)),
                )
        return torch.stack(made)

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
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 8, T/4, 16] -> log-mel [B, T, 64]."""
        with adaptive_spinning(self.require("vae").device):
            parts = one_by_one(latents.to(self.require("vae").device))
            return torch.cat([decode_latents(self.vae, self.config.vae, one, self.window_frames) for (one,) in parts])

    @torch.inference_mode()
    def vocode(self, mel: Tensor, seconds: float | None = None) -> Tensor:
        """Log-mel [B, T, 64] -> waveform [B, 1, samples] float32, cut to `seconds` if given."""
        settings = self.config.audio
        with adaptive_spinning(self.require("vocoder").device):
            parts = one_by_one(mel.to(self.require("vocoder").device))
            waveform = torch.cat([vocode_mel(self.vocoder, settings, one, self.window_frames) for (one,) in parts])
        if seconds is not None:
            waveform = waveform[:, : round(seconds * settings.sample_rate)]
        return waveform[:, None]

    def generate(
        self,
        *,
        image: Tensor,
        mask: Tensor | None = None,
        text: str | list[str] | None = None,
        seconds: float = 5.0,
        steps: int | None = None,
        cfg: float | None = None,
        seed: int = 0,
        batch: int = 1,
        sampler: str | None = None,
        scheduler: str | None = None,
        clamp: bool | None = None,
        level: bool = True,
        fade_out: float | None = None,
        window: float = WINDOW_SECONDS,
        on_step: OnStep | None = None,
        on_use: OnUse | None = None,
    ) -> Sound:
        """Picture and selection to sound, the whole main path.

        Args:
            image: [1, H, W, 3] 0..1 (or one picture a mask).
            mask: [B, H, W] 0..1; each row is a sound of its own.
            text: instead of a mask, what to listen for.
            seconds: length of the sound.
            steps, cfg, sampler: how it is sampled; the checkpoint's own (`config.generation`) where they are None.
            scheduler: the former spelling of `sampler`, which goes on working.
            seed: 0 to 2^64 - 1. Item `i` of the result is drawn from `seed + i` (modulo 2^64), whatever the size of
                the batch.
            batch: sounds a selection; only with a single one.
            level: bring every sound to one loudness, without DC, clicks or clipping (`audio.loudness.level`); off is
                the vocoder's samples as they are.
            fade_out: seconds in which a leveled sound dies away at its end, see `audio.loudness.level`.
            window: seconds; longer sounds are made in overlapping windows of this length, see `sample`.
            on_step: progress, `on_step(done, steps)`; may raise to cancel.
            on_use: called with names of parts before they are used; hosts that manage memory load them there.

        Returns:
            The sounds with their spectrograms, what they were made from, and how sure the model is of that.

        Raises:
            ValueError: bad input; the message says what came, what was expected and what to do.
        """
        use = on_use or (lambda parts: None)
        image = vision.check_image(image)
        use(("patches",))
        patches = self.see(image)
        use(("grounding",) if text is None else ("query", "grounding"))
        condition = self.ground(patches, mask=mask, text=text, image_size=(image.shape[1], image.shape[2]), clamp=clamp)
        if batch < 1 or (batch > 1 and len(condition) > 1):
            raise ValueError(
                f"batch is {batch} with {len(condition)} selections, but several sounds need a single selection; "
                "use batch 1 or one mask."
            )
        noise = self.noise(seconds, item_seeds(seed, range(max(batch, len(condition)))))
        use(("grounding", "unet"))
        latents = self.sample(
            condition,
            noise,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name(sampler, scheduler),
            window=window,
            on_step=on_step,
        )
        use(("vae",))
        mel = self.decode(latents)
        use(("vocoder",))
        waveform = self.vocode(mel, seconds)
        rate = self.config.audio.sample_rate
        if level:
            waveform = torch.cat([leveled(one, rate, fade_out) for (one,) in one_by_one(waveform)])
        return Sound(waveform, mel[:, : self.config.mel_frames(seconds)], condition, rate)
