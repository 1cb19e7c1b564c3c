"""Text from outside, such as file names and servers' messages, made safe to show on a terminal."""

from __future__ import annotations

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
    return line if line.isprintable() else "".join(map(_shown, line))


def _shown(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _STEERING:
        return character
    return character.encode("unicode_escape").decode()
