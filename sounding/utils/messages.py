"""Values and texts from outside, such as file names and servers' messages, made short and safe to show."""

from __future__ import annotations

import reprlib
import unicodedata

# Joiners that words and emoji of several languages need; all other control and format characters can steer a terminal
# or turn a line of text around.
_JOINERS = "\u200c\u200d"
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, limit: int | None = None) -> str:
    r"""One line that only shows: control characters, line breaks and lone surrogates as \x1b and the like.

    Args:
        text: such as a file's name or a server's message.
        limit: characters; what is longer ends in "...".
    """
    line = str(text)
    if limit is not None and len(line) > limit:
        line = line[: limit - 3] + "..."
    return line if line.isprintable() else "".join(map(_escaped, line))


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _STEERING:
        return character
    return character.encode("unicode_escape").decode()


class _ShortRepr(reprlib.Repr):
    """`repr` that stays short whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 80 else f"a whole number of about {int(x.bit_length() * 0.30103)} digits"


shown = _ShortRepr().repr
