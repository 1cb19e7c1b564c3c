"""AudioSet's ontology: which classes are kinds of which, and sets of classes that settings name.

The file is the user's: `ontology.json` as Google publishes it (https://github.com/audioset/ontology, CC BY-SA 4.0), a
list of objects with `id`, `name` and `child_ids`. Classes may have several parents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

from sounding.utils.fields import parse_json
from sounding.utils.messages import printable

from ..data.storage import read_bytes, request

if TYPE_CHECKING:
    from ..data.storage import Location

MOST_BYTES = 8 * 2**20  # the published file has 0.4 MB
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Ontology:
    """Classes by id."""

    names: dict[str, str]
    children: dict[str, tuple[str, ...]]

    @cached_property
    def ids(self) -> dict[str, str]:
        """Id by name, without regard to case."""
        return {name.casefold(): code for code, name in reversed(self.names.items())}

    def below(self, codes: Iterable[str]) -> set[str]:
        """These classes and all kinds of them."""
        found: set[str] = set()
        waiting = list(codes)
        while waiting:
            code = waiting.pop()
            if code not in found:
                found.add(code)
                waiting += self.children.get(code, ())
        return found

    @cached_property
    def categories(self) -> dict[str, str]:
        """Class -> its category: the class directly below a root ("Vehicle", "Water") that it is a kind of; of several,
        the first one.
        """
        roots = self.names.keys() - {child for children in self.children.values() for child in children}
        found: dict[str, str] = {}
        for root in (code for code in self.names if code in roots):
            found.setdefault(root, root)
            for category in self.children.get(root, ()):
                for code in sorted(self.below([category])):
                    found.setdefault(code, category)
        return found


EMPTY = Ontology({}, {})


def read_ontology(path: Location) -> Ontology:
    """The ontology in a file of AudioSet's form.

    Raises:
        ValueError: it cannot be read, or has another form.
    """
    what = "AudioSet's ontology.json (https://github.com/audioset/ontology) is expected"
    try:
        if request(path, path.stat).st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        entries = parse_json(read_bytes(path).decode("utf-8"), most=MOST_BYTES)
        if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_CLASSES:
            raise ValueError("it is no list of classes")
        names: dict[str, str] = {}
        children: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            code, name, below = (entry[key] for key in ("id", "name", "child_ids"))
            if not isinstance(code, str) or not isinstance(name, str) or not all(isinstance(one, str) for one in below):
                raise ValueError("a class has another id, name or child_ids than texts")
            names[code], children[code] = printable(name, 200), tuple(below)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}), but {what}.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no ontology ({printable(error, 200)}), but {what}.") from None
    unknown = sorted({child for below in children.values() for child in below} - names.keys())
    if unknown:
        raise ValueError(f"{path} has the child {printable(unknown[0], 60)}, which it does not define, but {what}.")
    return Ontology(names, children)


class ClassSet:
    """Classes that settings name: by id with all kinds of them, or by name, where * stands for anything.

    Args:
        entries: "/m/04rlf" (an id) or "people *" (a name).
        spared: likewise; classes that are left out again.
        ontology: of the ids.

    Raises:
        ValueError: an id that the ontology does not have.
    """

    def __init__(self, entries: Sequence[str], spared: Sequence[str], ontology: Ontology):
        for code in (entry for entry in (*entries, *spared) if is_code(entry)):
            if ontology.names and code not in ontology.names:
                raise ValueError(f"{printable(code, 60)} came as a class, but the ontology has none of that id.")
        self.codes, self.patterns = _split(entries, ontology)
        self.spared_codes, self.spared_patterns = _split(spared, ontology)

    def first(self, names: Sequence[str], codes: Sequence[str]) -> str | None:
        """The first of some classes (with names, and ids or "" where they have none) that is in the set; its name."""
        for position, name in enumerate(names):
            code = codes[position] if position < len(codes) else ""
            if _is_in(name, code, self.codes, self.patterns) and not _is_in(
                name, code, self.spared_codes, self.spared_patterns
            ):
                return name
        return None


def is_code(entry: str) -> bool:
    """Whether an entry is an id rather than a name."""
    return entry.startswith(("/m/", "/t/", "/g/"))


def _split(entries: Sequence[str], ontology: Ontology) -> tuple[set[str], list[str]]:
    codes = ontology.below(entry for entry in entries if is_code(entry))
    return codes, [entry.casefold() for entry in entries if not is_code(entry)]


def _is_in(name: str, code: str, codes: set[str], patterns: list[str]) -> bool:
    return code in codes or any(fnmatchcase(name.casefold(), pattern) for pattern in patterns)
