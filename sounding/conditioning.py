"""What makes a condition: an image's patches and a selection in them, by mask, text or sound; or a sentence alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from .batches import one_by_one, paired
from .config import NAMING, Masks, SoundingConfig
from .encoders import patches as vision
from .encoders.audio import ClapAudioQuery
from .encoders.text import check_texts, listed
from .encoders.vocabulary import names_it
from .grounding import Condition, Names, Source, between
from .naming.load import boxed_namer
from .naming.names import Named
from .naming.sentences import sentences
from .parts import Parts


def parts_to_ground(config: SoundingConfig, *, mask: bool, text: bool, by: Masks | None = None) -> tuple[str, ...]:
    """Names of the parts that `Conditioning.ground` needs for a mask, a text or both, beside the image's patches."""
    named = mask and (by or config.generation.masks) == "names"
    naming = ("patches", NAMING) if named and config.naming is not None else ()
    return (*naming, *(("query",) if text or named else ()), "grounding")


@dataclass(frozen=True)
class Asked:
    """Queries [B, L], and of texts what is known of each: nothing where the queries are sounds."""

    queries: Tensor
    sentences: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    sureness: Tensor = field(default_factory=lambda: torch.ones(0))
    nearest: list[list[tuple[str, float]]] = field(default_factory=list)


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
        by: Masks | None = None,
        likely_names: int | None = None,
        image: Tensor | None = None,
        image_size: tuple[int, int] | None = None,
        clamp: bool | None = None,
    ) -> Condition:
        """The condition for one selection per row, by mask, text or sound; needed once per selection.

        A mask alone takes the place of the attention weights (section 3.2); a text or a sound alone is the query of the
        attention (equations 3 and 4). Both together are attention within the mask, see `grounding.attend_within`.

        With `by="names"` a mask is turned into the name of what it shows, and the sentence with that name ("a dog") is
        the condition. This is the paper's baseline *Captioning*, made per object instead of per image: a U-Net with
        FiLM takes the sentence's embedding as in AudioLDM and sees nothing of the image; one that attends to images
        takes the sentence as the text within the mask. A text continues the name ("barking twice" makes "a dog barking
        twice") and stands alone where it names the object by itself or where no name is sure.

        Args:
            patches: [B, P, L] of `see`. One image serves any number of masks or texts.
            mask: [B, H, W] 0..1, any resolution.
            text: one sentence, or one per row.
            sound: [B, samples] at the model's rate, for a checkpoint trained with audio queries.
            by: what a mask does, "grounding" or "names"; the checkpoint's own (`config.generation.masks`) if None.
            likely_names: where no specific name is sure but a general one ("bird"), so many of the likeliest specific
                names are averaged into one embedding, weighted by their probabilities; 1 takes the general name. The
                checkpoint's own (`config.generation`) if None.
            image: [1, H, W, 3] or one per row, which objects are named from; without it they are named from `patches`.
            image_size: (H, W) of the image, which crop and pad geometries need to place a mask of another size.
            clamp: overrides the checkpoint's setting, see `grounding.match_moments`.

        Raises:
            ValueError: none of mask, text and sound, or text and sound; an empty mask; numbers of rows that do not fit.
        """
        if (mask is None and text is None and sound is None) or (text is not None and sound is not None):
            raise ValueError(
                "ground got none of mask, text and sound, or both text and sound, but a mask, a text or a sound (or a "
                "mask and one of the others) is expected; give one."
            )
        if by is not None and by not in get_args(Masks):
            raise ValueError(f"by is {by!r}, but one of {', '.join(get_args(Masks))} is expected.")
        weight = self.require("grounding")
        patches = patches.to(weight)
        named = (by or self.config.generation.masks) == "names" and sound is None
        coverage = None
        if mask is not None:
            mask = vision.check_mask(mask)
            size = image_size or (mask.shape[-2], mask.shape[-1])
            patches, coverage = paired(patches, vision.mask_to_grid(mask, size, self.config.patches), "masks")
            if text is None and sound is None and not named:
                rows = one_by_one(patches, coverage)
                return Condition.cat([self.grounding.by_mask(cover, patch, clamp=clamp) for patch, cover in rows])
        if sound is not None:
            asked = Asked(self._embed(None, sound))
        elif named and mask is not None:
            likely = self.config.generation.likely_names if likely_names is None else likely_names
            asked = self._ask_by_name(patches, mask, text, image, likely)
        else:
            asked = self._ask_by_text(listed(text or []))
        alone = named and self.config.unet.film_width > 0
        return self._answered(
            asked, patches, coverage, "sounds" if sound is not None else "texts", alone=alone, clamp=clamp
        )

    def _answered(
        self,
        asked: Asked,
        patches: Tensor,
        coverage: Tensor | None,
        name: str,
        *,
        alone: bool = False,
        clamp: bool | None = None,
    ) -> Condition:
        """The condition of embedded queries: by attention over patches, or, `alone`, the queries themselves."""
        if coverage is not None and len(asked.queries) not in (1, len(patches)) and len(patches) > 1:
            raise ValueError(
                f"There are {len(patches)} masks and {len(asked.queries)} {name}, but equal numbers (or one of either) "
                "are expected."
            )
        patches, query = paired(patches, asked.queries.to(patches), name)
        if coverage is not None:
            coverage = coverage.expand(len(query), -1)
        if alone:
            spread = torch.ones_like(patches[..., 0]) if coverage is None else coverage.to(patches)
            weights = spread / spread.sum(dim=-1, keepdim=True)
            sureness = torch.ones(len(query), device=query.device)
            condition = Condition(query[:, None], weights, sureness, asked.sources)
        else:
            rows = one_by_one(patches, query, coverage)
            condition = Condition.cat(
                [self.grounding.by_query(one, patch, cover, clamp=clamp) for patch, one, cover in rows]
            )
        if not asked.sentences:
            return condition
        turns = len(condition) // len(asked.queries)  # one query serves all rows
        return replace(
            condition,
            sureness=condition.sureness * asked.sureness.to(condition.sureness).repeat(turns),
            sources=asked.sources * turns,
            nearest=tuple(asked.nearest * turns),
            sentences=asked.sentences * turns,
        )

    def _ask_by_text(self, texts: list[str]) -> Asked:
        """Sentences as queries."""
        queries = self._embed(texts, None)
        nearest = self._nearest(queries)
        source: Source = "text"
        return Asked(queries, tuple(texts), (source,) * len(texts), self.familiarity(texts, nearest), nearest)

    def _ask_by_name(
        self, patches: Tensor, mask: Tensor, text: str | list[str] | None, image: Tensor | None, likely: int
    ) -> Asked:
        """The sentences with the names of masked objects as queries; rows of `patches` are those of masks.

        Several likely names are one query: the mean of their sentences' embeddings, weighted by their probabilities and
        brought to their mean length.
        """
        found = self._named(patches, mask, image, top=max(likely, 5))
        texts: list[str | None] = [None] * len(found)
        if text is not None:
            texts = [" ".join(one.split()) for one in check_texts(listed(text))]
        if len(texts) == 1 or len(found) == 1:
            rows = max(len(texts), len(found))
            texts, found = texts * (rows // len(texts)), found * (rows // len(found))
        elif len(texts) != len(found):
            raise ValueError(
                f"There are {len(found)} masks and {len(texts)} texts, but equal numbers (or one of either) are "
                "expected."
            )
        voiced = [sentences(one, text, likely) for one, text in zip(found, texts, strict=True)]
        flat = self._embed([sentence for row in voiced for sentence, _ in row], None)
        queries = []
        for row, embedded in zip(voiced, flat.split([len(row) for row in voiced]), strict=True):
            shares = torch.tensor([share for _, share in row]).to(embedded)[:, None]
            length = (shares * embedded.norm(dim=-1, keepdim=True)).sum()
            mean = (shares * embedded).sum(dim=0)
            queries.append(embedded[0] if len(row) == 1 else functional.normalize(mean, dim=0) * length)
        asked = torch.stack(queries)
        said = [" or ".join(sentence for sentence, _ in row) for row in voiced]
        nearest = self._nearest(asked)
        by_name = [sentence != text for sentence, text in zip(said, texts, strict=True)]
        # Where several names sound, one of them is likely at most.
        single = [
            one.probability if len(row) == 1 else one.candidates[0][1] for one, row in zip(found, voiced, strict=True)
        ]
        sure = torch.tensor([share if name else 1.0 for share, name in zip(single, by_name, strict=True)])
        return Asked(
            asked,
            tuple(said),
            tuple("name" if name else "text" for name in by_name),
            sure * self.familiarity(said, nearest).cpu(),
            nearest,
        )

    def _named(self, patches: Tensor, mask: Tensor, image: Tensor | None, top: int) -> list[Named]:
        """The name of what each mask shows."""
        if image is None:
            return self.name(mask=mask, patches=patches, top=top)
        return self.name(image, mask.expand(max(len(image), len(mask)), -1, -1), top=top)

    def name(
        self, image: Tensor | None = None, mask: Tensor | None = None, *, patches: Tensor | None = None, top: int = 5
    ) -> list[Named]:
        """What each mask shows: by the checkpoint's own names where it has some, else by the namer in the box.

        Args:
            image: [1, H, W, 3] 0..1, or one per mask.
            mask: [B, H, W] 0..1; without it, the whole image is named.
            patches: [B, P, L] of `see`, instead of an image: quicker, and less sure of small objects. Only for
                checkpoints with names of their own.
            top: how many of the likeliest names are listed.

        Returns:
            One result per mask; its name is "unknown" where none is probable enough.

        Raises:
            ValueError: neither image nor patches; an empty mask; numbers of rows that do not fit.
        """
        if self.naming is not None:
            self.require("patches")
            self.require("naming")
            return self.naming.name(self.patches, image, mask, patches=patches, top=top)
        if image is None:
            raise ValueError(
                f"{self.config.name!r} has no names of its own, so its patches have none; give the image instead."
            )
        return boxed_namer().name(image, mask, top=top)

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
        asked = self._ask_by_text(check_texts(listed(text)))
        unseen = asked.queries.new_zeros(1, self.config.patches.grid**2, self.config.patches.width)
        return self._answered(asked, unseen, None, "texts", alone=True)
