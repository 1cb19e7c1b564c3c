"""The funnel as an HTML page: hours in and out of each step, scores, categories, and clips to look at and listen to.

    OUT/report/index.html, OUT/report/clips/HASH.jpg and .mp3

Every text in it (ids, labels, captions, reasons) comes from outside; the template escapes all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cluster.rows import Row
from ..data.shard_format import SAMPLE_RATE
from ..data.storage import StorageError, files_below, is_file, remove, replacing, write_atomic
from ..evaluate.page.render import render
from .funnel import BINS, categories, drawn, funnel, histogram
from .media import clip_frames, clip_sound
from .settings import RefineSettings
from .step import Step
from .steps import missing_of

if TYPE_CHECKING:
    from ..data.storage import Location

TEMPLATE = Path(__file__).parent / "report.html.jinja"
SHOWN = 20  # clips that are kept, and for each reason for which some are dropped
MOST_REASONS = 8  # of a step that have clips of their own; the others share theirs
MOST_CATEGORIES = 40
FRAMES = 4  # side by side
SIZE = 96  # pixels
OWN = re.compile(r"[0-9a-f]{20}\.(jpg|mp3)")  # names of the files in clips/


@dataclass(frozen=True)
class Shown:
    """A clip on the page, with its files as the page names them; "" where there are none."""

    row: Row
    image: str
    sound: str


def write_report(out: Location, rows: Collection[Row], steps: Sequence[Step], settings: RefineSettings) -> Location:
    """Write the page and the clips that it shows; the same rows give the same page.

    Raises:
        FullDiskError, StorageError: no room, or an address that cannot be reached.
    """
    folder = out / "report"
    stages = funnel(rows, steps)
    largest = categories(rows)
    counts = histogram(rows)
    captions = Counter((row["caption_by"], row.get("caption_problem") or "") for row in rows if not row["dropped_by"])
    some = drawn(rows, SHOWN, {stage.name: [reason for reason, _ in stage.reasons[:MOST_REASONS]] for stage in stages})
    shown = {group: [_shown(folder, row) for row in clips] for group, clips in some.items()}
    page = render(
        TEMPLATE,
        stages=stages,
        whole=max(stages[0].hours_in, 1e-9),
        most_reasons=MOST_REASONS,
        missing=missing_of(steps),
        scores=[
            (number / BINS, count, (number + 1) / BINS <= settings.matching.threshold)
            for number, count in enumerate(counts)
            if any(counts)
        ],
        most_scores=max(counts) or 1,
        threshold=settings.matching.threshold,
        categories=largest[:MOST_CATEGORIES],
        more_categories=max(0, len(largest) - MOST_CATEGORIES),
        most_hours=max((train + test for _, train, test in largest), default=0.0) or 1e-9,
        by_model=sum(count for (by, _), count in captions.items() if by == "model"),
        problems=_problems(captions),
        kept=shown.get(("", ""), []),
        dropped=[
            (
                stage.name,
                [(reason, count, shown[stage.name, reason]) for reason, count in stage.grouped(MOST_REASONS)],
            )
            for stage in stages
            if stage.reasons
        ],
    )
    write_atomic(folder / "index.html", page)
    _remove_others(
        folder / "clips", {one for clips in shown.values() for clip in clips for one in (clip.image, clip.sound)}
    )
    return folder / "index.html"


def _problems(captions: Counter[tuple[str, str]]) -> list[tuple[str, int]]:
    found: Counter[str] = Counter()
    for (_, problem), count in captions.items():
        if problem:
            found[problem] += count
    return found.most_common(MOST_REASONS)


def _shown(folder: Location, row: Row) -> Shown:
    name = hashlib.sha256(f"{row['id']} {row['version']}".encode("utf-8", "backslashreplace")).hexdigest()[:20]
    image, sound = f"clips/{name}.jpg", f"clips/{name}.mp3"
    return Shown(row, image if _written(folder / image, row) else "", sound if _written(folder / sound, row) else "")


def _written(file: Location, row: Row) -> bool:
    """Write the frames or the sound of a clip, if it has some and they are not there yet."""
    if is_file(file):
        return True
    if not row["path"]:
        return False
    try:
        if file.suffix == ".jpg":
            frames = clip_frames(row, FRAMES / max(row.get("sound_seconds") or row["seconds"], 0.1), SIZE)
            from PIL import Image

            with replacing(file) as temporary:
                Image.fromarray(np.concatenate(frames, axis=1)).save(temporary, "JPEG", quality=80)
        else:
            import soundfile

            sound = clip_sound(row)
            with replacing(file) as temporary:
                soundfile.write(temporary, sound, SAMPLE_RATE, format="MP3")
    except (ValueError, StorageError):  # it was dropped because it cannot be read
        return False
    return True


def _remove_others(folder: Location, shown: Collection[str]) -> None:
    """Files of clips that an earlier page showed."""
    files = [file for file in files_below(folder, (".jpg", ".mp3")) if OWN.fullmatch(file.name)]
    remove([file for file in files if f"{folder.name}/{file.name}" not in shown])
