"""A contact sheet of everything a model knows: image, real sound, generated sound, and what the judge made of it.

    python -m training starter evaluate sheet --model starter --out docs/starter.md

writes the page and its images (`starter-1.webp`, ...) beside it. Nothing is left out: objects are shown from the best
recognised to the worst.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sounding.audio.loudness import level
from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig
from sounding.images.drawing import label_font, mel_image
from sounding.model import SoundingModel
from sounding.utils.files import write_atomic

from ...data.object_set import ObjectSet
from ...data.scenes import as_tensors, scene_rng
from ...data.shard_format import SAMPLE_RATE
from .classifier import real_crops
from .judge import Ear, ranks_of
from .sounds import Chosen, Settings, asked_scene, generated, held_out_scenes

log = logging.getLogger("training")

COLUMNS, ROWS = 4, 10  # cells of one image
PICTURE, SOUND = 112, (176, 52)  # pixels
PAD, CAPTION = 8, 20
CELL = (PICTURE + SOUND[0] + 3 * PAD, 2 * SOUND[1] + PAD + CAPTION + PAD)
INK, PAPER, FAINT = (28, 28, 32), (255, 255, 255), (120, 120, 128)
BADGES = ((1, (38, 133, 76)), (5, (196, 132, 14)), (10**6, (188, 52, 48)))  # up to which rank, in which colour


@dataclass(frozen=True)
class Entry:
    """One object: the scene that was asked, both sounds [samples] at one level, ranks (from 1) of all its sounds."""

    label: int
    caption: str
    chosen: Chosen
    real: Tensor
    made: Tensor
    ranks: tuple[int, ...]
    heard: str  # what the judge takes the shown sound for

    @property
    def rank(self) -> int:
        """Of the sound that is shown: the object's first."""
        return self.ranks[0]


def make_entries(model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings) -> list[Entry]:
    """Every object, in held-out scenes that are those of `recognise`'s (c)."""
    scenes = held_out_scenes(data, settings.per_object)
    sounds = generated(model, data, scenes, settings, by="mask")
    labels = torch.tensor([chosen[0] for _, chosen in scenes])
    guesses = judge(sounds)
    ranks = (ranks_of(guesses, labels) + 1).view(len(data), -1).tolist()
    every, kinds = list(range(len(data))), [kind for kind, _ in data.visible]
    real = real_crops(data, every, sounds.shape[1], np.random.default_rng(99), strong=False)
    entries = []
    for label in every:
        first = label * settings.per_object
        entries.append(
            Entry(
                label=label,
                caption=data.entries[label].caption,
                chosen=scenes[first],
                real=level(real[label], SAMPLE_RATE),
                made=level(sounds[first], SAMPLE_RATE),
                ranks=tuple(ranks[label]),
                heard=kinds[int(guesses[first].argmax())].caption,
            )
        )
    return sorted(entries, key=lambda entry: (entry.rank, sum(entry.ranks), entry.caption))


