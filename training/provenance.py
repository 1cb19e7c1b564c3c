"""How a checkpoint was trained: the recipe beside the run and in the header, the code's version, the data."""

from __future__ import annotations

import difflib
import hashlib
import logging
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sounding
from sounding.checkpoint import check_header_size, read_header, resolve
from sounding.utils.files import write_atomic

from .data.shard_format import INDEX
from .data.storage import is_file, location, read_bytes
from .engine.states import States
from .recipe import Recipe, read_recipe
from .registry import TASKS

if TYPE_CHECKING:
    from .data.storage import Location

log = logging.getLogger("training")

# Keys of a checkpoint's header.
RECIPE, CODE, DATA, START = "training.recipe", "training.code", "training.data", "training.start"
MOST = 32_768  # characters of a value there
FILE = "recipe.yaml"
# Settings that are places of files; the fingerprints in a header tell the contents.
LOCATIONS = ("start", "data.shards", "data.stamps", *(f"{t.name}.{key}" for t in TASKS.values() for key in t.locations))
# Settings without influence on the result.
ASIDE = (
    "loop.keep",
    "loop.save_minutes",
    "loop.save_steps",
    "loop.log_every",
    "loop.trackers",
    "loop.gradient_checkpointing",
    "data.workers",
    "preview",
    "validation.every",
    "validation.items",
    "validation.shards",
    "out",
)


def code_version() -> str:
    """The package's version, and the commit where it lies in a git checkout ("-dirty" with changes)."""
    root = Path(sounding.__file__).parent.parent
    if not (root / ".git").exists():
        return sounding.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return sounding.__version__
    return f"{sounding.__version__} {found.stdout.strip()}"


def data_fingerprint(folders: Iterable[str | Location]) -> str:
    """SHA-256 of training sets: the index of shards; the files of folders of stamps or cut-outs."""
    total = hashlib.sha256()
    for name in folders:
        index = location(name) / INDEX
        if is_file(index):
            total.update(f"{INDEX} ".encode() + hashlib.sha256(read_bytes(index)).digest())
            continue
        folder = Path(str(name))
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            total.update(f"{file.relative_to(folder).as_posix()} ".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def weights_fingerprint(names: Iterable[str]) -> str:
    """SHA-256 over the digests that checkpoints ("starter" or paths) carry of their weights; "" of none."""
    found = [read_header(resolve(name)).metadata.get("modelspec.hash_sha256", name) for name in sorted(set(names))]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if found else ""


def read_metadata(file: Path) -> dict[str, str]:
    """What the header of a result says of itself, whatever kind of network it holds.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    check_header_size(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable .safetensors file ({error}).") from None


def header(recipe: str, data: str, start: str) -> dict[str, str]:
    """Entries of a checkpoint's header on how it was trained, bounded in size.

    Args:
        recipe: as YAML.
        data: a fingerprint of the data.
        start: a fingerprint of the initial weights.
    """
    if len(recipe) > MOST:
        recipe = f"# {len(recipe)} characters with SHA-256 {hashlib.sha256(recipe.encode()).hexdigest()}"
    return {RECIPE: recipe, CODE: code_version(), DATA: data, START: start}


def is_finished(recipe: Recipe, effective: Recipe, steps: int, made_of: dict[str, str]) -> bool:
    """Whether this run was trained before, all of it, and its checkpoint is there.

    Args:
        recipe: as it was read.
        effective: with the model as it is after all parts were taken from where they come from.
        steps: of the whole run.
        made_of: the fingerprints of a header, `DATA` and `START`.

    Raises:
        ValueError: it was, with other settings, data or weights to begin with: nothing would be trained, so nothing is
            written either.
    """
    states = States(recipe.folder / "states").files()
    trained = recipe.result.is_file() or (bool(states) and States.step(states[-1]) >= steps)
    if not trained:
        return False
    metadata: dict[str, str] = {}
    if recipe.result.is_file():
        with suppress(ValueError, OSError):
            metadata = read_metadata(recipe.result)
    told = made_of.keys() <= metadata.keys()
    changes = _changes(effective, places=not told, older=recipe if RECIPE not in metadata else None)
    names = {DATA: "the data", START: "the checkpoints that it starts with"}
    changes += [name for key, name in names.items() if metadata.get(key, made_of[key]) != made_of[key]]
    _refuse(recipe, changes)
    return recipe.result.is_file()


def _refuse(recipe: Recipe, changes: list[str]) -> None:
    if changes:
        raise ValueError(
            f"{recipe.folder} holds a finished run, trained with other settings ({'; '.join(changes[:8])}), so nothing "
            "was trained or written; give this one another name, or remove that folder to start over."
        )


def keep_recipe(recipe: Recipe, effective: Recipe) -> None:
    """Write the whole recipe, as it is trained, beside its run. Where a run goes on with other settings, the recipe of
    its steps so far is kept under another name, and the changes are said.
    """
    file = recipe.folder / FILE
    text = effective.to_yaml()
    states = States(recipe.folder / "states").files()
    if states and file.is_file() and _changes(effective, places=True):
        old = file.read_text(encoding="utf-8")
        changed = difflib.unified_diff(old.splitlines(), text.splitlines(), "before", "now", n=0, lineterm="")
        before = file.with_name(f"recipe-until-step-{States.step(states[-1]):08d}.yaml")
        log.warning(
            "The recipe changed since this run began; what it was is kept as %s:\n%s", before.name, "\n".join(changed)
        )
        write_atomic(before, old.encode())
    write_atomic(file, text.encode())


def _changes(recipe: Recipe, *, places: bool, older: Recipe | None = None) -> list[str]:
    """What is different from the recipe beside the run, as `key: old -> new`; nothing without one.

    Args:
        places: with what `LOCATIONS` lists.
        older: the recipe as it was read. Earlier versions kept this, whatever the checkpoints that it started with had.
    """
    file = recipe.folder / FILE
    if not file.is_file():
        return []
    try:
        old: Recipe = read_recipe(file)
    except ValueError as error:  # of another version of this code
        return [f"its recipe cannot be compared ({error})"]
    before, now, plain = (_flat(one.values()) for one in (old, recipe, older or recipe))
    changes = []
    for key in sorted(now.keys() | before.keys()):
        others = ASIDE if places else ASIDE + LOCATIONS
        aside = any(key == other or key.startswith(f"{other}.") for other in others)
        if not aside and before.get(key) not in (now.get(key), plain.get(key)):
            changes.append(f"{key}: {before.get(key)!r} -> {now.get(key)!r}")
    return changes


def _flat(values: Any, where: str = "") -> dict[str, Any]:
    """Nested mappings by dotted keys, lists and tuples alike."""
    if not isinstance(values, dict) or not values:
        return {where: list(values) if isinstance(values, tuple) else values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{where}.{key}" if where else str(key))
    return found
