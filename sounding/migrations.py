"""Configurations written by earlier versions, brought to today's: checkpoint headers and recipes.

Each function takes and returns plain JSON data, and leaves alone what it does not know; the checks come after it.
"""

from __future__ import annotations

from typing import Any

CONFIG_VERSION = 3
# Until version 2 each threshold was a key of its own; these were their defaults.
SINGLE_THRESHOLDS = {
    "backdrop_cosine": {"backdrop": 0.6, "object": 0.5},
    "norm_ratio": {"silent": 0.3, "clear": 0.4},
    "norm_ratio_beside_cosine": {"short": 0.1, "long": 0.5},
    "patch_cosine": {"alike": 1.0, "apart": 1.0},
    "name_cosine": {"foreign": 0.84, "familiar": 0.9},
}


def migrated(data: dict[str, Any]) -> dict[str, Any]:
    """The model of a checkpoint or recipe in today's keys: version 3 renamed `grounding.match_length` and paired the
    thresholds of `generation`.
    """
    data = dict(data)
    if type(data.get("version")) is int and 1 <= data["version"] < CONFIG_VERSION:
        data["version"] = CONFIG_VERSION
    grounding, generation = data.get("grounding"), data.get("generation")
    if isinstance(grounding, dict) and "match_length" in grounding and "norm_matching" not in grounding:
        renamed = {("norm_matching" if key == "match_length" else key): value for key, value in grounding.items()}
        data["grounding"] = renamed
    if isinstance(generation, dict):
        data["generation"] = with_paired_thresholds(generation)
    return data


def with_paired_thresholds(generation: dict[str, Any]) -> dict[str, Any]:
    """A `generation` section with paired thresholds; single ones replace their half of a pair that is there already."""
    paired = dict(generation)
    for name, singles in SINGLE_THRESHOLDS.items():
        pair = paired.get(name, list(singles.values()))
        if any(key in paired for key in singles) and isinstance(pair, (list, tuple)) and len(pair) == len(singles):
            paired[name] = [paired.pop(key, value) for key, value in zip(singles, pair, strict=True)]
    return paired


def with_generation(data: dict[str, Any]) -> dict[str, Any]:
    """A version 1 header with the generation defaults, which were constants of the library then."""
    if "generation" in data:
        return data
    thresholds = {"norm_ratio": [0.3, 0.4], "backdrop_cosine": [0.6, 0.5]}
    return data | {"generation": {"steps": 25, "cfg": 7.0, "sampler": "dpm++", **thresholds}}
