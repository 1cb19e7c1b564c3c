"""Items to folders of sounds, SOUNDS/SYSTEM/NAME.wav; what is there already is not made again.

An item that a system cannot sound is listed in SOUNDS/SYSTEM/failed.json with the reason, and tried again in the next
run; the others go on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sounding.audio.files import write_audio
from sounding.utils.files import FullDiskError, is_full, write_atomic
from sounding.utils.messages import printable

from ...cluster.process import failure_of_device
from ...data.shard_format import read_json
from ..items import Item
from .baseline import Baseline, Settings
from .systems import System, Weights

log = logging.getLogger("training")
SETTINGS, FAILED = "settings.json", "failed.json"
MOST_JSON = 2**20
OnStep = Callable[[int, int], None]


def describe(system: System, weights: Weights, settings: Settings) -> dict[str, Any]:
    """All options that a system's sounds depend on; JSON."""
    return {
        "system": system.name,
        **{need: str(getattr(weights, need)) for need in system.needs},
        **asdict(settings),
    }


def check_settings(folder: Path, description: dict[str, Any]) -> None:
    """Whether sounds can be added to a folder, which should be known before weights are read.

    Raises:
        ValueError: it has sounds of other settings.
    """
    kept = folder / SETTINGS
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        found = read_json(kept, MOST_JSON)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{folder} is not empty, but has no {SETTINGS} that can be read; give another folder.")
    different = sorted(key for key in found.keys() | description.keys() if found.get(key) != description.get(key))
    if different:
        raise ValueError(
            f"{folder} has sounds of other settings ({printable(', '.join(different), 200)} differ); give another "
            "folder, or delete it."
        )


def write_settings(folder: Path, description: dict[str, Any]) -> None:
    """Keep the options beside the sounds, for `check_settings` of the next run.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomic(folder / SETTINGS, json.dumps(description, indent=1).encode())


def generate(baseline: Baseline, items: list[Item], folder: Path, on_step: OnStep | None = None) -> dict[str, str]:
    """Sound all items that have no sound yet; names of those that failed, with the reasons.

    Args:
        baseline: the system.
        items: to sound.
        folder: gets NAME.wav.
        on_step: called with the items done and their number.

    Raises:
        FullDiskError: no room.
        StopRun: the device fails, as it will for every item.
    """
    failed: dict[str, str] = {}
    for number, item in enumerate(items):
        why = sound_item(baseline, item, folder)
        if why:
            failed[item.name] = why
        if on_step:
            on_step(number + 1, len(items))
    write_failed(folder, failed)
    return failed


def sound_item(baseline: Baseline, item: Item, folder: Path) -> str:
    """Sound an item that has no sound in `folder` yet; why it has none now, or "".

    Raises:
        FullDiskError: no room.
        StopRun: the device fails, as it will for every item.
    """
    path = sound_of(folder, item.name)
    if path.is_file():
        return ""
    try:
        sound = baseline.generate(item)
        if not sound.isfinite().all():
            raise ValueError("The sound has values that are not finite.")
        write_audio(path, sound, baseline.rate)
    except (ValueError, RuntimeError, OSError) as error:
        failure = failure_of_device(error, folder.name, "--seconds")
        if failure is not None:
            raise failure from error
        if isinstance(error, FullDiskError) or is_full(error):
            raise
        why = printable(" ".join(str(error).split()), 400)
        log.warning("%s has no sound: %s", printable(item.name), why)
        return why
    return ""


def sound_of(folder: Path, name: str) -> Path:
    """The file of an item's sound."""
    return folder / f"{name}.wav"


def write_failed(folder: Path, failed: dict[str, str]) -> None:
    """Keep which items have no sound, and why, until all have one."""
    if failed:
        write_atomic(folder / FAILED, json.dumps(failed, indent=1).encode())
    else:
        (folder / FAILED).unlink(missing_ok=True)
