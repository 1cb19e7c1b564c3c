"""AudioCaps' and AudioSet's lists of clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Form = Literal["audiocaps", "audioset"]
AUDIOCAPS = ("youtube_id", "start_time", "caption")


@dataclass(frozen=True)
class Clip:
    """A row (or rows, with several captions) of a list."""

    video: str  # YouTube id
    start: float  # s
    seconds: float | None  # None: as long as asked
    captions: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """Names the clip among all of a list."""
        return f"{self.video}_{self.start:g}"


def read_clips(file: Path, form: Form | None = None, classes: Path | None = None) -> list[Clip]:
    """The clips of an AudioCaps CSV (audiocap_id,youtube_id,start_time,caption; rows of one clip are put together)
    or an AudioSet one (`# YTID, start_seconds, end_seconds, positive_labels`), told apart by the first line.

    Args:
        file: the CSV.
        form: of the CSV.
        classes: AudioSet's class_labels_indices.csv; display names become the caption, indices the labels.

    Raises:
        ValueError: unreadable, of another form, or AudioSet's without `classes`; names the line.
    """
    text = _read(file)
    if form is None:
        form = "audioset" if text.lstrip().startswith("#") else "audiocaps"
    if form == "audiocaps":
        return list(_audiocaps(file, text))
    if classes is None:
        raise ValueError(
            f"{file} is an AudioSet list, whose labels are codes, but the names of classes are missing; give "
            "--classes class_labels_indices.csv."
        )
    return list(_audioset(file, text, _read_classes(classes)))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); give a CSV file in UTF-8.") from None


def _audiocaps(file: Path, text: str) -> Iterator[Clip]:
    reader = csv.DictReader(io.StringIO(text))
    if not set(AUDIOCAPS) <= set(reader.fieldnames or ()):
        raise ValueError(
            f"{file} has the columns {', '.join(reader.fieldnames or ())}, but {', '.join(AUDIOCAPS)} are expected; "
            "give AudioCaps' CSV, or say --form audioset."
        )
    found: dict[tuple[str, float], list[str]] = {}
    for row in reader:
        try:
            key, caption = (row["youtube_id"].strip(), _seconds(row["start_time"])), row["caption"].strip()
        except (ValueError, TypeError, AttributeError):  # a short row has None for what is missing
            raise ValueError(f"{file}, line {reader.line_num}: {row} is no row of AudioCaps; mend the file.") from None
        found.setdefault(key, []).append(caption)
    for (video, start), captions in found.items():
        yield Clip(video, start, None, tuple(caption for caption in captions if caption))


def _audioset(file: Path, text: str, classes: dict[str, tuple[int, str]]) -> Iterator[Clip]:
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    for row in reader:
        if not row or row[0].startswith("#"):
            continue
        try:
            video, start, end, codes = row
            begin, length = _seconds(start), _seconds(end) - _seconds(start)
            found = [classes[code.strip()] for code in codes.split(",")]
            if length <= 0:
                raise ValueError
        except KeyError as error:
            raise ValueError(
                f"{file}, line {reader.line_num}: the class {error} is not in the list of classes; give the list that "
                "belongs to it."
            ) from None
        except ValueError:
            raise ValueError(
                f"{file}, line {reader.line_num}: {row} came, but YTID, start_seconds, end_seconds, positive_labels "
                "are expected; mend the file, or say --form audiocaps."
            ) from None
        yield Clip(video, begin, length, (", ".join(name for _, name in found),), tuple(index for index, _ in found))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text} is no time")
    return value


def _read_classes(file: Path) -> dict[str, tuple[int, str]]:
    """Code -> (index, display name)."""
    reader = csv.DictReader(io.StringIO(_read(file)))
    try:
        return {row["mid"]: (int(row["index"]), row["display_name"]) for row in reader}
    except (KeyError, ValueError, TypeError):
        raise ValueError(
            f"{file} has the columns {', '.join(reader.fieldnames or ())}, but index, mid, display_name are expected; "
            "give AudioSet's class_labels_indices.csv."
        ) from None
