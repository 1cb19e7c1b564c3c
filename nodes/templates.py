"""Templates of prompts, such as "the sound of {name}". Independent of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

FIELDS = ("name", "names", "probability")
ALLOWED = "{name}, {names} and {probability}"
MOST = 5000  # characters


@dataclass(frozen=True)
class Template:
    """A text with fields."""

    pieces: tuple[tuple[str, str | None], ...]  # each a text, and the field that follows it, if any

    @classmethod
    def parse(cls, text: str, what: str) -> Template:
        """Read a template; doubled braces are braces.

        Args:
            text: the template.
            what: the input's name, for the message.

        Raises:
            ValueError: a field that is none of `FIELDS`, or a single brace.
        """
        if len(text) > MOST:
            raise ValueError(
                f"{what} has {len(text)} characters, but at most {MOST} are expected; write a shorter one."
            )
        pieces: list[tuple[str, str | None]] = []
        try:
            for literal, field, form, conversion in Formatter().parse(text):
                # No formats, attributes or indices: templates come with other people's workflows.
                if field is not None and (field not in FIELDS or form or conversion):
                    raise ValueError
                pieces.append((literal, field))
        except ValueError:
            raise ValueError(
                f"{what} is {text[:80]!r}, but the only fields expected in it are {ALLOWED}; write one of these, and "
                "{{ or }} for a brace."
            ) from None
        return cls(tuple(pieces))

    def fill(self, name: str, names: Sequence[str], probability: float) -> str:
        """The text with its fields filled in.

        Args:
            name: of the object.
            names: all likely names, joined by commas.
            probability: of the name, 0..1; written with two decimals.
        """
        values = {"name": name, "names": ", ".join(names), "probability": f"{probability:.2f}"}
        return "".join(literal + (values[field] if field else "") for literal, field in self.pieces)
