"""Recipes that earlier versions wrote, brought to today's tasks and keys.

Each function takes and returns plain data, and leaves alone what it does not know; the checks come after it.
"""

from __future__ import annotations

from typing import Any

# Tasks that got another name, and their keys that did.
RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "encoders": ("starter_encoders", {"recalled_weight": "replay_weight"}),
    "segmenter": ("starter_segmenter", {}),
}
# Settings that left a task for the starter's own, with the defaults that earlier versions wrote out.
MOVED: dict[str, tuple[str, dict[str, Any]]] = {
    "grounded": (
        "starter_grounded",
        {
            "snr_floor": 0.0,
            "snr_limit": 0.0,
            "even_times": False,
            "attention_start": 0.0,
            "keep_attention": False,
            "mix": 0.0,
            "alone": 0.0,
            "backdrop": 0.0,
            "keep_grounding": False,
        },
    ),
}
# Settings of what is no longer there, with the values at which they did nothing: others are refused as unknown.
DROPPED: dict[str, dict[str, Any]] = {
    "vocoder": {"restored": 0.0},
    "starter_segmenter": {"cutouts": ""},
    "starter_encoders": {
        "frozen_blocks": 3,
        "tower_rate": 1.0,
        "kept_weight": 0.0,
        "known_weight": 0.0,
        "distillation_weight": 0.0,
        "classification_weight": 0.0,
    },
}
# Blocks and keys of the recipe of `python -m training finetune`.
FINETUNE = {
    "names": "text_encoder",
    "conditions": "grounding",
    "sounds": "unet",
    "grounded": "diffusion",
    "kept": "distillation_weight",
    "known_heard": "known_evaluated",
}
FINETUNE_DROPPED = ("attention_start", "mix", "alone", "backdrop")  # of `diffusion`, unless something else than 0


def migrated_recipe(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's mapping. A block that asks for more than the paper's trainers know becomes one of the starter's."""
    data = dict(data)
    for old, (new, names) in RENAMED.items():
        if isinstance(data.get(old), dict) and new not in data:
            data[new] = _renamed(data.pop(old), names)
        if data.get("task") == old:
            data["task"] = new
    for old, (new, defaults) in MOVED.items():
        block = data.get(old)
        if not isinstance(block, dict) or not block.keys() & defaults.keys():
            continue
        if all(block.get(key, default) == default for key, default in defaults.items()):
            data[old] = {key: value for key, value in block.items() if key not in defaults}
        elif new not in data:
            data[new] = data.pop(old)
            data["task"] = new if data.get("task") == old else data.get("task")
    for name, idle in DROPPED.items():
        block = data.get(name)
        if isinstance(block, dict):
            data[name] = {key: value for key, value in block.items() if key not in idle or value != idle[key]}
    return data


def migrated_overrides(data: dict[str, Any], task: object) -> dict[str, Any]:
    """Overrides by former names, for a recipe of `task` in today's: they are the task's own settings."""
    data = dict(data)
    renamed = [(old, new, names) for old, (new, names) in RENAMED.items()]
    moved: list[tuple[str, str, dict[str, str]]] = [(old, new, {}) for old, (new, _) in MOVED.items()]
    for old, new, names in renamed + moved:
        if task == new and isinstance(data.get(old), dict) and isinstance(data.get(new, {}), dict):
            data[new] = _renamed(data.pop(old), names) | data.get(new, {})
    return data


def migrated_finetuning(data: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a recipe of `python -m training finetune`."""
    data = _renamed(data, FINETUNE)
    block = data.get("diffusion")
    if isinstance(block, dict):
        data["diffusion"] = {key: value for key, value in block.items() if key not in FINETUNE_DROPPED or value}
    return data


def _renamed(block: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """New spellings win where both are there."""
    return {names.get(key, key): value for key, value in block.items() if names.get(key) not in block}
