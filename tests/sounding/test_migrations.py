"""Configurations that earlier versions wrote go on meaning the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.checkpoint import CONFIG_KEY, read_header
from sounding.config import GenerationConfig, SoundingConfig
from sounding.migrations import CONFIG_VERSION, SINGLE_THRESHOLDS, migrated, with_paired_thresholds
from sounding.model import SoundingModel

# As version 2 wrote them into headers.
GENERATION = {"steps": 30, "cfg": 5.0, "sampler": "dpm++", "backdrop": 0.65, "object": 0.55, "silent": 0.31,
              "clear": 0.41, "short": 0.11, "long": 0.51, "alike": 0.68, "apart": 0.5, "foreign": 0.8,
              "familiar": 0.95}  # fmt: skip
PAIRED = GenerationConfig(
    steps=30,
    cfg=5.0,
    sampler="dpm++",
    backdrop_cosine=(0.65, 0.55),
    norm_ratio=(0.31, 0.41),
    norm_ratio_beside_cosine=(0.11, 0.51),
    patch_cosine=(0.68, 0.5),
    name_cosine=(0.8, 0.95),
)


def old(config: SoundingConfig, **sections: dict[str, Any]) -> dict[str, Any]:
    """A version 2 configuration."""
    data = json.loads(config.to_json())
    del data["grounding"]["norm_matching"]
    data["grounding"]["match_length"] = True
    return data | {"version": 2, "generation": GENERATION} | sections


def test_version_2_headers_are_read(tiny_config: SoundingConfig) -> None:
    found = SoundingConfig.from_json(json.dumps(old(tiny_config)))
    assert found.grounding.norm_matching
    assert found.generation == PAIRED
    assert found.version == CONFIG_VERSION
    assert SoundingConfig.from_json(found.to_json()) == found


def test_the_defaults_of_version_2_are_todays() -> None:
    singles = {key: value for pair in SINGLE_THRESHOLDS.values() for key, value in pair.items()}
    assert with_paired_thresholds(singles) == {
        name: list(getattr(GenerationConfig(), name)) for name in SINGLE_THRESHOLDS
    }


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"familiar": 7.0}, r"generation\.name_cosine is 7\.0, but -1 to 1"),
        ({"familiar": "x"}, r"generation\.name_cosine is 'x'"),
        ({"familiar": 0.5, "name_cosine": 3}, "generation.name_cosine is 3|Unknown key 'generation.familiar'"),
        ({"name_cosine": [0.5]}, r"name_cosine has 1 values, but 2 are expected"),
        ({"acquainted": 0.5}, "Unknown key 'generation.acquainted'"),
    ],
)
def test_damaged_thresholds_get_one_sentence(tiny_config: SoundingConfig, section: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoundingConfig.from_json(json.dumps(old(tiny_config, generation=section)))


@pytest.mark.parametrize("data", [{"grounding": 5}, {"generation": [1]}, {"version": "2"}, {"version": True}, {}])
def test_what_is_not_known_is_left_alone(data: dict[str, Any]) -> None:
    assert migrated(data) == data


def test_an_old_checkpoint_makes_the_sound_that_it_made(
    tiny_checkpoint: Path, tiny_model: SoundingModel, tmp_path: Path
) -> None:
    """Only the header changes its words: weights, sounds and what is written next are those of a new file."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "old.safetensors"
    data = old(tiny_model.config)
    data["grounding"]["match_length"] = False
    metadata = read_header(tiny_checkpoint).metadata | {CONFIG_KEY: json.dumps(data)}
    save_file(load_file(tiny_checkpoint), path, metadata)
    before, now = (SoundingModel.from_pretrained(each) for each in (path, tiny_checkpoint))
    inputs: dict[str, Any] = {"image": torch.rand(1, 40, 40, 3), "text": "a dog", "seconds": 0.3, "steps": 2}
    # Where a weight lies in the file decides how products are summed, so the two differ by rounding.
    sound, same = (model.generate(cfg=2.0, **inputs).waveform for model in (before, now))
    assert float((sound - same).abs().max()) < 1e-3 * float(same.abs().max())
    before.save_pretrained(tmp_path / "new.safetensors")
    assert json.loads(read_header(tmp_path / "new.safetensors").metadata[CONFIG_KEY])["version"] == CONFIG_VERSION
