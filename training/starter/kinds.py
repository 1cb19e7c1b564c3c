"""The kinds of things that the starter knows, and which recordings it learns their sounds from.

`tables/kinds.json` lists the kinds. `tables/recordings.json` lists the recordings, the packages that hold them with
their licences, the kinds without any recording, and what was looked at and left out. Every recording is in one of two
splits: the generator learns from "train"; "test" is kept from it, so that a judge can learn from what the generator
has never heard. `starter_data.build` makes a data set of both tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sounding.config import from_dict

from ..data.object_set import MOST_MANIFEST
from ..data.shard_format import read_json

TABLES = Path(__file__).with_name("tables")
IMAGENET_CLASSES = 1000
LONGEST = 30.0  # seconds that are kept of a recording

# What may go into weights that are passed on under version 3 of the GPL. CC BY-SA 3.0 may be passed on under 4.0, of
# which that version, and no later one, is a compatible licence. The other licences ask for no more than it does.
TRAINABLE = {
    "Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "GPL-1.0-or-later",
    "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "LicenseRef-public-domain", "MIT",
}  # fmt: skip

Split = Literal["train", "test"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Attributes:
        name: a plain name, as "steam train".
        caption: the name as a phrase, as "a steam train" or "rain".
        synonyms: other phrases that a user would type for it.
        classes: numbers of the ImageNet-1k classes that show it.
        ambience: the sound belongs to a whole image rather than to an object in it.
        stamp: names of the Tux Paint stamps of this kind (see `stamps`).
    """

    name: str
    caption: str
    synonyms: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    ambience: bool = False
    stamp: tuple[str, ...] = ()

    @property
    def phrases(self) -> set[str]:
        """All that it is called, in lower case."""
        return {phrase.lower() for phrase in (self.name, self.caption, *self.synonyms)}


@dataclass(frozen=True)
class Package:
    """Where recordings come from: `origin` is "Debian", "PyPI" or "npm"; `licence` an SPDX identifier."""

    name: str
    origin: Literal["Debian", "PyPI", "npm"]
    version: str
    licence: str
    credit: str


@dataclass(frozen=True)
class Recording:
    """One recording of a kind.

    Attributes:
        kind: the kind's name.
        package: the name of the package that holds it.
        path: the file below the folder with the unpacked packages; `!` names a member of an archive (see
            `sound_archives`) or, as `!BANK:PROGRAM`, an instrument of a SoundFont.
        split: who learns from it.
        start: where to begin in the file, in seconds.
        seconds: how much to keep, in seconds; 0 is all of it, and never more than `LONGEST`.
        notes: what an instrument of a SoundFont plays (see `soundfonts.parse_notes`).
        original: the recording that the file was made from, where several files were made from one.
        licence: SPDX identifier of this file where it is not the package's.
    """

    kind: str
    package: str
    path: str
    split: Split = "train"
    start: float = 0.0
    seconds: float = 0.0
    notes: str = ""
    original: str = ""
    licence: str = ""

    @property
    def identity(self) -> str:
        """The same for everything that was cut from, or played by, one recording."""
        return self.original or f"{self.package}: {self.path}"


@dataclass(frozen=True)
class Sources:
    """The table of recordings; `without_recording` says per kind what was searched."""

    packages: dict[str, Package]
    recordings: tuple[Recording, ...]
    without_recording: dict[str, str]
    left_out: tuple[dict[str, str], ...]

    def licence_of(self, recording: Recording) -> str:
        """SPDX identifier of a recording's licence."""
        return recording.licence or self.packages[recording.package].licence


def read_kinds(table: Path = TABLES / "kinds.json") -> list[Kind]:
    """The kinds, in the table's order.

    Raises:
        ValueError: the table is damaged, a phrase or a stamp belongs to two kinds, or a class is outside of ImageNet.
    """
    content = _read(table)
    kinds = _rows(Kind, content, table)
    _refuse_twice("phrase", (phrase for kind in kinds for phrase in kind.phrases), table)
    _refuse_twice("stamp", (stamp for kind in kinds for stamp in kind.stamp), table)
    for kind in kinds:
        wrong = [number for number in kind.classes if not 0 <= number < IMAGENET_CLASSES]
        if wrong or len(set(kind.classes)) < len(kind.classes):
            raise ValueError(
                f"{table}: {kind.name!r} has classes {kind.classes}, but each of 0 to 999 once is expected."
            )
    return kinds


def read_sources(kinds: Sequence[Kind], table: Path = TABLES / "recordings.json") -> Sources:
    """The recordings of the kinds, with the packages that hold them.

    Raises:
        ValueError: the table is damaged; a recording names a kind or a package that is not listed, is in both splits,
            or is trained on against its licence; or a kind has neither a recording nor a reason for having none.
    """
    content = _read(table)
    try:
        packages = {
            name: from_dict(
                Package, {"name": name, "origin": row["from"], **{k: v for k, v in row.items() if k != "from"}}
            )
            for name, row in content["packages"].items()
        }
        sources = Sources(
            packages,
            tuple(_rows(Recording, content["recordings"], table)),
            dict(content["without_recording"]),
            tuple(content["left_out"]),
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{table} is damaged ({error}).") from None
    names = {kind.name for kind in kinds}
    splits: dict[str, str] = {}
    for recording in sources.recordings:
        where = f"{table}: {recording.path!r}"
        if recording.kind not in names:
            raise ValueError(f"{where} is of the kind {recording.kind!r}, which is not in the table of kinds.")
        if recording.package not in packages:
            raise ValueError(f"{where} is of the package {recording.package!r}, which is not listed.")
        if recording.split == "train" and sources.licence_of(recording) not in TRAINABLE:
            raise ValueError(f"{where} is trained on, but {sources.licence_of(recording)} does not allow that.")
        if splits.setdefault(recording.identity, recording.split) != recording.split:
            raise ValueError(f"{where} is in both splits; keep all that was made from one recording in one.")
    _refuse_twice("recording", (f"{r.kind}: {r.path} {r.start} {r.notes}" for r in sources.recordings), table)
    heard = {recording.kind for recording in sources.recordings}
    unexplained = names - heard - set(sources.without_recording)
    if unexplained or (wrong := set(sources.without_recording) - (names - heard)):
        raise ValueError(
            f"{table}: every kind has recordings or is in without_recording, but not both; look at "
            f"{', '.join(sorted(unexplained or wrong))}."
        )
    return sources


def _read(table: Path) -> Any:
    try:
        return read_json(table, MOST_MANIFEST)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{table} cannot be read ({error}).") from None


def _rows(row_type: type[Row], content: Any, table: Path) -> list[Row]:
    try:
        return [from_dict(row_type, row) for row in content]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{table} is damaged ({error}).") from None


def _refuse_twice(what: str, names: Iterable[str], table: Path) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{table}: each {what} is expected once, but {', '.join(map(repr, twice[:10]))} came twice.")
