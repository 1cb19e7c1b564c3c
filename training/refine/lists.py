"""From lists to rows: which clips there are, where their videos lie, and which are out before any video is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sounding.utils.messages import printable

from ..cluster.row_store import RowStore
from ..cluster.rows import Row
from ..data.clip_lists import Clip, iterate_clips, read_classes, read_ids
from ..data.storage import location, opened, retried
from ..data.videos import VideoFiles
from .ontology import EMPTY, ClassSet, Ontology, read_ontology
from .rows import IDENTITY, OUTCOME
from .settings import ListSettings, RefineSettings

if TYPE_CHECKING:
    from ..data.storage import Location

LISTS, LABELS = "lists", "labels"  # steps that drop without a look at the video
MOST_CLIPS = 10_000  # of one video
WHY = ("dropped_by", "reason")


@dataclass(frozen=True)
class Listed:
    """All clips of all lists: those that go on, and those that are out, with `dropped_by` and `reason`."""

    rows: RowStore = field(default_factory=lambda: RowStore(IDENTITY))
    out: RowStore = field(default_factory=lambda: RowStore({**IDENTITY, **{name: OUTCOME[name] for name in WHY}}))
    twice: int = 0  # entries of clips that an earlier list has, too


def list_clips(settings: RefineSettings) -> Listed:
    """Rows with the columns of `rows.IDENTITY`, in the order of the lists; the first entry of a clip counts.

    Raises:
        ValueError: a list, the ontology or a folder cannot be read.
    """
    ontology = read_ontology(location(settings.ontology)) if settings.ontology else EMPTY
    dropped = ClassSet(settings.labels.drop, settings.labels.spare, ontology)
    kept_out = {file: read_ids(file) for file in map(location, settings.exclude)}
    found, seen, twice = Listed(), set[str](), 0
    for each in settings.lists:
        for row, reason in _rows_of(each, settings.seconds, ontology):
            if row["id"] in seen:
                twice += 1
                continue
            seen.add(row["id"])
            inside = next((file for file, ids in kept_out.items() if row["video"] in ids), None)
            if inside is not None:
                reason = f"The list {printable(inside.name)} keeps this video out."
            label = None if reason else dropped.first(row["labels"], row["codes"])
            if reason:
                found.out.append({**row, "dropped_by": LISTS, "reason": reason})
            elif label is not None:
                found.out.append({**row, "dropped_by": LABELS, "reason": f"It is labelled {printable(label, 80)}."})
            else:
                found.rows.append(row)
    return Listed(found.rows, found.out, twice)


def _rows_of(each: ListSettings, seconds: float, ontology: Ontology) -> Iterator[tuple[Row, str]]:
    """Rows of one list, each with why it is out already, or ""."""
    folder = location(each.videos)
    files = VideoFiles(folder)
    if not files.listed and not (isinstance(folder, Path) and folder.is_dir()):
        raise ValueError(f"{folder} is not a folder, but one with videos is expected; check videos in lists.")
    if each.form == "folder":
        yield from _from_folder(each, files, seconds, ontology)
        return
    classes = location(each.classes) if each.classes else None
    clips = iterate_clips(location(each.csv), each.form, classes)
    by_index = {}
    if each.form == "audioset" and classes is not None:
        by_index = {index: (name, code) for code, (index, name) in read_classes(classes).items()}
    for clip in clips:
        if by_index:
            labels = [by_index[index] for index in clip.labels or ()]
        else:
            named = clip.captions if each.form == "vggsound" else ()
            labels = [(name, ontology.ids.get(name.casefold(), "")) for name in named]
        row = _row(clip, labels, each, seconds)
        if each.split != "all" and clip.split is not None and clip.split != each.split:
            yield row, f"It is of the split {clip.split}."
            continue
        try:
            path, row["offset"] = files.find(clip.video, clip.start)
            whole = _with_file(row, path, files)
        except (OSError, ValueError) as error:
            yield row, printable(error, 300)
            continue
        yield whole, ""


def _row(clip: Clip, labels: Sequence[tuple[str, str]], each: ListSettings, seconds: float) -> Row:
    names = [name for name, _ in labels]
    return {
        "id": clip.id,
        "video": clip.video,
        "start": clip.start,
        "offset": clip.start,
        "seconds": min(seconds, clip.seconds or seconds),
        "path": "",
        "version": "",
        "licence": each.licence,
        "source": f"https://youtu.be/{clip.video}?t={clip.start:g}" if each.form != "folder" else clip.video,
        "labels": names,
        "codes": [code for _, code in labels],
        "label_caption": clip.captions[0] if clip.captions else ", ".join(names),
    }


def _from_folder(
    each: ListSettings, files: VideoFiles, seconds: float, ontology: Ontology
) -> Iterator[tuple[Row, str]]:
    """Clips one after the other of every video below a folder; a rest that is shorter is left."""
    for path in files.listed:
        inside = PurePosixPath(path.as_posix()).relative_to(files.folder.as_posix())
        named, label = (_text(name) for name in (inside.with_suffix("").as_posix(), inside.parent.name))
        labels = [(label, ontology.ids.get(label.casefold(), ""))] if label else []
        try:
            _check_name(path)
            length = retried(partial(seconds_of, path))
        except Exception as error:  # decoders raise almost every kind for broken files
            yield (
                _row(Clip(named, 0.0, None, ()), labels, each, seconds),
                f"It cannot be opened ({printable(error, 200)}).",
            )
            continue
        # Whether so short a video has enough for a clip is a matter of the settings of `clips`.
        for number in range(max(1, min(MOST_CLIPS, int(length / seconds + 1e-3)))):
            row = _row(Clip(named, number * seconds, None, ()), labels, each, seconds)
            yield _with_file(row, path, files), ""


def _text(name: str) -> str:
    """A name of a file as text: bytes of it that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _check_name(path: Location) -> None:
    """Refuse names that no table can hold.

    Raises:
        ValueError: the name is not UTF-8.
    """
    if _text(str(path)) != str(path):
        raise ValueError(f"the name {_text(path.name)} is not UTF-8; rename it")


def seconds_of(path: Location) -> float:
    """Length of a video by its header.

    Raises:
        av.FFmpegError, ValueError: a broken file.
        OSError: an address that cannot be reached.
    """
    import av

    with opened(path) as source, av.open(source) as container:
        if container.duration is None:
            raise ValueError("its length is unknown")
        return container.duration / av.time_base


def _with_file(row: Row, path: Location, files: VideoFiles) -> Row:
    """The row with its file and `version`: results of another file, or for another entry of the list, are void.

    Raises:
        OSError: a link that leads nowhere, or a file that is gone by now.
        ValueError: see `_check_name`.
    """
    _check_name(path)
    state = files.listed[path]
    if state is None:
        found = path.stat()
        state = [found.st_size, found.st_mtime_ns]
    told = [*state, *(row[name] for name in ("offset", "seconds", "labels", "codes")), row["label_caption"]]
    version = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return {**row, "path": str(path), "version": version}
