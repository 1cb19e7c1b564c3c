"""The tables of docs/starter-data.md, from those of the starter: `python docs/tools/starter_data.py` writes them.

`--data FOLDER` instead compares the counts with what `python -m training starter data` made. `credits.json` beside them
has authors by package.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from training.data.object_set import MOST_MANIFEST, read_set
from training.data.shard_format import read_json
from training.starter import images
from training.starter.kinds import TABLES, Split, read_kinds, read_sources
from training.starter.object_sets import SPLITS
from training.starter.packages import packages_of

PAGE = Path(__file__).parent.parent / "starter-data.md"
CREDITS: dict[str, dict[str, str]] = read_json(TABLES / "credits.json", MOST_MANIFEST)
KINDS = read_kinds()
SOURCES = read_sources(KINDS)
TABLE: dict[str, Any] = images.read_table()
HEARD = {split: Counter(row.kind for row in SOURCES.recordings if row.split == split) for split in SPLITS}


class Picture(NamedTuple):
    """An image that a set lists; `part` is one of `images.PARTS`."""

    part: str
    kind: str
    package: str
    split: Split
    licence: str


def listed() -> Iterator[Picture]:
    """All images of the tables."""
    packages = packages_of(TABLE)
    stamps = packages["tuxpaint-stamps-default"]
    for kind in KINDS:
        yield from (Picture("kinds", kind.name, stamps.name, "train", stamps.licence) for _ in kind.stamp)
    for part in images.PARTS:
        for row in TABLE[part]:
            licence = row.get("licence") or packages[row["package"]].licence
            yield Picture(part, row.get("kind", ""), row["package"], row["split"], licence)


# Without those of kinds that have no recording in the same split, as `object_sets` has it.
PICTURES = [row for row in listed() if not row.kind or HEARD[row.split][row.kind]]
SEEN = {split: Counter(row.kind for row in PICTURES if row.kind and row.split == split) for split in SPLITS}


def table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *rows))


def both(splits: Iterable[Split]) -> str:
    """How many of them are for training, and how many for the test."""
    counted = Counter(splits)
    return f"{counted['train']} + {counted['test']}"


def licences(rows: Iterable[tuple[str, Split]]) -> str:
    """Each licence, with its counts where there are several."""
    counted: dict[str, list[Split]] = defaultdict(list)
    for licence, split in rows:
        counted[licence.partition(" (")[0]].append(split)
    return ", ".join(f"{n} ({both(s)})" if len(counted) > 1 else n for n, s in sorted(counted.items()))


def pasted(part: str, split: Split) -> int:
    """How many silent things or backgrounds a set has."""
    return sum(row.part == part and row.split == split for row in PICTURES)


def counts() -> str:
    """How much there is of everything."""
    lines: dict[str, list[int]] = defaultdict(list)
    for split in SPLITS:
        heard, seen = HEARD[split], SEEN[split]
        present = [kind for kind in KINDS if heard[kind.name]]
        lines["kinds"].append(len(present))
        lines["... that are a whole image, such as rain"].append(sum(kind.ambience for kind in present))
        lines["... with an image"].append(len(seen))
        lines["... learned by sight: with an image or a class of ImageNet"].append(
            sum(bool(seen[kind.name] or kind.classes) for kind in present)
        )
        lines["recordings"].append(sum(heard.values()))
        lines["images of kinds"].append(sum(seen.values()))
        lines["silent things"].append(pasted("silent", split))
        lines["backgrounds"].append(pasted("backgrounds", split))
    return table(["", *SPLITS], ([name, *numbers] for name, numbers in lines.items()))


def sounds() -> str:
    """The packages that recordings are from."""
    lines = []
    for package in SOURCES.packages.values():
        rows = [row for row in SOURCES.recordings if row.package == package.name]
        name = f"{package.name} {package.version} ({package.origin})"
        authors = CREDITS["sounds"].get(package.name, package.credit)
        licence = licences((SOURCES.licence_of(row), row.split) for row in rows)
        lines.append([name, both(row.split for row in rows), len({row.kind for row in rows}), authors, licence])
    return table(["package", "recordings", "kinds", "authors", "licence"], lines)


def authors_of(rows: Iterable[Picture]) -> str:
    """Whom the images' own licences name, by licence where there are several."""
    named: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        licence, _, author = row.licence.removesuffix(")").partition(" (")
        named[licence].add(author.removesuffix(", Open Clip Art, says the file"))
    start = "{}: " if len(named) > 1 else ""
    return "; ".join(start.format(licence) + ", ".join(sorted(names)) for licence, names in sorted(named.items()))


