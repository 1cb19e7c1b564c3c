"""What `sounding demo` shows: one picture, two masks, two sounds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .audio import write_audio
from .diffusion import OnStep
from .model import SoundingModel
from .pictures import mel_picture, overlay, read_image, read_mask, write_image

OBJECTS = ("dog", "cow")
SECONDS = 5.0


def demo_pictures() -> Path:
    """Folder with the demo's picture and masks, in a checkout or in an installed package.

    Raises:
        FileNotFoundError: they are in neither.
    """
    package = Path(__file__).parent
    for folder in (package.parent / "example_workflows" / "input", package / "demo_pictures"):
        if (folder / "farm.png").is_file():
            return folder
    raise FileNotFoundError(f"The demo's pictures are missing from {package.parent}; reinstall the pack.")


def write_demo(model: SoundingModel, out: Path, *, seed: int = 0, on_step: OnStep | None = None) -> Path:
    """Write picture, masks, attention maps, mel pictures and sounds to `out`; returns the overview's path.

    The sound follows the mask; the attention map shows where the object's name alone would have looked.
    """
    folder = demo_pictures()
    picture = read_image(folder / "farm.png")  # [1, H, W, 3]
    size = (picture.shape[1], picture.shape[2])
    patches = model.see(picture)
    masks = torch.cat([read_mask(folder / f"farm_mask_{name}.png") for name in OBJECTS])  # [2, H, W]
    condition = model.ground(patches, mask=masks, image_size=size)
    asked = model.ground(patches, text=[f"a {name}" for name in OBJECTS])
    noise = model.noise(SECONDS, [seed + i for i in range(len(OBJECTS))])
    mel = model.decode(model.sample(condition, noise, on_step=on_step))
    sounds = model.vocode(mel, SECONDS)

    covered = overlay(picture, masks)
    attention = overlay(picture, asked.attention_map(size))
    spectrograms = mel_picture(mel[:, : model.config.mel_frames(SECONDS)])
    write_image(out / "picture.png", picture[0])
    for i, name in enumerate(OBJECTS):
        write_image(out / f"{name}_mask.png", covered[i])
        write_image(out / f"{name}_attention.png", attention[i])
        write_image(out / f"{name}_mel.png", spectrograms[i])
        write_audio(out / f"{name}.wav", sounds[i], model.config.audio.sample_rate)
    rows = [frame_row([picture[0], covered[i], attention[i], spectrograms[i]]) for i in range(len(OBJECTS))]
    write_image(out / "overview.jpg", torch.cat(rows))
    return out / "overview.jpg"


def frame_row(pictures: list[Tensor], height: int = 256, gap: int = 8) -> Tensor:
    """Pictures [H, W, 3] beside each other at one height, framed in white."""
    framed = []
    for picture in pictures:
        width = round(picture.shape[1] * height / picture.shape[0])
        scaled = torch.nn.functional.interpolate(
            picture.movedim(-1, 0)[None].cpu(), (height, width), mode="bilinear", antialias=True
        )[0].movedim(0, -1)
        framed.append(torch.nn.functional.pad(scaled, (0, 0, gap, gap, gap, gap), value=1.0))
    return torch.cat(framed, dim=1)
