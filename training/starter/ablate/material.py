"""What all trainings and evaluations share, made once: objects, scenes, features, items and their masks on the grid."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.images.decoding import open_image, open_mask
from sounding.model import SoundingModel
from sounding.utils.files import replacing

from ...data.object_set import MANIFEST, content_digest, read_manifest
from .masks import altered, as_mask, clicked, open_segmenters, overlap
from .rows import MASKS

log = logging.getLogger("training")
Labels = dict[str, tuple[list[str], list[str]]]  # per item, the selected object's classes and those of the others
KEPT = "material"  # key of the file's header


@dataclass(frozen=True)
class Material:
    """Items as every model of the ablations sees them.

    Attributes:
        names: of the items.
        patches: [N, P, L].
        queries: [N, L] of the selected objects' captions.
        coverages: kind of mask -> [N, P].
        overlaps: kind of mask -> mean overlap (IoU) with the perfect one.
        missing: kinds of masks that could not be made, and why.
    """

    names: tuple[str, ...]
    patches: Tensor
    queries: Tensor
    coverages: dict[str, Tensor]
    overlaps: dict[str, float]
    missing: dict[str, str]


def choose_objects(data: Path, out: Path, count: int) -> Path:
    """Copy `count` objects, evenly spaced in the list of `data`, to a folder of their own.

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`; or there are fewer.
    """
    entries = read_manifest(data)
    if count > len(entries):
        raise ValueError(f"{data} has {len(entries)} objects, but the plan asks for {count}; set objects lower.")
    chosen = [entries[number * len(entries) // count] for number in range(count)]
    for file in (file for entry in chosen for file in (entry.image, entry.mask, entry.audio) if file):
        if not (out / file).is_file():
            with replacing(out / file) as temporary:
                shutil.copyfile(data / file, temporary)
    names = {entry.name for entry in chosen}
    rows = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
    with replacing(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps([row for row in rows if row["name"] in names], indent=1), encoding="utf-8")
    return out


def read_item_labels(items: Path) -> Labels:
    """The column `name` of an items folder's labels.csv -> its columns `labels` and `others`."""
    with (items / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: tuple([x for x in row[part].split(";") if x] for part in ("labels", "others"))  # type: ignore[misc]
        for row in rows
    }


def open_material(
    items: Path, objects: Path, model: SoundingModel, file: Path, kinds: Collection[str] = MASKS
) -> Material:
    """The items as `model` sees them, kept in `file`.

    Args:
        items: a folder of items.
        objects: the objects of its scenes, for their captions.
        model: its encoders see and read; it is that of no training, since all have the same encoders.
        file: a .safetensors file.
        kinds: of masks that are needed.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    made_of = {"items": (items / "items.json").read_text(encoding="utf-8"), "objects": content_digest(objects)}
    if file.is_file():
        with safe_open(file, framework="pt") as opened:
            kept = json.loads(opened.metadata()[KEPT])
        if kept["made_of"] == made_of and {*kinds} <= kept["overlaps"].keys():
            tensors = load_file(file)
            coverages = {kind: tensors[f"coverage.{kind}"] for kind in kept["overlaps"]}
            return Material(
                tuple(kept["names"]), tensors["patches"], tensors["queries"], coverages, kept["overlaps"], {}
            )
    made = _made(items, objects, model, [kind for kind in MASKS if kind in kinds])
    tensors = {"patches": made.patches, "queries": made.queries}
    tensors |= {f"coverage.{kind}": value for kind, value in made.coverages.items()}
    kept = {"made_of": made_of, "names": made.names, "overlaps": made.overlaps, "missing": made.missing}
    with replacing(file) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, {KEPT: json.dumps(kept)})
    return made


@torch.inference_mode()
def _made(items: Path, objects: Path, model: SoundingModel, wanted: Sequence[str]) -> Material:
    captions = {entry.name: entry.caption for entry in read_manifest(objects)}
    labels = {name: given for name, (given, _) in read_item_labels(items).items() if given}
    segmenters, missing = open_segmenters(wanted)
    kinds = [kind for kind in wanted if kind not in missing]
    patches: list[Tensor] = []
    coverages: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    overlaps: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number, name in enumerate(labels):
        pixels = open_image(items / "images" / f"{name}.png").convert("RGB")
        image = torch.from_numpy(np.asarray(pixels) / np.float32(255))[None]
        truth = np.asarray(open_mask(items / "masks" / f"{name}.png"), np.float32) / 255
        patches.append(model.see(image)[0])
        for kind in kinds:
            rng = np.random.default_rng([96, number])
            is_clicked = kind in segmenters
            mask = clicked(segmenters[kind], image, truth) if is_clicked else altered(truth, kind, rng)
            overlaps[kind].append(overlap(mask, truth))
            if mask.max() < 0.5:  # a segmenter that found nothing: nothing is selected
                mask = np.ones_like(mask)
            size = (image.shape[1], image.shape[2])
            coverages[kind].append(mask_to_grid(as_mask(mask), size, model.config.patches)[0])
        if number % 20 == 19:
            log.info("%d of %d items are seen", number + 1, len(labels))
    if isinstance(model.query, ClapAudioQuery):
        raise ValueError("The common start is queried by sounds, but captions are needed; take encoders of sentences.")
    queries = model.query.encode([captions[given[0]] for given in labels.values()])
    return Material(
        tuple(labels),
        torch.stack(patches).float().cpu(),
        queries.float().cpu(),
        {kind: torch.stack(rows).float().cpu() for kind, rows in coverages.items()},
        {kind: float(np.mean(values)) for kind, values in overlaps.items()},
        missing,
    )
