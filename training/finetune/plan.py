"""What `python -m training finetune` checks before it begins: its settings, all files, and the plan of its run."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from sounding.audio.mel import normalize
from sounding.checkpoint import read_header, resolve
from sounding.model import load
from sounding.utils.fields import Checked, Range
from sounding.utils.files import write_atomic

from ..data.object_set import ObjectSet
from ..data.shard_format import INDEX
from ..data.single_objects import read_single_objects
from ..data.source import hash_json
from ..data.waveforms import trim
from ..dry_run import estimate_step
from ..engine.settings import LoopConfig, Weight
from ..engine.states import check_writable
from ..recipe import RECIPES, read_recipe, to_yaml
from ..recipe_migrations import migrated_finetuning
from ..tasks.grounded_finetuning import GroundedFinetuningSettings
from .distillation import DistillationObjective
from .objects import Picture, TaughtObject, read_objects
from .rehearsal import as_objects, starter_objects, unpack
from .scenes import ObjectSceneSource

log = logging.getLogger("training")
STARTER, NONE = "starter", "none"
PLAN = "plan.json"
MOST_KNOWN = 200  # objects read from one folder of shards
Objects = list[TaughtObject]


@dataclass(frozen=True)
class FinetuneRecipe(Checked):
    """Settings of `finetune`.

    Attributes:
        text_encoder: the loop that teaches the text encoder the new captions; 0 steps leave it as it is.
        grounding: the loop that gives new objects conditions of their own, likewise.
        unet: the loop that teaches the U-Net the new sounds, likewise.
        scenes: number of samples that are composed of the objects.
        distillation_weight: of the loss on rehearsal items, relative to that on new objects' items.
        rank: of the U-Net's low-rank updates; 0 trains all its weights.
        diffusion: settings of the U-Net's loss.
        known_evaluated: number of rehearsal objects that are generated for the report.
    """

    text_encoder: LoopConfig
    grounding: LoopConfig
    unet: LoopConfig
    scenes: Annotated[int, Range(1, 1_000_000)] = 1200
    distillation_weight: Weight = 3.0
    rank: Annotated[int, Range(0, 4096)] = 16
    diffusion: GroundedFinetuningSettings = field(default_factory=GroundedFinetuningSettings)
    known_evaluated: Annotated[int, Range(0, 10_000)] = 16

    migrated = staticmethod(migrated_finetuning)

    def to_yaml(self) -> str:
        """With every default written out; reads back as the same."""
        return to_yaml(dataclasses.asdict(self))


def prepare(
    data: Path,
    base: str,
    out: Path,
    folder: Path,
    rehearse: Sequence[str] | None,
    licence: str,
) -> tuple[Objects, Objects, list[str]]:
    """Read all that `finetune` needs before it begins: new objects, known ones (unpacked into `folder` where they come
    with the starter), and a sentence for each file that cannot be used.

    Raises:
        ValueError, OSError: see `finetune`.
    """
    if out.suffix != ".safetensors" or out.exists():
        wrong = "is there already" if out.exists() else "does not end in .safetensors"
        raise ValueError(f"{out} {wrong}, but a new checkpoint is to be written; give another --out.")
    read_header(resolve(base))
    new, problems = read_objects(data, licence)
    for problem in problems:
        log.warning("%s", problem)
    if not new:
        why = f" ({problems[0]})" if problems else ""
        raise ValueError(
            f"{data} has no object with an image and a recording{why}; add files such as dog.jpg and dog.wav."
        )
    if rehearse is None and base != STARTER:
        raise ValueError(
            f"Nothing tells what {base} is to keep; give --rehearse starter if it was made from the starter, "
            "--rehearse with the folder that it was fine-tuned on earlier (both may be given), or --rehearse none to "
            "let it forget."
        )
    return new, unlike(known_objects(rehearse or [STARTER], folder), new), problems


def unlike(known: Sequence[TaughtObject], new: Objects) -> list[TaughtObject]:
    """The known objects that no new one is called as: what is taught by a known name takes its place."""
    names = {thing.captions[0].lower() for thing in new}
    kept = [thing for thing in known if thing.captions[0].lower() not in names]
    if len(kept) < len(known):
        log.info("%d known objects make room for new ones of their names", len(known) - len(kept))
    return kept


def known_objects(rehearse: Sequence[str], folder: Path) -> list[TaughtObject]:
    """Objects to be kept, of all that `rehearse` names.

    Raises:
        ValueError: a folder that is neither stamps, raw shards nor a person's own, or without an object.
    """
    known: list[TaughtObject] = []
    for name in rehearse:
        if name == NONE:
            continue
        place = Path(name)
        if name == STARTER:
            place = folder / "known"
            if not (place / "manifest.json").is_file():
                unpack(starter_objects(), place)
        if (place / "manifest.json").is_file():
            known += as_objects(ObjectSet(place))
            continue
        if (place / INDEX).is_file():
            own = shard_objects(place)
        else:
            own, _ = read_objects(place)
        if not own:
            raise ValueError(
                f"{place} has no objects, but a folder of what the model knows is expected; check --rehearse."
            )
        known += own
    return known


def shard_objects(folder: Path) -> list[TaughtObject]:
    """At most `MOST_KNOWN` objects out of raw shards, from samples in which a single object sounds.

    Raises:
        ValueError: features instead of raw shards, or a damaged sample.
    """
    return [
        TaughtObject(
            one.id,
            one.captions,
            (Picture(one.image, cut=False, masked=one.masked),),
            (trim(normalize(one.waveform)),),
            one.licence,
        )
        for one in read_single_objects(folder, MOST_KNOWN)
    ]


def same_plan(
    folder: Path,
    base: str,
    recipe: FinetuneRecipe,
    new: Sequence[TaughtObject],
    known: Sequence[TaughtObject],
    *,
    keep: bool = True,
) -> dict[str, Any]:
    """Check that a resumed run has the base, settings and objects that it was begun with; returns their fingerprints.

    Args:
        keep: whether a run that begins writes them into `folder`.

    Raises:
        ValueError: it has others.
    """
    described = ObjectSceneSource(new, known, count=1, seconds=1.0, size=32).settings()
    plan: dict[str, Any] = {
        "from": read_header(resolve(base)).metadata.get("modelspec.hash_sha256", base),
        "settings": hash_json([dataclasses.asdict(recipe)]),
        "objects": [described["new"], described["known"], described["inputs"]],
    }
    file = folder / PLAN
    if not file.is_file():
        if keep:
            write_atomic(file, json.dumps(plan).encode())
        return plan
    old = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key, value in plan.items() if old.get(key) != value]
    if changed:
        raise ValueError(
            f"{folder} was begun with other {' and '.join(changed)}; remove that folder to begin anew, or give another "
            "--out."
        )
    return plan


def dry_run(
    data: Path,
    base: str,
    out: Path,
    *,
    rehearse: Sequence[str] | None = None,
    licence: str = "",
    recipe: FinetuneRecipe | None = None,
) -> str:
    """What `finetune` would do, and what it would take in time and memory, after all checks; nothing is written.

    Raises:
        ValueError, OSError: see `finetune`.
    """
    recipe = recipe or read_recipe(RECIPES / "finetune.yaml", FinetuneRecipe)
    with tempfile.TemporaryDirectory() as aside:
        check_writable(out.with_name(f"{out.stem}-run"))
        new, known, problems = prepare(data, base, out, Path(aside), rehearse, licence)
    same_plan(out.with_name(f"{out.stem}-run"), base, recipe, new, known, keep=False)
    lines = [f"{len(new)} new objects: {', '.join(one.name for one in new)}; {len(known)} known ones are kept"]
    lines += [f"Left out: {problem}" for problem in problems]
    return "\n".join([*lines, estimated(base, recipe)])


def estimated(base: str, recipe: FinetuneRecipe) -> str:
    """What the longest stage, the U-Net's training, would take."""
    model = load(base, device="cpu", dtype=torch.float32).requires_grad_(False)
    before = copy.deepcopy((model.grounding, model.unet))
    objective = DistillationObjective(model, recipe.diffusion, before, recipe.distillation_weight, recipe.rank)
    found = estimate_step(objective, recipe.unet, steps=max(1, recipe.unet.steps))
    return (
        f"{found}\nThis is of the U-Net; {recipe.scenes} samples, {recipe.text_encoder.steps} steps of the text "
        f"encoder and {recipe.grounding.steps} of grounding come before."
    )
