"""What is heard and what is seen, in words: an audio caption, and one caption per second of the frames."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from sounding.utils.messages import printable

from ...cluster.rows import Column, Row
from ..media import clip_frames
from ..model_files import device_for, digest
from ..settings import CaptionSettings
from ..step import Step

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 300  # characters of a caption
AND_THEN = " and then "
MOST_BYTES = 1 << 30  # of a CSV of captions


class FrameCaptioner(Protocol):
    """What the step asks of a model."""

    def caption(self, frames: Tensor) -> list[str]:
        """One caption per frame; "" where there is nothing to say.

        Args:
            frames: [F, H, W, 3] 0..1.
        """


class CaptionStep(Step):
    """Captions clips, and drops none."""

    name = "captions"
    columns: ClassVar[dict[str, Column]] = {
        "audio_caption": Column("text", "of an audio captioner, else the tags or labels that are heard"),
        "frame_captions": Column("texts", "what is seen, second by second; equal ones in a row once"),
    }
    needs = ("clips", "events")

    def __init__(self, settings: CaptionSettings):
        super().__init__(settings.resources)
        self.chosen = settings
        named = [path for path in (settings.audio, settings.blip if settings.frames == "blip" else "") if path]
        self.digest = digest(*named)
        self.audio: dict[str, str] = {}
        self.captioner: FrameCaptioner | None = None

    def settings(self) -> dict[str, Any]:
        """See Step."""
        chosen = self.chosen
        return {
            "models": self.digest,
            "frames": chosen.frames,
            "frames_per_second": chosen.frames_per_second,
            "size": chosen.size,
        }

    def model(self) -> str:
        """See Step."""
        heard = self.chosen.audio or "tags and labels"
        seen = {"blip": self.chosen.blip, "names": "stand-in: names by the namer in the box", "none": "none"}
        return f"heard: {heard}; seen: {seen[self.chosen.frames]}"

    def missing(self) -> str:
        """See Step."""
        lacking = [] if self.chosen.audio else ["no audio captions; tags and labels are taken"]
        if self.chosen.frames != "blip":
            names = self.chosen.frames == "names"
            lacking.append("no BLIP; names of what frames show are taken" if names else "no captions of frames")
        return "; ".join(lacking)

    def open(self) -> None:
        """See Step."""
        if self.chosen.audio:
            self.audio = dict(read_captions(Path(self.chosen.audio)))
        if self.chosen.frames != "none":
            self.captioner = Blip(self.chosen) if self.chosen.frames == "blip" else NameCaptioner(self.chosen)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        return [
            {"audio_caption": self.audio.get(row["id"]) or labels_of(row), "frame_captions": self._seen(row)}
            for row in rows
        ]

    def _seen(self, row: Row) -> list[str]:
        if self.captioner is None:
            return []
        import torch

        decoded = clip_frames(row, self.chosen.frames_per_second, self.chosen.size)
        captions = self.captioner.caption(torch.from_numpy(np.stack(decoded)).float() / 255)
        kept: list[str] = []
        for caption in (printable(" ".join(caption.split()), LONGEST) for caption in captions):
            if caption and (not kept or kept[-1] != caption):
                kept.append(caption)
        return kept


def labels_of(row: Row) -> str:
    """What is heard by the tags, else by the list."""
    return printable(", ".join(row.get("tags") or row["labels"]) or row["label_caption"], LONGEST)


def joined(captions: Sequence[str]) -> str:
    """Captions in time, as the prompt of figure 9 has them: connected by "and then"."""
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
                    yield row["id"], printable(" ".join(row["caption"].split()), LONGEST)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read ({printable(error, 200)}); give a CSV of captions.") from None


class NameCaptioner:
    """The stand-in: "a dog", by the namer in the box."""

    def __init__(self, settings: CaptionSettings):
        from sounding.naming.load import load_namer

        self.device = device_for(settings.device)
        self.namer = load_namer(device=self.device)

    def caption(self, frames: Tensor) -> list[str]:
        """See FrameCaptioner."""
        from sounding.naming.sentences import with_article

        named = [self.namer.name(frame[None].to(self.device), top=1)[0] for frame in frames]
        return [with_article(one.name) if one.known else "" for one in named]


class Blip:
    """BLIP through transformers, from a folder."""

    def __init__(self, settings: CaptionSettings):
        from ...evaluate.models.loading import read_pretrained

        self.device = device_for(settings.device)
        model, self.processor = read_pretrained(
            Path(settings.blip),
            "BlipForConditionalGeneration",
            "BlipProcessor",
            "a BLIP model",
            "one that `save_pretrained` wrote, with safetensors",
            use_safetensors=True,
        )
        self.model = model.to(self.device)

    def caption(self, frames: Tensor) -> list[str]:
        """See FrameCaptioner; the likeliest words, so that the same frame has the same caption."""
        import torch

        images = list((frames.permute(0, 3, 1, 2) * 255).to(torch.uint8))
        with torch.inference_mode():
            pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.device)
            tokens = self.model.generate(pixel_values=pixels, max_new_tokens=30, do_sample=False)
        return [str(text) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]
