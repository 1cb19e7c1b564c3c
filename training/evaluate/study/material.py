"""What raters see and hear, made before the first of them comes: outlined images, and noise-only controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sounding.utils.messages import printable

from .samples import CONTROL, MOST_SECONDS, Item

WIDEST = 1024  # pixels of an image's longer side
LINE = 3  # pixels of each of the outline's two lines


def outlined(image: Path, mask: Path | None) -> np.ndarray:
    """An image with the border of its mask in yellow on black, which shows on any ground.

    Returns:
        [H, W, 3] uint8, at most `WIDEST` on the longer side.

    Raises:
        ValueError: a file that cannot be read, or a mask that selects nothing or has another shape than its image.
    """
    from PIL import Image, ImageFilter

    from sounding.images.decoding import read_pixels, read_selection

    picture = Image.fromarray((read_pixels(image) * 255).round().astype(np.uint8))
    scale = min(1.0, WIDEST / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    pixels = np.array(picture.resize(size, Image.Resampling.LANCZOS))
    if mask is None:
        return pixels
    whole = Image.fromarray((read_selection(mask) * 255).round().astype(np.uint8))
    if abs(whole.width * picture.height - whole.height * picture.width) > 0.01 * whole.width * picture.height:
        raise ValueError(
            f"{printable(mask)} is {whole.width} x {whole.height} pixels, but a mask in the shape of its image, "
            f"{picture.width} x {picture.height}, is expected."
        )
    selected = np.array(whole.resize(size, Image.Resampling.BILINEAR)) >= 128
    if not selected.any():
        raise ValueError(f"{printable(mask)} selects nothing; make what it selects white.")
    padded = Image.fromarray(np.pad(selected, LINE).astype(np.uint8))  # the image's edge is a border, too
    inside = slice(LINE, -LINE), slice(LINE, -LINE)
    outer = np.array(padded.filter(ImageFilter.MaxFilter(2 * LINE + 1)))[inside] > 0
    inner = np.array(padded.filter(ImageFilter.MinFilter(2 * LINE + 1)))[inside] > 0
    pixels[outer & ~selected] = (0, 0, 0)
    pixels[selected & ~inner] = (255, 221, 0)
    return pixels


def noise_like(sound: Path, seed: int) -> tuple[np.ndarray, int]:
    """White noise as long and, in its root mean square, as strong as a sound (a silent one gives -30 dB).

    Returns:
        [samples] float32 within -1..1, and the rate in Hz.
    """
    import soundfile

    samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    strength = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) or 0.03
    noise = np.random.default_rng(seed).standard_normal(len(samples)) * min(strength, 0.2)
    return noise.clip(-1, 1).astype(np.float32), rate


def check_sound(path: Path) -> None:
    """Raises: ValueError: it cannot be read, is empty or is longer than `MOST_SECONDS`."""
    import soundfile

    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"{printable(path)} cannot be read as audio ({printable(error, 120)}).") from None
    if not 0 < info.duration <= MOST_SECONDS:
        raise ValueError(f"{printable(path)} is {info.duration:.0f} s long, but 0 to {MOST_SECONDS:.0f} s is expected.")


@dataclass(frozen=True)
class Material:
    """The files that are sent: images by item, sounds by item and system (`CONTROL` is one)."""

    images: dict[str, Path]
    sounds: dict[tuple[str, str], Path]


def prepare(items: list[Item], controls: list[str], folder: Path, seed: int) -> Material:
    """Check every file, and write images and controls into a folder.

    Args:
        items: what is rated.
        controls: names of the items that also get a noise-only control.
        folder: an empty one.
        seed: of the noise.

    Raises:
        ValueError: a file that cannot be read, or is too large or too long.
    """
    import soundfile
    from PIL import Image

    material = Material({}, {})
    for number, item in enumerate(items):
        for system, sound in item.sounds.items():
            check_sound(sound)
            material.sounds[item.name, system] = sound
        material.images[item.name] = folder / f"{number}.jpg"
        Image.fromarray(outlined(item.image, item.mask)).save(folder / f"{number}.jpg", "JPEG", quality=88)
        if item.name in controls:
            noise, rate = noise_like(next(iter(item.sounds.values())), seed + number)
            material.sounds[item.name, CONTROL] = folder / f"{number}.wav"
            soundfile.write(folder / f"{number}.wav", noise, rate, subtype="PCM_16")
    return material
