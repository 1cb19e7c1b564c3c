"""What an items' CSV says of each item: the classes of its selected object, and those of the other objects."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sounding.utils.messages import printable

LONGEST = 10_000  # characters of a cell


@dataclass
class Labels:
    """Class numbers of one model, per item.

    `own` has those of the selected object; `others` those of the objects that are in the image but not selected.
    Background items, where everything but the objects is selected, have others and no label of their own.
    """

    own: dict[str, list[int]] = field(default_factory=dict)
    others: dict[str, list[int]] = field(default_factory=dict)  # without items of whose own labels none is known
    unknown: list[str] = field(default_factory=list)  # labels that the model has no class for


def read_labels(path: Path, classes: Sequence[str]) -> Labels:
    """Labels from a CSV with the columns `name`, `labels` and perhaps `others`, the latter two separated by ";".

    Raises:
        ValueError: it cannot be read, has no such columns, or has a name twice.
    """
    known = {name.casefold(): number for number, name in enumerate(classes)}
    found = Labels()
    unknown: set[str] = set()

    def numbers(cell: str | None) -> Iterator[int]:
        for label in filter(None, map(str.strip, (cell or "").split(";"))):
            if label.casefold() in known:
                yield known[label.casefold()]
            else:
                unknown.add(label)

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"name", "labels"} <= set(rows.fieldnames or ()):
                raise ValueError(f"its columns are {', '.join(rows.fieldnames or ()) or 'none'}")
            for row in rows:
                if not (name := row["name"]):  # as spreadsheets leave empty rows
                    continue
                if name in found.own:
                    raise ValueError(f"it has {printable(name, 40)} twice; put all labels of an item into one row")
                if max(len(row["labels"] or ""), len(row.get("others") or "")) > LONGEST:
                    raise ValueError(f"the labels of {printable(name, 40)} are longer than {LONGEST} characters")
                found.own[name] = sorted(set(numbers(row["labels"])))
                others = sorted(set(numbers(row.get("others"))) - set(found.own[name]))
                if others and (found.own[name] or not (row["labels"] or "").strip()):
                    found.others[name] = others
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no list of labels ({printable(error, 200)}); give a CSV with the columns name and labels, "
            "separated by commas."
        ) from None
    found.unknown = sorted(unknown)
    return found
