"""What `sounding demo` shows, and README's first screen: one image, two masks, two sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio.files import write_audio
from ..diffusion import OnStep
from ..images.drawing import label_font, mel_image, overlay
from ..images.files import read_image, read_mask, write_image
from ..model import SoundingModel

SCENE = "yard"  # SCENE.png and SCENE_mask_OBJECT.png in the folder of the example images
OBJECTS = ("dog", "rooster")
SECONDS = 5.0
LEFT, TITLE = 400, 26  # pixels: the image's height beside the rows, a title's


def demo_images() -> Path:
    """Folder with the demo's image and masks, in a checkout or in an installed package.

    Raises:
        FileNotFoundError: they are in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parent / "example_workflows" / "input", package / "demo_images"):
        if (folder / f"{SCENE}.png").is_file():
            return folder
    raise FileNotFoundError(f"The demo's images are missing from {package.parent}; reinstall the pack.")


def write_demo(model: SoundingModel, out: Path, *, seed: int = 0, on_step: OnStep | None = None) -> Path:
    """Write image, masks, attention maps, mel images and sounds to `out`; returns the overview's path.

    The sound follows the mask; the attention map shows where attention lies for the object's name instead.
    """
    folder = demo_images()
    image = read_image(folder / f"{SCENE}.png")  # [1, H, W, 3]
    masks = torch.cat([read_mask(folder / f"{SCENE}_mask_{name}.png") for name in OBJECTS])  # [2, H, W]
    sound = model.generate(image=image, mask=masks, seconds=SECONDS, seed=seed, on_step=on_step)
    by_name = model.ground(model.see(image), text=[f"a {name}" for name in OBJECTS])

    covered = overlay(image, masks)
    attention = overlay(image, by_name.attention_map((image.shape[1], image.shape[2])))
    spectrograms = mel_image(sound.mel)
    write_image(out / "picture.png", image[0])
    for i, name in enumerate(OBJECTS):
        write_image(out / f"{name}_mask.png", covered[i])
        write_image(out / f"{name}_attention.png", attention[i])
        write_image(out / f"{name}_mel.png", spectrograms[i])
        write_audio(out / f"{name}.wav", sound.waveform[i], sound.sample_rate)
    rows = []
    for i, name in enumerate(OBJECTS):
        titles = (f"the {name}'s mask", f'where "a {name}" is found', f"the sound of the {name}'s mask")
        shown = (covered[i], attention[i], spectrograms[i])
        rows.append(frame_row([titled(one, text) for one, text in zip(shown, titles, strict=True)]))
    right = torch.cat(rows)
    left = frame_row([titled(image[0], "one image", LEFT)], LEFT)
    above = right.shape[0] - left.shape[0]
    left = torch.nn.functional.pad(left, (0, 0, 0, 0, above // 2, above - above // 2), value=1.0)
    write_image(out / "overview.jpg", torch.cat([left, right], dim=1))
    return out / "overview.jpg"


def titled(image: Tensor, text: str, height: int = 256) -> Tensor:
    """[H, W, 3] with a line of text above, both as high as they are shown in a row of `height`."""
    from PIL import Image, ImageDraw

    pixels = height - TITLE
    scaled = scale_to(image, pixels)
    line = Image.new("L", (scaled.shape[1], TITLE), 255)
    ImageDraw.Draw(line).text((1, 3), text, fill=40, font=label_font(17))
    above = torch.from_numpy(np.array(line, np.float32) / 255)[..., None].expand(-1, -1, 3)
    return torch.cat([above, scaled])


def scale_to(image: Tensor, height: int) -> Tensor:
    """[H, W, 3] at another height."""
    width = round(image.shape[1] * height / image.shape[0])
    size = (height, width)
    channels = image.movedim(-1, 0)[None].cpu().float()
    return torch.nn.functional.interpolate(channels, size, mode="bilinear", antialias=True)[0].movedim(0, -1)


def frame_row(images: list[Tensor], height: int = 256, gap: int = 8) -> Tensor:
    """Images [H, W, 3] beside each other at one height, framed in white."""
    framed = [
        torch.nn.functional.pad(scale_to(image, height), (0, 0, gap, gap, gap, gap), value=1.0) for image in images
    ]
    return torch.cat(framed, dim=1)
