"""AudioCaps', AudioSet's and VGG-Sound's lists of clips, and lists of videos to keep out.

A clip is a line: a quote that does not close on its line is an error there, so that it swallows no clips.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sounding.utils.messages import printable

from .shard_format import Skipped
from .storage import read_bytes, request

if TYPE_CHECKING:
    from .storage import Location

Form = Literal["audiocaps", "audioset", "vggsound"]
AUDIOCAPS = ("youtube_id", "start_time", "caption")
CLASSES = ("index", "mid", "display_name")
SPLITS = ("train", "test")
MOST_BYTES = 1 << 30  # AudioSet's longest list has some 100 MB
TIME = re.compile(r"\d{1,6}(\.\d*)?|\.\d+", re.ASCII)  # seconds; a million of them are eleven days
Row = tuple[int, list[str]]  # a line's number and its fields


@dataclass(frozen=True)
class Clip:
    """A row (or rows, with several captions) of a list."""

    video: str  # YouTube id
    start: float  # s
    seconds: float | None  # None: as long as asked
    captions: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    split: str | None = None  # where the list says it

    @property
    def id(self) -> str:
        """Names the clip among all of a list."""
        return f"{self.video}_{self.start:g}"


def read_clips(file: Location, form: Form | None = None, classes: Location | None = None) -> list[Clip]:
    """All clips of a list; see `iterate_clips`."""
    return list(iterate_clips(file, form, classes))


def iterate_clips(file: Location, form: Form | None = None, classes: Location | None = None) -> Iterator[Clip]:
    """The clips of a list: AudioCaps' CSV (audiocap_id,youtube_id,start_time,caption; rows of one clip are put
    together), one of AudioSet's (`# YTID, start_seconds, end_seconds, positive_labels`) or VGG-Sound's (id, start,
    label, split, without a header), told apart by the first line.

    Args:
        file: the CSV.
        form: of the CSV.
        classes: AudioSet's class_labels_indices.csv; display names become the caption, indices the labels.

    Raises:
        ValueError: unreadable, of another form, or AudioSet's without `classes`; names the line.
    """
    lines = _read(file)
    if form is None:
        form = _form(lines)
    if form == "audiocaps":
        return iter(_audiocaps(file, lines))
    if form == "vggsound":
        return _vggsound(file, lines)
    if classes is None:
        raise ValueError(
            f"{file} is an AudioSet list, whose labels are codes, but the names of classes are missing; give "
            "--classes class_labels_indices.csv."
        )
    return _audioset(file, lines, read_classes(classes))


def read_ids(file: Location) -> set[str]:
    """The YouTube ids of a list of any form, or of a text with one id per line.

    Raises:
        ValueError: unreadable, or neither.
    """
    lines = _read(file)
    header = next((fields for _, fields in _rows(file, lines)), [])
    if lines and lines[0].startswith("#"):
        column, rows = 0, _rows(file, lines, spaces=True)
    elif "youtube_id" in header:
        column, rows = header.index("youtube_id"), _rows(file, lines)
        next(rows)
    else:
        column, rows = 0, _rows(file, lines)
    found = set()
    for number, fields in rows:
        if column >= len(fields) or not _is_id(fields[column].strip()):
            raise ValueError(
                f"{file}, line {number}: {_short(fields)} came, but a YouTube id is expected; mend the file."
            )
        found.add(fields[column].strip())
    return found


def without(clips: list[Clip], excluded: Iterable[Location], split: str | None) -> tuple[list[Clip], list[Skipped]]:
    """The clips that are in no list of `excluded`, by the id of their video, and of `split` where they say it; and the
    others, with why.

    Raises:
        ValueError: a list that cannot be read, or a split that is in none.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"The split {split!r} came, but one of {', '.join(SPLITS)} is expected.")
    lists = {file: read_ids(file) for file in excluded}
    kept: list[Clip] = []
    out: list[Skipped] = []
    for clip in clips:
        inside = next((file for file, ids in lists.items() if clip.video in ids), None)
        if inside is not None:
            out.append(Skipped(clip.id, f"The list {inside.name} keeps this video out."))
        elif split is not None and clip.split is not None and clip.split != split:
            out.append(Skipped(clip.id, f"It is of the split {clip.split}."))
        else:
            kept.append(clip)
    return kept, out


def _read(file: Location) -> list[str]:
    """The lines of a list in UTF-8 or, with its mark, UTF-16."""
    try:
        found = request(file, file.stat)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no ordinary file")
        if found.st_size > MOST_BYTES:
            raise ValueError(f"it has {found.st_size:,} bytes, but at most {MOST_BYTES:,} are expected")
        data = read_bytes(file)
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: it cannot be read ({error}); give a CSV file in UTF-8.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); give a CSV file in UTF-8.") from None
    lines = re.split(r"\r\n|\n|\r", text)
    for number, each in enumerate(lines, 1):
        if "\0" in each:
            raise ValueError(f"{file}, line {number}: it has a NUL, but text is expected; give a CSV file in UTF-8.")
    return lines