def asked_picture(data: ObjectSet, chosen: Chosen, size: int = PICTURE) -> Image.Image:
    """The scene with all but the masked object faded."""
    image, masks = as_tensors(asked_scene(data, scene_rng("held-out", chosen[0]), chosen[1]))
    selected = masks[0][..., None]
    grey = image[0].mean(dim=-1, keepdim=True)
    faded = 0.66 + 0.27 * (0.3 * image[0] + 0.7 * grey)
    shown = image[0] * selected + faded * (1 - selected)
    picture = Image.fromarray((shown.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def sound_picture(waveform: Tensor, size: tuple[int, int] = SOUND) -> Image.Image:
    """Mel spectrogram of [samples] at 16 kHz."""
    mel = MelSpectrogram(AudioConfig())(waveform[None])
    pixels = (mel_image(mel, floor=-9.0, ceiling=1.5)[0] * 255).round().byte().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def draw_cell(data: ObjectSet, entry: Entry) -> Image.Image:
    """Caption and rank above the image and both sounds."""
    cell = Image.new("RGB", CELL, PAPER)
    pen = ImageDraw.Draw(cell)
    font = label_font(12)
    badge = f"{entry.rank}"
    colour = next(colour for up_to, colour in BADGES if entry.rank <= up_to)
    width = pen.textlength(badge, font=font) + 10
    pen.rounded_rectangle((CELL[0] - PAD - width, 3, CELL[0] - PAD, CAPTION - 1), radius=6, fill=colour)
    pen.text((CELL[0] - PAD - width / 2, (CAPTION + 2) / 2), badge, fill=PAPER, font=font, anchor="mm")
    pen.text((PAD, (CAPTION + 2) / 2), entry.caption, fill=INK, font=font, anchor="lm")
    if entry.rank > 1:
        left = PAD + pen.textlength(entry.caption, font=font) + 8
        room = CELL[0] - PAD - width - 8 - left
        pen.text((left, (CAPTION + 2) / 2), _cut(pen, f"heard: {entry.heard}", font, room), FAINT, font, anchor="lm")
    cell.paste(asked_picture(data, entry.chosen, 2 * SOUND[1] + PAD), (PAD, CAPTION + 2))
    for row, sound in enumerate((entry.real, entry.made)):
        cell.paste(sound_picture(sound), (2 * PAD + PICTURE, CAPTION + 2 + row * (SOUND[1] + PAD)))
    return cell


def draw_sheets(data: ObjectSet, entries: list[Entry]) -> list[Image.Image]:
    """Cells in columns and rows, as many images as it takes."""
    sheets = []
    for first in range(0, len(entries), COLUMNS * ROWS):
        part = entries[first : first + COLUMNS * ROWS]
        rows = -(-len(part) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * CELL[0] + PAD, rows * CELL[1] + PAD), PAPER)
        for number, entry in enumerate(part):
            sheet.paste(draw_cell(data, entry), (number % COLUMNS * CELL[0] + PAD // 2, number // COLUMNS * CELL[1]))
        sheets.append(sheet)
    return sheets


def page(entries: list[Entry], kinds: int, judge: str, pictures: list[str], command: str, seconds: float) -> str:
    """The page's text; ranks are among so many kinds, by a judge that is so described."""
    total = len(entries)
    first = sum(entry.rank == 1 for entry in entries)
    five = sum(entry.rank <= 5 for entry in entries)
    every = [rank for entry in entries for rank in entry.ranks]
    lines = [
        "# What the starter knows",
        "",
        f"All {total} objects, from the best recognised to the worst. Each cell: a held-out scene, all but the masked",
        "object faded; the real recording (above) and the sound generated from the mask (below) as mel spectrograms of",
        f"{seconds:g} s; and the right one's rank among {kinds} kinds by {judge}:",
        "green is its first guess, amber one of its first five, red neither, with what it heard instead.",
        "Those recordings are the ones that the generator learned, so this tells whether the right one is played.",
        f"Here {first} of {total} are its first guess, {five} among its first five; guessing would make it "
        f"{total / kinds:.2g} and {5 * total / kinds:.2g}.",
        "",
        *(f"![Objects, real and generated sounds, sheet {i}]({name})" for i, name in enumerate(pictures, 1)),
        "",
        f"`{command}` makes this page from a checkpoint. Scenes, seeds and sounds are those of",
        "`python -m training starter evaluate recognise`, part (c); the sounds are leveled.",
        "",
        "## Ranks",
        "",
        f"Each object in {len(entries[0].ranks)} held-out scenes, the first of them shown above. Of all {len(every)} "
        f"sounds {np.mean(np.array(every) == 1):.2f} are ranked first",
        f"and {np.mean(np.array(every) <= 5):.2f} among the first five.",
        "",
        "| object | ranks | the shown sound is heard as |",
        "| --- | --- | --- |",
        *(
            f"| {entry.caption} | {', '.join(map(str, entry.ranks))} | {entry.heard if entry.rank > 1 else 'itself'} |"
            for entry in sorted(entries, key=lambda entry: entry.caption)
        ),
        "",
        "## Licence",
        "",
        "Images and recordings come from Debian's `tuxpaint-stamps-default` (Copyright 2002-2022 Bill Kendrick and",
        "contributors), GNU General Public License, version 2 or later; so are these sheets, see the",
        "[model card](../models/MODEL_CARD.md).",
        "",
    ]
    return "\n".join(lines)


def write_sheet(
    model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings, out: Path, *, command: str = ""
) -> list[Path]:
    """Write the page `out` and its images beside it; returns all paths, the page first."""
    entries = make_entries(model, data, judge, settings)
    written = []
    for number, sheet in enumerate(draw_sheets(data, entries), 1):
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=65, method=6)
        written.append(out.with_name(f"{out.stem}-{number}.webp"))
        write_atomic(written[-1], buffer.getvalue())
    names = [path.name for path in written]
    text = page(entries, len(data.visible), judge.described, names, command, settings.seconds)
    write_atomic(out, text.encode())
    return [out, *written]


def _cut(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """As much of `text` as fits into `room` pixels."""
    if pen.textlength(text, font=font) <= room:
        return text
    while text and pen.textlength(text + "...", font=font) > room:
        text = text[:-1]
    return text.rstrip() + "..." if len(text) > 8 else ""
