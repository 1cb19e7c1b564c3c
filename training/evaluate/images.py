"""Images of the items, and masks of their selected objects, to embeddings; matched with the sounds by stem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sounding.images.files import read_image, read_mask
from sounding.utils.messages import printable

from .audiovisual import AudioVisualModel
from .folders import BATCH, OnStep, find_files, stamp
from .store import Finding, Store

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST_VALUES = 1 << 26  # of the images that are embedded together
Read = tuple[int, Tensor, Tensor | None]  # an item's row, image and mask


@dataclass(frozen=True)
class ItemImages:
    """Image files by stem, and mask files by stem; `masks` is None where no folder of masks was given."""

    images: dict[str, Path]
    masks: dict[str, Path] | None = None

    @classmethod
    def find(cls, images: Path, masks: Path | None, names: Iterable[str]) -> ItemImages:
        """Of two folders; `names` are the stems of the sounds.

        Raises:
            ValueError: a folder is missing or has no image, or no image belongs to any sound.
        """
        found = cls(
            find_files(images, SUFFIXES, "images"), find_files(masks, SUFFIXES, "masks") if masks is not None else None
        )
        known = set(names)
        for folder, files in ((images, found.images), (masks, found.masks)):
            if files is not None and not known & files.keys():
                raise ValueError(
                    f"{folder} has no file with the name of any sound, such as {sorted(known)[0]}.png; images, masks "
                    "and sounds of one item have the same name before the ending."
                )
        return found

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        """An item's image [3, H, W] and mask [h, w], both 0..1; the mask is None where there are no masks at all.

        Raises:
            ValueError: one of them is missing, cannot be read, or selects nothing.
        """
        if name not in self.images:
            raise ValueError("It has no image.")
        if self.masks is not None and name not in self.masks:
            raise ValueError("It has an image, but no mask.")
        image = read_image(self.images[name])[0].movedim(-1, 0)
        if self.masks is None:
            return image, None
        mask = read_mask(self.masks[name])[0]
        if not (mask > 0).any():
            raise ValueError(f"{printable(self.masks[name])} selects nothing; make its object white.")
        return image, mask


@dataclass
class ImageSide:
    """Embeddings of images, and why some items have none (name -> sentence)."""

    store: Store
    without: dict[str, str] = field(default_factory=dict)

    def usable(self) -> set[str]:
        """Names of the items whose image has an embedding."""
        return set(self.store.found(Finding.done))


def embed_images(
    files: ItemImages, names: Iterable[str], model: AudioVisualModel, out: Path, on_step: OnStep | None = None
) -> ImageSide:
    """Embeddings of the items' images. Those of an earlier run are kept, unless files or model changed.

    Args:
        files: of images and masks.
        names: of all items; an item without an image, or with one that cannot be read, is listed.
        model: computes the embeddings.
        out: where they are kept.
        on_step: called with the images done and their number.
    """
    names = sorted(set(names))
    described = {
        name: [[path.name, *stamp(path)] for path in (files.images.get(name), (files.masks or {}).get(name)) if path]
        for name in names
    }
    description = {"model": model.name, "files": described, "masks": files.masks is not None}
    side = ImageSide(Store.open(out, names, description, model.width, 0))
    missing = side.store.missing()
    done = len(names) - len(missing)
    for group in _groups(side, files, missing):
        _embed(side, model, group)
        done += len(group)
        if on_step:
            on_step(min(done + len(side.without), len(names)), len(names))
    return side


def _groups(side: ImageSide, files: ItemImages, rows: list[int]) -> Iterator[list[Read]]:
    """Items that can be read, a few at a time, of bounded size."""
    group: list[Read] = []
    for row in rows:
        name = side.store.names[row]
        try:
            group.append((row, *files.read(name)))
        except (OSError, ValueError) as error:
            side.without[name] = printable(error, 400)
        if len(group) == BATCH or sum(image.numel() for _, image, _ in group) > MOST_VALUES:
            yield group
            group = []
    if group:
        yield group


def _embed(side: ImageSide, model: AudioVisualModel, group: list[Read]) -> None:
    """Embed items; where the model refuses some, each by itself."""
    try:
        embeddings = model.embed_images([image for _, image, _ in group], [mask for _, _, mask in group])
        if not embeddings.isfinite().all():
            raise ValueError("The model's embedding of its image is not finite.")
    except ValueError as error:
        if len(group) > 1:
            for one in group:
                _embed(side, model, [one])
        else:
            side.without[side.store.names[group[0][0]]] = printable(error, 400)
        return
    values = embeddings.float().cpu().numpy()
    side.store.put([row for row, _, _ in group], values, values[:, :0], [Finding(0)] * len(group))
