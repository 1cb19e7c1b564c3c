"""The names that a checkpoint was trained on: how near is a text to which of them?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from torch.nn import functional


class TextEncoder(Protocol):
    """What embeds sentences."""

    def encode(self, texts: list[str]) -> Tensor:
        """Sentences -> queries [B, L]."""


class Vocabulary:
    """Known names such as "a dog", embedded by the checkpoint's own text encoder at first use."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._words = tuple(_without_article(words_of(name)) for name in self.names)
        self._known: Tensor | None = None  # [names, L]

    def knows(self, text: str) -> str | None:
        """The known name that is in a text, or else the first whose noun is, or None: "white cat" -> "a cat".

        Of several names in it the longest counts, since "fire truck" names no truck of another kind; and "lion" names a
        lion rather than a sea lion, wherever both are known.
        """
        words = words_of(text)
        whole = [place for place, name in enumerate(self._words) if _is_within(name, words)]
        if whole:
            return self.names[max(whole, key=lambda place: len(self._words[place]))]
        return next((name for name in self.names if names_it(text, name)), None)

    def nearest_of(self, likely: Sequence[str], top: int) -> list[str]:
        """The known names of what an object may be, at most `top` of them.

        Of what the checkpoint does not know, these tell what it may sound like: of a cat whose likely names are "cat",
        "tiger" and "fox", the names "a tiger" and "a fox". `nearest` would say less where the text encoder was trained
        on the known names alone, since other words then lie anywhere between them.

        Args:
            likely: names, the likeliest first.
            top: how many.
        """
        known = (self.knows(name) for name in likely)
        return list(dict.fromkeys(name for name in known if name is not None))[:top]

    def similarities(self, encoder: TextEncoder, queries: Tensor) -> Tensor:
        """Cosines of embedded texts [texts, L] with all names: [texts, names] on the CPU."""
        if self._known is None:
            self._known = _directions(encoder.encode(list(self.names)))
        return _directions(queries) @ self._known.T

    def nearest(self, encoder: TextEncoder, queries: Tensor, top: int) -> list[list[tuple[str, float]]]:
        """The `top` names that each embedded text is nearest to, the nearest first, with their cosines."""
        found = self.similarities(encoder, queries).topk(min(top, len(self.names)))
        return [
            [(self.names[index], value) for index, value in zip(indices, values, strict=True)]
            for indices, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]


def names_it(text: str, name: str) -> bool:
    """Whether the noun of a name, its last word, is among the words of a text."""
    return noun_of(name) in words_of(text)


def noun_of(name: str) -> str | None:
    """The last word of a name; None if it has no words."""
    words = words_of(name)
    return words[-1] if words else None


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"\w+", text.casefold())


def _without_article(words: list[str]) -> list[str]:
    return words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words


def _is_within(name: list[str], words: list[str]) -> bool:
    """Whether all words of a name come in a text, one after the other."""
    return bool(name) and any(words[at : at + len(name)] == name for at in range(len(words) - len(name) + 1))


def _directions(queries: Tensor) -> Tensor:
    return functional.normalize(queries.float(), dim=-1).cpu()
