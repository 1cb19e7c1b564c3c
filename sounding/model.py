"""The whole main path: a checkpoint is loaded, and an image and a selection become a sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .audio.loudness import level as leveled
from .audio.mel import MelSpectrogram
from .audio.resampling import resample
from .batches import one_by_one, share_of_steps
from .checkpoint import read_header, resolve
from .conditioning import Conditioning, parts_to_ground
from .config import Masks
from .cost import WINDOW_SECONDS
from .diffusion import OnStep, item_seeds, sampler_name
from .editing import BLEND, Edit, edit_sound
from .encoders.patches import blended, check_image
from .grounding import Condition
from .loading import read_parts
from .looping import stretched
from .networks.precision import AUTO, chosen_dtype, is_large
from .utils.devices import device_of

OnUse = Callable[[tuple[str, ...]], None]


def load(
    model: str | os.PathLike[str] = "starter",
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str | None = None,
    parts: Iterable[str] | None = None,
) -> SoundingModel:
    """Load a checkpoint.

    Args:
        model: "starter" or the path of a .safetensors file.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        dtype: of the weights. By default ("auto") float16 on CUDA and float32 elsewhere, but a U-Net of full size runs
            in bfloat16 on processors that are fast in it. "fp32", "fp16" and "bf16" are taken where the device is fast
            in them, see `networks.precision.chosen_dtype`. A torch.dtype is taken anywhere, but VAE and vocoder take
            float32 for bfloat16.
        parts: names out of `config.PARTS` to read, by default all. Masks need no "query", and only `encode` and
            `decode` need the "vae"; a step whose part was left on disk raises a ValueError.

    Raises:
        CheckpointError: the file is missing, broken or of another kind.
        ValueError: an unknown part, or a dtype that is unknown or not of floating-point numbers.
    """
    chosen = device_of(device)
    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}, but one of floating-point numbers is expected, such as torch.float16.")
        return SoundingModel.from_pretrained(model, device=chosen, dtype=dtype, parts=parts)
    header = read_header(resolve(model))
    wanted = list(header.parts if parts is None else parts)
    loaded, large = SoundingModel.from_header(header, wanted), is_large(header.shapes)
    for part in wanted:
        kind = chosen_dtype(part, chosen, dtype or AUTO, large=large)
        read_parts(loaded, header, (part,), dtype=kind, device=chosen)
    return loaded


@dataclass(frozen=True)
class Sound:
    """What a model generated from selections in images, one row each."""

    waveform: Tensor  # [B, 1, samples] float32; edited sounds keep their channels
    mel: Tensor  # [B, T, 64], its natural log as the VAE decoded it, before the waveform was leveled
    condition: Condition  # one row per selection; several sounds may have been generated from one
    sample_rate: int

    @property
    def sureness(self) -> Tensor:
        """How sure the model is of each selection: [B], see `Condition`."""
        return self.condition.sureness


class SoundingModel(Conditioning):
    """One checkpoint's model. `generate` is the main path; `Parts` and `Conditioning` have its steps."""

    def generate(
        self,
        *,
        image: Tensor,
        mask: Tensor | None = None,
        blend: bool = False,
        text: str | list[str] | None = None,
        negative_mask: Tensor | None = None,
        negative_text: str | list[str] | None = None,
        by: Masks | None = None,
        likely_names: int | None = None,
        seconds: float = 5.0,
        steps: int | None = None,
        cfg: float | None = None,
        seed: int = 0,
        batch: int = 1,
        variation: int | Sequence[int | None] | None = None,
        variation_strength: float = 0.3,
        sampler: str | None = None,
        scheduler: str | None = None,
        clamp: bool | None = None,
        level: bool = True,
        fade_out: float | None = None,
        window: float = WINDOW_SECONDS,
        loop: bool = False,
        on_step: OnStep | None = None,
        on_use: OnUse | None = None,
    ) -> Sound:
        """Image and selection to sound, the whole main path.

        Args:
            image: [1, H, W, 3] 0..1 (or one image per mask).
            mask: [B, H, W] 0..1; each row makes a sound of its own.
            blend: all rows of `mask` make one sound together, as one mask of all their objects, which is the paper's
                way with several objects: loud ones may outweigh others. The image is encoded once either way.
            text: a sentence that names what sounds; several make a sound each. With a mask it says which of the sounds
                of what is masked is meant, see `ground`.
            negative_mask, negative_text: what the sounds are guided away from (`sample`), selected as with `mask` and
                `text`, by one of them or by both; one for all sounds, or one per sound.
            by: what masks do, "grounding" or "names"; the checkpoint's own (`config.generation.masks`) where it is
                None, see `ground`.
            likely_names: how many likely names are averaged where only a general one is sure, likewise, see `ground`.
            seconds: length of the sound.
            steps, cfg, sampler: how it is sampled; the checkpoint's own (`config.generation`) where they are None.
            scheduler: the former spelling of `sampler`, which goes on working.
            seed: 0 to 2^64 - 1. Item `i` of the result is drawn from `seed + i` (modulo 2^64), whatever the size of
                the batch.
            batch: sounds per selection; more than one only with a single selection.
            variation: seed of a near variant: the noise of `seed` is moved towards that of this one, `seed`'s own sound
                staying as it is where it is None. A number is for all sounds, item `i` taking `variation + i`; a list
                has one per sound, which does not depend on the others.
            variation_strength: how far, on the sphere of noise: at 0 the sound of `seed`, at 1 that of `variation`.
            clamp: cut negative attention weights of a mask off; the checkpoint's own setting where it is None, see
                `grounding.match_moments`.
            level: bring every sound to one loudness, without DC, clicks or clipping (`audio.loudness.level`); False
                returns the vocoder's samples as they are.
            fade_out: seconds in which a leveled sound dies away at its end, see `audio.loudness.level`.
            window: seconds; longer sounds are made in overlapping windows of this length, see `sample`.
            loop: make sounds whose end goes on with their beginning. They are leveled without fades, and `seconds` is
                rounded to whole frames of the spectrogram (10 ms).
            on_step: progress, `on_step(done, steps)`; may raise to cancel.
            on_use: called with names of parts before they are used; hosts that manage memory load them there.

        Returns:
            The sounds, their spectrograms, and the condition they were generated from, with the model's sureness of it.

        Raises:
            ValueError: bad input; the message says what came, what was expected and what to do.
        """
        use = on_use or (lambda parts: None)
        image = check_image(image)
        if mask is None and text is None:
            raise ValueError(
                "generate got neither mask nor text, but a selection is expected; give one of them (a white mask "
                "selects the whole image)."
            )
        if blend:
            if mask is None or len(image) > 1:
                came = "no mask" if mask is None else f"{len(image)} images"
                raise ValueError(f"blend came with {came}, but masks of one image are expected; leave blend out.")
            mask = blended(mask)
        use(("patches",))
        condition, negative = self.select(
            self.see(image),
            image,
            mask=mask,
            text=text,
            negative_mask=negative_mask,
            negative_text=negative_text,
            by=by,
            likely_names=likely_names,
            clamp=clamp,
            on_use=on_use,
        )
        if batch < 1 or (batch > 1 and len(condition) > 1):
            raise ValueError(
                f"batch is {batch} with {len(condition)} selections, but several sounds need a single selection; "
                "use batch 1 or one mask."
            )
        count = max(batch, len(condition))
        variations = item_seeds(variation, range(count)) if isinstance(variation, int) else variation
        noise = self.noise(seconds, item_seeds(seed, range(count)), variations, variation_strength)
        use(("grounding", "unet"))
        latents = self.sample(
            condition,
            noise,
            negative=negative,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name(sampler, scheduler),
            window=window,
            loop=loop,
            on_step=on_step,
        )
        use(("vae",))
        mel, frames = self.decode(latents, loop=loop), self.config.mel_frames(seconds)
        use(("vocoder",))
        waveform = self.vocode(mel, seconds, loop=loop)
        rate = self.config.audio.sample_rate
        if level:
            waveform = torch.cat([leveled(one, rate, fade_out, loop=loop) for (one,) in one_by_one(waveform)])
        return Sound(waveform, stretched(mel, frames) if loop else mel[:, :frames], condition, rate)

    def edit(
        self,
        sound: Tensor,
        sample_rate: int,
        edit: Edit,
        *,
        image: Tensor,
        mask: Tensor | None = None,
        text: str | None = None,
        negative_mask: Tensor | None = None,
        negative_text: str | None = None,
        by: Masks | None = None,
        likely_names: int | None = None,
        steps: int | None = None,
        cfg: float | None = None,
        seed: int = 0,
        batch: int = 1,
        sampler: str | None = None,
        clamp: bool | None = None,
        blend: float = BLEND,
        on_step: OnStep | None = None,
        on_use: OnUse | None = None,
    ) -> Sound:
        """Make parts of a sound anew, by the sound of what is selected in an image, see `editing.edit_sound`.

        Args:
            sound: [channels, samples].
            sample_rate: in Hz, any.
            edit: which parts.
            image: [1, H, W, 3] 0..1.
            mask, text, negative_mask, negative_text, by, likely_names, clamp: the selection, see `generate`.
            steps, cfg, seed, sampler, on_step, on_use: see `generate`.
            batch: versions to make, from `seed`, `seed + 1` and so on.
            blend: seconds beside each new part over which the sound is cross-faded into it.

        Returns:
            The versions [batch, channels, samples] at the sound's own rate. They are not leveled.

        Raises:
            ValueError: bad input.
        """
        image = check_image(image)
        if on_use is not None:
            on_use(("patches",))
        condition, negative = self.select(
            self.see(image),
            image,
            mask=torch.ones(1, *image.shape[1:3]) if mask is None and text is None else mask,
            text=text,
            negative_mask=negative_mask,
            negative_text=negative_text,
            by=by,
            likely_names=likely_names,
            clamp=clamp,
            on_use=on_use,
        )
        made = [
            edit_sound(
                self,
                sound,
                sample_rate,
                condition,
                edit,
                seed=one,
                negative=negative,
                steps=steps,
                cfg=cfg,
                sampler=sampler,
                blend=blend,
                on_step=share_of_steps(on_step, number, batch),
                on_use=on_use,
            )
            for number, one in enumerate(item_seeds(seed, range(batch)))
        ]
        waveform = torch.stack(made)
        mono = resample(waveform.float().mean(dim=1), sample_rate, self.config.audio.sample_rate).cpu()
        return Sound(waveform, MelSpectrogram(self.config.audio)(mono), condition, sample_rate)

    def select(
        self,
        patches: Tensor,
        image: Tensor,
        *,
        mask: Tensor | None = None,
        text: str | list[str] | None = None,
        negative_mask: Tensor | None = None,
        negative_text: str | list[str] | None = None,
        by: Masks | None = None,
        likely_names: int | None = None,
        clamp: bool | None = None,
        on_use: OnUse | None = None,
    ) -> tuple[Condition, Condition | None]:
        """The conditions of a selection and of what is not to be heard, for images [B, H, W, 3] that were seen.

        See `generate` for the arguments, and `ground`.

        Raises:
            ValueError: bad input.
        """
        named = (by or self.config.generation.masks) == "names"
        size = (image.shape[1], image.shape[2])

        def ground(mask: Tensor | None, text: str | list[str] | None) -> Condition:
            if on_use is not None:
                on_use(parts_to_ground(self.config, mask=mask is not None, text=text is not None, by=by))
            return self.ground(
                patches,
                mask=mask,
                text=text,
                by=by,
                likely_names=likely_names,
                image=image if named else None,
                image_size=size,
                clamp=clamp,
            )

        condition = ground(mask, text)
        negative = None
        if negative_mask is not None and not (negative_mask > 0).any():
            raise ValueError(
                "negative_mask is empty, but it should cover what is not to be heard; paint something, or leave it out."
            )
        if negative_mask is not None or negative_text is not None:
            negative = ground(negative_mask, negative_text)
        return condition, negative
