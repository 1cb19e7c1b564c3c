"""Lists of names that objects in images can have, as text files that people can read and write.

One name per line; the names of an indented line are kinds of the name above it. CLIP compares an image with the name
itself, or with the phrases after a colon, of which there may be none::

    animal:                      # only a more general name for those below
        dog: dog, Beagle, Pug    # shows as "dog", whichever it is
        owl
    unknown: plain wall, sky     # what is no object
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..consistency import MOST_GENERAL
from ..utils.messages import shown
from .names import UNKNOWN

MOST_BYTES, MOST_NAMES, MOST_PHRASES, MOST_LETTERS = 2**18, 5_000, 10_000, 100
BUILT_IN = Path(__file__).parent / "vocabularies" / "objects.txt"


@dataclass(frozen=True)
class Vocabulary:
    """Names, their more general names, and the phrases by which an image is compared with them."""

    names: tuple[str, ...]
    parents: tuple[int, ...]  # per name, the index of the more general one, -1 for none
    phrases: tuple[tuple[int, str], ...]  # (index of the name, or -1 for no object; phrase)


def read_vocabulary(*paths: Path) -> Vocabulary:
    """The vocabulary of one or several files together.

    A name that comes again is the same name; a phrase that comes again in a later file is of the name there.

    Raises:
        ValueError: a file that cannot be read, is too long or has no names; names the line.
    """
    reader = _Reader()
    for path in paths:
        reader.read(_lines(path), path)
    if not any(row >= 0 for row in reader.phrases.values()):
        raise ValueError(f"{paths[-1]} has no names, but one per line is expected; write some.")
    for index, name in enumerate(reader.names.values()):
        if (depth := len(reader.above(index))) > MOST_GENERAL:
            raise ValueError(
                f"{paths[-1]} has {name!r} below {depth} more general names, but at most {MOST_GENERAL} are expected; "
                "indent less."
            )
    return Vocabulary(
        tuple(reader.names.values()),
        tuple(reader.parents),
        tuple((row, reader.spelled[phrase]) for phrase, row in reader.phrases.items()),
    )


def _lines(path: Path) -> Iterable[str]:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file, but a text file of names is expected; give one.")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give a text file of names.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8, but one name per line is expected; save it as such.") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES} bytes, but a list of names is expected; give fewer.")
    return text.splitlines()


class _Reader:
    """What has been read so far; names and phrases are told apart without regard to capitals."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # by casefolded name; the position is its index
        self.indices: dict[str, int] = {}
        self.parents: list[int] = []
        self.phrases: dict[str, int] = {}  # casefolded phrase -> index of its name
        self.spelled: dict[str, str] = {}

    def read(self, lines: Iterable[str], path: Path) -> None:
        above: list[tuple[int, int]] = []  # (indentation, index of the name)
        here: dict[str, int] = {}  # phrases of this file
        for number, line in enumerate(lines, start=1):
            stripped = line.partition("#")[0].rstrip()
            text = stripped.lstrip()
            if not text:
                continue
            indentation = len(stripped.expandtabs(4)) - len(stripped.expandtabs(4).lstrip())
            name, colon, rest = text.partition(":")
            phrases = [each.strip() for each in rest.split(",") if each.strip()] if colon else [name.strip()]
            for each in (name.strip(), *phrases):
                if not 1 <= len(each) <= MOST_LETTERS or not each.isprintable():
                    raise ValueError(
                        f"Line {number} of {path} is {shown(text)}, but a name of 1 to {MOST_LETTERS} printable "
                        "characters is expected; mend it."
                    )
            while above and above[-1][0] >= indentation:
                above.pop()
            index = -1
            if name.strip().casefold() != UNKNOWN:
                index = self.add(name.strip(), above[-1][1] if above else -1)
                above.append((indentation, index))
            for phrase in phrases:
                key = phrase.casefold()
                if here.setdefault(key, index) != index:
                    raise ValueError(
                        f"Line {number} of {path} gives the phrase {shown(phrase)} to a second name, but a phrase can "
                        "stand for one name only; leave one of them out."
                    )
                self.phrases[key] = index  # a later file's own names come before those of an earlier one
                self.spelled.setdefault(key, phrase)
            if len(self.names) > MOST_NAMES or len(self.phrases) > MOST_PHRASES:
                raise ValueError(
                    f"{path} has more than {MOST_NAMES} names or {MOST_PHRASES} phrases (line {number}); give fewer."
                )

    def add(self, name: str, parent: int) -> int:
        """The index of a name; one that is there already keeps its place, and gets a parent if it had none."""
        key = name.casefold()
        if key not in self.indices:
            self.indices[key] = len(self.parents)
            self.names[key] = name
            self.parents.append(parent)
        index = self.indices[key]
        if self.parents[index] < 0 and parent != index and index not in self.above(parent):
            self.parents[index] = parent
        return index

    def above(self, index: int) -> list[int]:
        """All more general names of a name, the nearest first."""
        found: list[int] = []
        while index >= 0 and (index := self.parents[index]) >= 0:
            found.append(index)
        return found
