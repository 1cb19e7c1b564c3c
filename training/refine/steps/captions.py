"""What is heard and what is seen, in words: an audio caption, and one caption per second of the frames."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sounding.utils.messages import printable

from ...cluster.rows import Column, Row
from ..media import clip_frames, clip_sound
from ..model_files import digest
from ..settings import CaptionSettings
from ..step import Step

if TYPE_CHECKING:
    from ..captioners import AudioCaptioner, FrameCaptioner

LONGEST = 300  # characters of a caption
MOST_SEEN = 2000  # characters of a clip's frame captions with what joins them; ten of BLIP have some 600
AND_THEN = " and then "
MOST_BYTES = 1 << 30  # of a CSV of captions


class CaptionStep(Step):
    """Captions clips, and drops none."""

    name = "captions"
    columns: ClassVar[dict[str, Column]] = {
        "audio_caption": Column("text", "of an audio captioner, else the tags or labels that are heard"),
        "frame_captions": Column("texts", "what is seen, second by second; equal ones in a row once"),
    }
    needs = ("clips", "events")
    takes_memory = "captions.resources.batch"

    def __init__(self, settings: CaptionSettings):
        super().__init__(settings.resources)
        self.chosen = settings
        named = [path for path in (settings.audio, settings.blip if settings.frames == "blip" else "") if path]
        self.digest = digest(*named)
        self.audio_digest = digest(settings.audio_model) if settings.audio_model else ""
        self.audio: dict[str, str] = {}
        self.hears: AudioCaptioner | None = None
        self.sees: FrameCaptioner | None = None

    def settings(self) -> dict[str, Any]:
        """See Step."""
        chosen = self.chosen
        told = {
            "models": self.digest,
            "frames": chosen.frames,
            "frames_per_second": chosen.frames_per_second,
            "size": chosen.size,
        }
        # Without such a model the results of runs before there was one stay valid.
        return {**told, "audio_model": [self.audio_digest, chosen.audio_prompt]} if chosen.audio_model else told

    def model(self) -> str:
        """See Step."""
        heard = ", else ".join(path for path in (self.chosen.audio, self.chosen.audio_model) if path)
        seen = {"blip": self.chosen.blip, "names": "stand-in: names by the namer in the box", "none": "none"}
        return f"heard: {heard or 'tags and labels'}; seen: {seen[self.chosen.frames]}"

    def missing(self) -> str:
        """See Step."""
        captioned = self.chosen.audio or self.chosen.audio_model
        lacking = [] if captioned else ["no audio captions; tags and labels are taken"]
        if self.chosen.frames != "blip":
            names = self.chosen.frames == "names"
            lacking.append("no BLIP; names of what frames show are taken" if names else "no captions of frames")
        return "; ".join(lacking)

    def open(self) -> None:
        """See Step."""
        chosen = self.chosen
        if chosen.audio:
            self.audio = dict(read_captions(Path(chosen.audio)))
        if not chosen.audio_model and chosen.frames == "none":
            return
        from ..captioners import Blip, NameCaptioner, open_audio_captioner  # which bring torch

        if chosen.audio_model:
            self.hears = open_audio_captioner(Path(chosen.audio_model), chosen.audio_prompt, chosen.device)
        if chosen.frames == "blip":
            self.sees = Blip(Path(chosen.blip), chosen.device)
        elif chosen.frames == "names":
            self.sees = NameCaptioner(chosen.device)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        heard, seen = self._heard(rows), self._seen(rows)
        return [{"audio_caption": one, "frame_captions": many} for one, many in zip(heard, seen, strict=True)]

    def _heard(self, rows: Sequence[Row]) -> list[str]:
        found = [self.audio.get(row["id"], "") for row in rows]
        todo = [place for place, caption in enumerate(found) if not caption] if self.hears is not None else []
        if self.hears is not None and todo:
            captions = self.hears.caption([clip_sound(rows[place]) for place in todo])
            for place, caption in zip(todo, captions, strict=True):
                found[place] = one_line(caption)
        return [caption or labels_of(row) for caption, row in zip(found, rows, strict=True)]

    def _seen(self, rows: Sequence[Row]) -> list[list[str]]:
        """All frames of all clips go to the model together."""
        if self.sees is None:
            return [[] for _ in rows]
        frames = [clip_frames(row, self.chosen.frames_per_second, self.chosen.size) for row in rows]
        captions = iter(self.sees.caption([frame for of_clip in frames for frame in of_clip]))
        return [in_time(list(islice(captions, len(of_clip)))) for of_clip in frames]


def one_line(caption: str) -> str:
    """A caption as it is kept: on one line, without characters that do not show, not too long."""
    return printable(" ".join(caption.split()), LONGEST)


def in_time(captions: Sequence[str]) -> list[str]:
    """Captions of frames in their order: equal ones in a row once, and no more than `MOST_SEEN` characters in all."""
    kept: list[str] = []
    left = MOST_SEEN
    for caption in map(one_line, captions):
        if caption and (not kept or kept[-1].casefold() != caption.casefold()):
            left -= len(AND_THEN) + len(caption)
            if left < 0:
                break
            kept.append(caption)
    return kept


def labels_of(row: Row) -> str:
    """What is heard by the tags, else by the list."""
    return printable(", ".join(row.get("tags") or row["labels"]) or row["label_caption"], LONGEST)


def joined(captions: Sequence[str]) -> str:
    """Captions in time, connected by "and then" as in the prompt of figure 9."""
    return AND_THEN.join(captions)


def read_captions(file: Path) -> Iterator[tuple[str, str]]:
    """Pairs of id and caption from a CSV with these columns.

    Raises:
        ValueError: unreadable, or without these columns; names the line.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file} has more than {MOST_BYTES:,} bytes; give a CSV of captions.")
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if not {"id", "caption"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{file} has no columns id and caption, which are expected; give a CSV of captions.")
            for row in reader:
                if row["id"] and row["caption"]:
                    yield row["id"], one_line(row["caption"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read ({printable(error, 200)}); give a CSV of captions.") from None
