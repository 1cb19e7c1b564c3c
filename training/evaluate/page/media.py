"""Files of the page: sounds as they were measured, their spectrograms, and images with the selected object outlined.

Their names are numbers, so that names of items never become addresses.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import resample
from sounding.config import AudioConfig
from sounding.images.drawing import mel_image
from sounding.utils.files import write_atomic
from sounding.utils.messages import printable

from ..images import ItemImages

FOLDER = "media"
OURS = re.compile(r"\d{4,}-\w+\.(flac|jpg)")
MOST_RATE = 48_000  # Hz
IMAGE, HEIGHT, MOST_WIDTH = 256, 96, 480  # pixels
FLOOR, CEILING = -9.0, 1.5  # of the spectrograms, natural log of the mel magnitude
OUTLINE = ((0, 0, 0), (255, 221, 51))  # outside and inside of the edge, so that one is seen on any image


@dataclass(frozen=True)
class Sound:
    """Files of a sound relative to the page, and its length in seconds; or why it cannot be shown."""

    audio: str = ""
    spectrogram: str = ""
    seconds: float = 0.0
    problem: str = ""


class Media:
    """Writes the page's files into the folder of the report, each once."""

    def __init__(self, report: Path, seconds: float, rate: int, images: ItemImages | None):
        """Sounds are cut to `seconds` and brought to `rate`, as the model was given them."""
        self.report, self.seconds, self.images = report, seconds, images
        self.rate = min(rate, MOST_RATE)
        self.to_mel = MelSpectrogram(AudioConfig())
        self.sounds: dict[Path, Sound] = {}
        self.pictures: dict[str, str] = {}
        self.written: set[str] = set()

    def sound(self, path: Path | None) -> Sound:
        """A sound's files."""
        if path is None:
            return Sound(problem="There is no sound.")
        if path not in self.sounds:
            try:
                self.sounds[path] = self._sound(path)
            except (OSError, ValueError) as error:
                self.sounds[path] = Sound(problem=printable(error, 200))
        return self.sounds[path]

    def _sound(self, path: Path) -> Sound:
        waveform = read_audio(path, self.rate)[: round(self.seconds * self.rate)]
        if not len(waveform):
            raise ValueError("It has no samples.")
        audio, drawing = self._name("sound.flac"), self._name("mel.jpg")
        write_audio(self.report / audio, waveform, self.rate)
        self._draw(drawing, resample(waveform, self.rate, AudioConfig().sample_rate))
        return Sound(audio, drawing, len(waveform) / self.rate)

    def _draw(self, name: str, waveform: Tensor) -> None:
        least = AudioConfig().fft_size  # reflected at both ends, which shorter ones do not allow
        if len(waveform) < least:
            waveform = torch.nn.functional.pad(waveform, (0, least - len(waveform)))
        mel = self.to_mel(waveform[None])
        image = _as_image(mel_image(mel, height=HEIGHT, floor=FLOOR, ceiling=CEILING)[0])
        self._save(name, image.resize((min(image.width, MOST_WIDTH), HEIGHT), Image.Resampling.LANCZOS))

    def picture(self, name: str) -> str:
        """An item's image with its mask outlined; "" where one of them cannot be shown."""
        if self.images is None:
            return ""
        if name not in self.pictures:
            try:
                image, mask = self.images.read(name)
                self.pictures[name] = self._name("image.jpg")
                self._save(self.pictures[name], outlined(image, mask))
            except (OSError, ValueError):
                self.pictures[name] = ""
        return self.pictures[name]

    def _name(self, ending: str) -> str:
        name = f"{FOLDER}/{len(self.written):04}-{ending}"
        self.written.add(name)
        return name

    def _save(self, name: str, image: Image.Image) -> None:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        write_atomic(self.report / name, buffer.getvalue())

    def remove_others(self) -> None:
        """Remove what an earlier page had."""
        for path in (self.report / FOLDER).glob("*"):
            if OURS.fullmatch(path.name) and f"{FOLDER}/{path.name}" not in self.written:
                path.unlink()


def outlined(image: Tensor, mask: Tensor | None) -> Image.Image:
    """An image [3, H, W] of at most `IMAGE` pixels a side, with the edge of the mask [h, w] drawn in two colours."""
    small = _as_image(image.movedim(0, -1))
    small.thumbnail((IMAGE, IMAGE))
    if mask is None:
        return small
    selected = _as_image(mask).resize(small.size).point(lambda value: 255 * (value > 127))
    wide, narrow = selected.filter(ImageFilter.MaxFilter(5)), selected.filter(ImageFilter.MinFilter(3))
    small.paste(OUTLINE[0], mask=Image.composite(Image.new("L", small.size), wide, selected))
    small.paste(OUTLINE[1], mask=Image.composite(Image.new("L", small.size), selected, narrow))
    return small


def _as_image(values: Tensor) -> Image.Image:
    return Image.fromarray((values.float().clamp(0, 1) * 255).round().byte().numpy())