def _rows(file: Location, lines: list[str], *, spaces: bool = False) -> Iterator[Row]:
    """Fields by line, without empty lines and comments; `spaces` may follow commas."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or (line.startswith("#") and spaces):
            continue
        try:
            yield number, next(csv.reader([line], strict=True, skipinitialspace=spaces))
        except csv.Error as error:
            why = "a quote does not close on its line" if "end of data" in str(error) else str(error)
            raise ValueError(
                f"{file}, line {number}: {why} ({line[:60]!r} ...), but one clip per line is expected, with quotes in "
                "pairs and fields of no more than 128 KB; mend that line."
            ) from None


def _form(lines: list[str]) -> Form:
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("#"):
        return "audioset"
    try:
        fields = next(csv.reader([first]), [])
    except csv.Error:
        fields = []
    return "vggsound" if len(fields) == 4 and TIME.fullmatch(fields[1].strip()) else "audiocaps"


def _audiocaps(file: Location, lines: list[str]) -> list[Clip]:
    rows = _rows(file, lines)
    _, header = next(rows, (0, []))
    columns = [name.strip() for name in header]
    if not set(AUDIOCAPS) <= set(columns):
        raise ValueError(
            f"{file} has the columns {_short(columns)}, but {', '.join(AUDIOCAPS)} are expected; give AudioCaps' CSV, "
            "or say --form audioset or vggsound."
        )
    places = [columns.index(name) for name in AUDIOCAPS]
    found: dict[tuple[str, float], list[str]] = {}
    for number, fields in rows:
        while len(fields) > len(columns) and not fields[-1].strip():
            fields.pop()
        try:
            if len(fields) != len(columns):
                raise ValueError
            video, start, caption = (fields[place].strip() for place in places)
            key = (_video(video), _seconds(start))
        except ValueError:
            raise ValueError(
                f"{file}, line {number}: {_short(fields)} is no row of AudioCaps, which has {_short(columns)}; mend "
                "the file (a caption with commas stands in quotes)."
            ) from None
        found.setdefault(key, []).append(caption)
    return [
        Clip(video, start, None, tuple(caption for caption in captions if caption))
        for (video, start), captions in found.items()
    ]


def _vggsound(file: Location, lines: list[str]) -> Iterator[Clip]:
    for number, fields in _rows(file, lines):
        try:
            video, start, label, split = (field.strip() for field in fields)
            if split not in SPLITS or not label:
                raise ValueError
            yield Clip(_video(video), _seconds(start), None, (label,), split=split)
        except ValueError:
            raise ValueError(
                f"{file}, line {number}: {_short(fields)} is no row of VGG-Sound, which has id, start, label and train "
                "or test; mend the file, or say another --form."
            ) from None


def _audioset(file: Location, lines: list[str], classes: dict[str, tuple[int, str]]) -> Iterator[Clip]:
    for number, fields in _rows(file, lines, spaces=True):
        try:
            video, start, end, codes = fields
            begin, length = _seconds(start), _seconds(end) - _seconds(start)
            found = [classes[code.strip()] for code in codes.split(",")]
            if length <= 0:
                raise ValueError
            _video(video)
        except KeyError as error:
            raise ValueError(
                f"{file}, line {number}: the class {error} is not in the list of classes; give the list that belongs "
                "to it."
            ) from None
        except ValueError:
            raise ValueError(
                f"{file}, line {number}: {_short(fields)} came, but YTID, start_seconds, end_seconds, positive_labels "
                "are expected; mend the file, or say --form audiocaps."
            ) from None
        yield Clip(video, begin, length, (", ".join(name for _, name in found),), tuple(index for index, _ in found))


def _seconds(text: str) -> float:
    """A time in plain decimals.

    Raises:
        ValueError: none.
    """
    if not TIME.fullmatch(text.strip()):
        raise ValueError(f"{text} is no time")
    return float(text)


def _video(text: str) -> str:
    if not _is_id(text):
        raise ValueError(f"{text} is no id")
    return text


def _is_id(text: str) -> bool:
    """Whether it can be the name of a video's file."""
    return 0 < len(text) <= 100 and text.isprintable() and not set(text) & set("/\\ ,")


def _short(fields: list[str]) -> str:
    text = printable(", ".join(fields))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def read_classes(file: Location) -> dict[str, tuple[int, str]]:
    """Code -> (index, display name), from AudioSet's class_labels_indices.csv.

    Raises:
        ValueError: unreadable, or another file.
    """
    rows = _rows(file, _read(file))
    _, header = next(rows, (0, []))
    if not set(CLASSES) <= set(header):
        raise ValueError(
            f"{file} has the columns {_short(header)}, but {', '.join(CLASSES)} are expected; give AudioSet's "
            "class_labels_indices.csv."
        )
    index, code, name = (header.index(column) for column in CLASSES)
    found: dict[str, tuple[int, str]] = {}
    for number, fields in rows:
        try:
            found[fields[code]] = (int(fields[index]), fields[name])
        except (ValueError, IndexError):
            raise ValueError(f"{file}, line {number}: {_short(fields)} is no class; mend the file.") from None
    return found