def pictures() -> str:
    """The packages that images are from."""
    lines = []
    for package in packages_of(TABLE).values():
        rows = [row for row in PICTURES if row.package == package.name]
        parts = [both(row.split for row in rows if row.part == part) for part in images.PARTS]
        authors = CREDITS["images"].get(package.name) or authors_of(rows)
        licence = licences((row.licence, row.split) for row in rows)
        kinds = {row.kind for row in rows if row.kind}
        lines.append([package, parts[0], len(kinds), *parts[1:], authors, licence])
    return table(["package", "images of kinds", "kinds", "silent", "backgrounds", "authors", "licence"], lines)


def missing() -> str:
    """Kinds that cannot be learned by ear or by sight, and what was searched."""
    test_only = "for the test only, since their licence keeps them from training"
    lines = [f"- *{name}* has no recording. {why}" for name, why in SOURCES.without_recording.items()]
    reasons: dict[str, list[str]] = defaultdict(list)
    for kind in KINDS:
        if not HEARD["train"][kind.name]:
            lines += [f"- *{kind.name}* has recordings {test_only}."] * bool(HEARD["test"][kind.name])
        elif not (SEEN["train"][kind.name] or kind.classes):
            reasons[TABLE["without_image"].get(kind.name, f"images {test_only}")].append(f"*{kind.name}*")
    return "\n".join([*lines, *(f"- {', '.join(names)}: {why}." for why, names in reasons.items())])


def kinds() -> str:
    """All kinds."""
    packages: dict[str, set[str]] = defaultdict(set)
    taken = [(row.kind, row.package) for row in SOURCES.recordings] + [(row.kind, row.package) for row in PICTURES]
    for name, package in taken:
        packages[name].add(re.sub(r"^@\S+/|-(instrument-.*|data|default|samples|soundfont|common)$", "", package))
    lines = []
    for kind in sorted(KINDS, key=lambda kind: kind.name.lower()):
        heard, seen = (" + ".join(str(counted[split][kind.name]) for split in SPLITS) for counted in (HEARD, SEEN))
        lines.append([kind.name, heard, seen, len(kind.classes), ", ".join(sorted(packages[kind.name]))])
    return table(["kind", "recordings", "images", "classes", "packages"], lines)


def with_tables(page: str) -> str:
    """The page with its tables replaced."""
    for block in (counts, sounds, pictures, missing, kinds):
        before, start, rest = page.partition(f"<!-- {block.__name__} -->\n")
        page = before + start + block() + "".join(rest.partition("\n<!-- end -->")[1:])
    return page


def differences(data: Path) -> Iterator[str]:
    """Where the sets in a folder are not as the tables say."""
    for split in SPLITS:
        made = read_set(data / split)
        expected = {name: (number, SEEN[split][name]) for name, number in HEARD[split].items()}
        there = {row.name: (len(row.all_recordings), len(row.all_images)) for row in made.objects}
        expected["silent, backgrounds"] = pasted("silent", split), pasted("backgrounds", split)
        there["silent, backgrounds"] = len(made.silent), len(made.backgrounds)
        for name in sorted(expected.keys() | there.keys()):
            if expected.get(name) != there.get(name):
                yield f"{split}, {name}: {there.get(name)}, not {expected.get(name)}"


def main() -> None:
    """Write the tables, or say how a set differs from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the sets train and test to compare with; nothing is written")
    asked = parser.parse_args()
    if asked.data:
        raise SystemExit("\n".join(differences(asked.data)) or None)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
