"""What makes a condition: an image's patches and a selection in them, by mask, text or sound; or a sentence alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .batches import one_by_one, paired
from .encoders import patches as vision
from .encoders.audio import ClapAudioQuery
from .encoders.text import check_texts, listed
from .encoders.vocabulary import names_it
from .grounding import Condition, Names, between
from .parts import Parts


class Conditioning(Parts):
    """The step between `Parts.see` and `Parts.sample`."""

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
        """The condition for one selection per row, by mask, text or sound; needed once per selection.

        Args:
            patches: [B, P, L] of `see`. One image serves any number of masks or texts.
            mask: [B, H, W] 0..1, any resolution; it takes the place of the attention weights (section 3.2).
            text: one sentence, or one per row; its embedding is the query of the attention (equations 3 and 4).
            sound: [B, samples] at the model's rate, likewise, for a checkpoint trained with audio queries.
            image_size: (H, W) of the image, which crop and pad geometries need to place a mask of another size.
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
        queries = self._embed(text, sound)
        patches, query = paired(patches, queries.to(weight), "texts" if sound is None else "sounds")
        rows = one_by_one(patches, query)
        condition = Condition.cat([self.grounding.by_query(one, patch) for patch, one in rows])
        if text is None:
            return condition
        nearest = self._nearest(queries)
        sureness = condition.sureness * self.familiarity(text, nearest).to(condition.sureness)
        return replace(condition, sureness=sureness, nearest=tuple(nearest * (len(condition) // len(nearest))))

    @torch.inference_mode()
    def nearest_words(self, text: str | list[str], top: int = 3) -> list[list[tuple[str, float]]]:
        """The known names (`config.vocabulary`) that each text is nearest to, the nearest first, with their cosines.

        The lists are empty where the checkpoint lists no names or takes no text queries.
        """
        texts = check_texts(listed(text))
        if not self.vocabulary.names or isinstance(self.query, ClapAudioQuery):
            return [[] for _ in texts]
        self.require("query")
        return self._nearest(self.query.encode(texts), top)

    def _nearest(self, queries: Tensor, top: int = 3) -> list[list[tuple[str, float]]]:
        """See `nearest_words`, of texts that are embedded already: [texts, L]."""
        if not self.vocabulary.names or isinstance(self.query, ClapAudioQuery):
            return [[] for _ in queries]
        return self.vocabulary.nearest(self.query, queries, top)

    def familiarity(self, text: str | list[str], nearest: Sequence[Names] | None = None) -> Tensor:
        """How sure it is that the model knows the words of each text, by the nearest known name: [texts], 0..1.

        1 where the text has that name's noun among its words, and for all texts where the checkpoint lists no names.

        Args:
            text: one or several.
            nearest: what `nearest_words` gives for them, where it is known already; it encodes the texts.
        """
        nearest = self.nearest_words(text, top=1) if nearest is None else nearest
        first = [found[0] if found else ("", 1.0) for found in nearest]
        near = between(torch.tensor([cosine for _, cosine in first]), *self.config.generation.name_cosine)
        named = [names_it(sentence, name) for sentence, (name, _) in zip(listed(text), first, strict=True)]
        return near.where(~torch.tensor(named), 1.0)

    def _embed(self, text: str | list[str] | None, sound: Tensor | None) -> Tensor:
        """The query [B, L] of texts or sounds, whichever the checkpoint was trained with."""
        modality = self.config.grounding.query
        if (sound is None) != (modality == "text"):
            given = "text" if sound is None else "sound"
            raise ValueError(
                f"This checkpoint was trained with {modality} queries, so {given} cannot ground it; use a mask."
            )
        self.require("query")
        if sound is None and not isinstance(self.query, ClapAudioQuery):
            return self.query.encode(listed(text or []))
        if sound is not None and isinstance(self.query, ClapAudioQuery):
            return self.query.encode(sound, self.config.audio.sample_rate)
        raise ValueError(
            f"grounding.query is {modality!r}, but the query tower is {self.config.query.tower!r}; the checkpoint's "
            "configuration contradicts itself, export it again."
        )

    @torch.inference_mode()
    def condition_by_text(self, text: str | list[str]) -> Condition:
        """Sentences alone as conditions, without an image, as in AudioLDM: one row per sentence.

        Raises:
            ValueError: the U-Net has no FiLM input, so it takes conditions made from images only.
        """
        if not self.config.unet.film_width:
            raise ValueError(
                "This checkpoint's U-Net attends to images, so text alone cannot condition it; give an image, or "
                "convert AudioLDM with --condition film."
            )
        query = self._embed(check_texts(listed(text)), None)
        patches = self.config.patches.grid**2
        weights = query.new_full((len(query), patches), 1 / patches)
        return Condition(query[:, None], weights, self.familiarity(text).to(query.device, torch.float32))
