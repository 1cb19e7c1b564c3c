"""Writes `index.html` and its files into the folder of a report, which works wherever the folder is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sounding.utils.files import write_atomic
from sounding.utils.messages import printable

from ..folders import Side, find_sounds
from ..images import ItemImages
from ..report import SoundFeatures
from ..scores import LEFT_OUT
from ..table import reasons, tables
from .items import ClassFigures, choose_shown, likeliest, score_items
from .media import Media, Sound
from .render import render
from .scatter import MOST_POINTS, SIZE, embedding_map

TEMPLATE = Path(__file__).parent / "index.html.jinja"
MOST_NAMES, MOST_CLASSES = 60, 120  # of a list; report.json has all


@dataclass(frozen=True)
class Shown:
    """An item on the page: its sounds, and for a worst item what is known of it."""

    name: str
    labels: str
    picture: str
    sounds: list[tuple[str, Sound]]
    score: float | None = None
    taken_for: str = ""


class PageWriter:
    """Gathers what the page shows from one model of sounds, the one with classes if there is one."""

    def __init__(self, out: Path, features: SoundFeatures, images: ItemImages | None):
        self.out, self.features = out, features
        self.media = Media(out, features.seconds, features.model.rate, images)
        self.files = {side.name: find_sounds(side.folder) for side in (features.reference, *features.systems)}
        self.labels = features.labels.own if features.labels else {}

    def write(
        self, report: dict[str, Any], compared: SoundFeatures, classes: Sequence[dict[str, ClassFigures]]
    ) -> Path:
        """Write the page.

        Args:
            report: of `measure_models`.
            compared: all folders by the model whose embeddings are compared.
            classes: figures per class of every system, see `items.by_class`.
        """
        names = choose_shown(self.features.systems, self.features.reference)
        page = render(
            TEMPLATE,
            report=report,
            tables=list(tables(report)),
            shown=[self._shown(name, self.features.systems) for name in names],
            classes=self._classes(classes),
            left_out=LEFT_OUT,
            map=embedding_map(compared.systems, compared.reference),
            map_model=compared.model.name,
            most_points=MOST_POINTS,
            size=SIZE,
            worst=[self._worst(side) for side in self.features.systems],
            findings=[(system, self._findings(system), reasons(system)) for system in report["systems"]],
            features=self.features,
            rate=self.media.rate,
        )
        write_atomic(self.out / "index.html", page)
        self.media.remove_others()
        return self.out / "index.html"

    def _shown(self, name: str, systems: Sequence[Side], **known: Any) -> Shown:
        sounds = [
            (side.name, self.media.sound(self.files[side.name].get(name)))
            for side in (self.features.reference, *systems)
        ]
        own = ", ".join(self.features.model.classes[number] for number in self.labels.get(name, ()))
        return Shown(name, own, self.media.picture(name), sounds, **known)

    def _worst(self, side: Side) -> tuple[str, str, list[Shown]]:
        """A system's name, what its items are scored by, and the lowest ones."""
        scored = score_items(side, self.features.reference, self.features.model.classes, self.labels)
        lowest = scored.worst()
        names = [name for name, _ in lowest]
        classes = self.features.model.classes
        taken = [classes[number] for number in likeliest(side, names, classes)] if classes else [""] * len(names)
        shown = [
            self._shown(name, [side], score=score, taken_for=guess)
            for (name, score), guess in zip(lowest, taken, strict=True)
        ]
        return side.name, scored.title, shown

    def _classes(self, figures: Sequence[dict[str, ClassFigures]]) -> list[tuple[str, list[ClassFigures | None]]]:
        """Classes with the figures of all systems: those with most items, by the first system's confidence."""
        counts: dict[str, int] = {}
        for own in figures:
            for name, found in own.items():
                counts[name] = max(counts.get(name, 0), found.count)
        kept = sorted(counts, key=lambda name: -counts[name])[:MOST_CLASSES]
        rows = [(name, [own.get(name) for own in figures]) for name in kept]
        return sorted(rows, key=lambda row: -row[1][0].confidence if row[1][0] else 1.0)

    def _findings(self, system: dict[str, Any]) -> list[tuple[str, list[str], int]]:
        """What is to be known of a system's sounds: the kind, some items with the reason if there is one, how many."""
        found = []
        for kind, names in system["sounds"].items():
            said = system["unreadable"] if kind == "unreadable" else {}
            found.append((kind, [_with_reason(name, said) for name in names[:MOST_NAMES]], len(names)))
        missing = system.get("without_image", {})
        if missing:
            some = [_with_reason(name, missing) for name in list(missing)[:MOST_NAMES]]
            found.append(("without an image or mask that can be used", some, len(missing)))
        return found


def _with_reason(name: str, reasons: dict[str, str]) -> str:
    return f"{printable(name, 80)}: {reasons[name]}" if name in reasons else printable(name, 80)
