"""Draw the composed images of example_workflows/input.

    uv run --extra train python docs/tools/example_images.py --data data/stamps

Cut-outs of the stamps (see models/MODEL_CARD.md for them and their licence) on photographs: an image painted on as in
the mask editor, a cut-out to be composed in a graph, one scene in two versions, a video of something that walks by,
and a street with four objects.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sounding.utils.files import write_atomic
from training.data.scenes import background_photographs

GRASS, GRAVEL, BRICK, LAKE = 0, 1, 2, 5  # numbers among `background_photographs`
INPUT = Path(__file__).parents[2] / "example_workflows" / "input"


def save(name: str, image: Image.Image, quality: int = 88) -> None:
    """WebP keeps photographs with transparency small; `exact` keeps the colours under it, as the mask editor does."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, exact=True, method=6)
    write_atomic(INPUT / name, buffer.getvalue())


def scene(photograph: int, size: tuple[int, int]) -> Image.Image:
    """The lower part of a photograph."""
    image = background_photographs()[photograph].convert("RGB")
    width = image.width
    height = min(image.height, round(width * size[1] / size[0]))
    return image.resize(size, Image.Resampling.LANCZOS, box=(0, image.height - height, width, image.height))


def pasted(ground: Image.Image, cutout: Image.Image, corner: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """The image, and where the cut-out is in it ("L")."""
    image, where = ground.copy(), Image.new("L", ground.size)
    image.paste(cutout, corner, cutout)
    where.paste(cutout.getchannel("A"), corner)
    return image, where


def brushed(where: Image.Image, radius: int, rng: np.random.Generator) -> Image.Image:
    """What a hand paints over an object: a few round strokes from side to side, beyond the outline ("L")."""
    inside = np.asarray(where) > 127
    strokes = Image.new("L", where.size)
    pen = ImageDraw.Draw(strokes)
    rows = np.flatnonzero(inside.any(axis=1))
    for y in range(int(rows[0]) + radius // 2, int(rows[-1]) + 1, radius):
        columns = np.flatnonzero(inside[y])
        if not len(columns):
            continue
        left, right = (int(edge + rng.integers(-radius, radius + 1) // 2) for edge in (columns[0], columns[-1]))
        path = [(x, y + int(rng.integers(-3, 4))) for x in np.linspace(left, max(right, left + 1), 6)]
        pen.line(path, fill=255, width=2 * radius, joint="curve")
        for x, at in (path[0], path[-1]):
            pen.ellipse((x - radius, at - radius, x + radius, at + radius), fill=255)
    return strokes


def striped(horse: Image.Image, zebra: Image.Image) -> Image.Image:
    """The horse in the zebra's coat: its flank, repeated and mirrored, with the horse's own light and shade."""
    flank = np.asarray(zebra.convert("RGB").crop((85, 38, 150, 78)), np.float32)
    tile = np.concatenate([flank, flank[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]], axis=0)
    height, width = horse.height, horse.width
    coat = np.tile(tile, (height // tile.shape[0] + 1, width // tile.shape[1] + 1, 1))[:height, :width]
    shade = np.asarray(horse.convert("L").filter(ImageFilter.GaussianBlur(3)), np.float32)[..., None]
    lit = coat * (0.55 + 0.45 * shade / max(float(np.percentile(shade, 90)), 1))
    image = Image.fromarray(lit.clip(0, 255).astype(np.uint8))
    image.putalpha(horse.getchannel("A"))
    return image


def walking(animal: Image.Image, size: tuple[int, int], frames: int, seen: range) -> list[Image.Image]:
    """Frames in which an animal comes in from the right, grows, and leaves to the left; transparent where it is."""
    ground = scene(GRASS, size).filter(ImageFilter.GaussianBlur(2))
    made = []
    for number in range(frames):
        share = (number - seen.start + 0.6) / (len(seen) + 0.2)
        scale = (0.4 + 0.75 * share) * size[1] / 192
        near = animal.resize([round(scale * side) for side in animal.size] if number in seen else (1, 1))
        left = round(size[0] - share * (size[0] + near.width))
        corner = (left, round(size[1] * (0.6 + 0.36 * share)) - near.height) if number in seen else size
        image, where = pasted(ground, near, corner)
        where.putpixel((number, 0), 16)  # frames that are equal would be left out
        image.putalpha(Image.eval(where, lambda value: 255 - round(value * 0.95)))  # and colours under 0 as well
        made.append(image)
    return made


def save_video(name: str, frames: list[Image.Image], frame_rate: float) -> None:
    """An animated WebP."""
    buffer = io.BytesIO()
    more = {"append_images": frames[1:], "duration": round(1000 / frame_rate), "loop": 0}
    frames[0].save(buffer, "WEBP", save_all=True, quality=45, exact=True, method=6, **more)
    write_atomic(INPUT / name, buffer.getvalue())


# Of the street, 512 x 384: left and bottom of each object where it stands, and its width, all in pixels.
STREET = {"crow": (38, 112, 118), "firetruck": (212, 246, 284), "dog": (66, 356, 138), "hen": (356, 340, 100)}
HORIZON, KERB, WALL = 172, 206, 108  # rows: where the ground would end, where it does, the wall's top


def street(stamps: dict[str, Image.Image]) -> Image.Image:
    """A fire truck, a dog, a hen and a crow on a wall, in a street by a lake."""
    photographs = background_photographs()
    image = Image.new("RGB", (512, 384))
    lake = photographs[LAKE].resize((512, KERB + 4), Image.Resampling.LANCZOS, box=(330, 190, 640, 317))
    image.paste(lake.filter(ImageFilter.GaussianBlur(0.8)), (0, 0))

    bricks = photographs[BRICK].resize((150, 150), Image.Resampling.LANCZOS).convert("L").rotate(90)
    wall = Image.new("L", (236, KERB - WALL))
    for left in range(0, wall.width, bricks.width):
        wall.paste(bricks, (left, 0))
    image.paste(Image.merge("RGB", [wall.point(lambda v, k=k: int(k * v)) for k in (0.86, 0.52, 0.42)]), (0, WALL))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, WALL - 5, wall.width + 3, WALL), fill=(150, 138, 126))  # its coping

    # A plane seen from above the ground: a row's distance is inverse to how far below the horizon it is.
    gravel = np.asarray(photographs[GRAVEL].convert("L"), np.float32)
    gravel = 118 + 0.32 * (gravel - gravel.mean())
    rows, columns = np.mgrid[KERB : image.height, 0 : image.width].astype(np.float32)
    scale = 260 / (rows - HORIZON)
    across, away = ((columns - 256) * scale).astype(int), (120 * scale).astype(int)
    road = gravel[away % gravel.shape[0], across % gravel.shape[1]]
    softened = Image.fromarray(road.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.9))
    image.paste(softened.convert("RGB"), (0, KERB))
    pen.rectangle((0, KERB - 3, image.width, KERB + 2), fill=(168, 164, 156))

    for name, (left, bottom, width) in STREET.items():
        cutout = stamps[name]
        height = round(width * cutout.height / cutout.width)
        if bottom > KERB:
            shadow = Image.new("L", image.size)
            deep = max(6, width // 16)
            ImageDraw.Draw(shadow).ellipse((left + 4, bottom - deep, left + width - 4, bottom + deep // 2), fill=130)
            image.paste((28, 28, 30), mask=shadow.filter(ImageFilter.GaussianBlur(deep / 3)))
        image, _ = pasted(image, cutout.resize((width, height), Image.Resampling.LANCZOS), (left, bottom - height))
    return image


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/stamps"), help="what training.data.entries made")
    images = parser.parse_args().data / "image"
    rng = np.random.default_rng(5)
    names = ("rooster", "elephant", "horse", "zebra", *STREET)
    stamps = {name: Image.open(images / f"{name}.png").convert("RGBA") for name in names}

    rooster = stamps["rooster"].resize((188, 224), Image.Resampling.LANCZOS)
    image, where = pasted(scene(GRAVEL, (384, 288)), rooster, (60, 44))
    image.putalpha(Image.eval(brushed(where, 13, rng), lambda value: 255 - value))
    save("rooster_painted.webp", image)

    save("elephant.webp", stamps["elephant"])

    save_video("elephant_walking.webp", walking(stamps["elephant"], (224, 168), 18, range(2, 15)), 4.0)

    grey = scene(GRASS, (384, 288)).convert("L")
    meadow = Image.merge("RGB", [grey.point(lambda value, share=share: share * value) for share in (0.8, 1.0, 0.45)])
    for name, animal in {"horse": stamps["horse"], "striped": striped(stamps["horse"], stamps["zebra"])}.items():
        large = animal.resize((320, 221), Image.Resampling.LANCZOS)
        save(f"scene_{name}.webp", pasted(meadow, large, (34, 36))[0])

    save("street.webp", street(stamps), quality=86)


if __name__ == "__main__":
    main()
