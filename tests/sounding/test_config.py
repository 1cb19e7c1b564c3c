"""The configuration: what it says, how it is read back, and the sizes that follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest
import torch

from sounding.config import (
    CONFIG_VERSION,
    DiffusionConfig,
    GenerationConfig,
    GroundingConfig,
    PatchConfig,
    SegmenterConfig,
    SoundingConfig,
    UnetConfig,
    VaeConfig,
    from_dict,
)
from sounding.model import SoundingModel

FULL = SoundingConfig()


def test_json_round_trip(tiny_config: SoundingConfig) -> None:
    unlike = replace(
        tiny_config,
        absent={"query": "laion/clap-htsat-unfused"},
        grounding=GroundingConfig(heads=4, scoring="additive", query="audio", positions=False, clamp_weights=True),
        diffusion=DiffusionConfig(prediction="v_prediction"),
    )
    for config in (FULL, tiny_config, unlike):
        assert SoundingConfig.from_json(config.to_json()) == config
    assert json.loads(FULL.to_json())["unet"]["channels"] == [128, 256, 384, 640]


def test_whole_numbers_serve_as_floats() -> None:
    assert from_dict(PatchConfig, {"mean": [0, 0, 0]}).mean == (0.0, 0.0, 0.0)
    config = SoundingConfig.from_json('{"train_seconds": 5}')
    assert config.train_seconds == 5.0
    assert isinstance(config.train_seconds, float)


def test_what_a_file_leaves_out_has_its_default() -> None:
    assert SoundingConfig.from_json('{"generation": {}}') == FULL


def test_files_from_before_generate_as_they_did() -> None:
    """Steps, guidance, sampler and thresholds were the library's then."""
    old = SoundingConfig.from_json('{"version": 1, "train_seconds": 2.56}')
    assert old.generation == GenerationConfig(25, 7.0, "dpm++", norm_ratio=(0.3, 0.4), backdrop_cosine=(0.6, 0.5))
    assert old.train_seconds == 2.56
    assert SoundingConfig.from_json(old.to_json()) == old
    assert (FULL.generation.steps, FULL.generation.cfg, FULL.generation.sampler) == (200, 2.0, "ddim")  # the paper's


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"colour": 1}, "Unknown key 'colour'"),
        ({"unet": {"chanels": [1]}}, r"Unknown key 'unet\.chanels'; UnetConfig has .*channels"),
        ({"unet": {"layers": "2"}}, r"unet\.layers is '2', but int is expected"),
        ({"unet": {"layers": True}}, r"unet\.layers is True"),
        ({"unet": {"channels": [64, "128"]}}, r"unet\.channels is '128'"),
        ({"unet": 5}, "unet is 5, but UnetConfig is expected"),
        ({"patches": {"mean": [0.5, 0.5]}}, r"patches\.mean has 2 values, but 3 are expected"),
        ({"patches": {"geometry": "stretch"}}, r"patches\.geometry is 'stretch', but one of squeeze, crop, pad"),
        ({"grounding": {"positions": 1}}, r"grounding\.positions is 1"),
        ({"vae": {"scale": None}}, r"vae\.scale is None"),
        ({"name": 3}, "name is 3"),
    ],
)
def test_errors_name_the_key(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoundingConfig.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1]", "is a list, but an object is expected"),
        (json.dumps({"version": CONFIG_VERSION + 1}), f"version {CONFIG_VERSION + 1}.*update Sounding Objects"),
        ('{"version": "1"}', "has version '1'"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoundingConfig.from_json(text)


def _numbers(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all numbers in nested dictionaries."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _numbers(value, (*path, key))
        elif not isinstance(value, (bool, str)) and key != "vocabulary":  # a list of texts
            yield (*path, key)


WHOLE = replace(FULL, segmenter=SegmenterConfig())
NUMBERS = list(_numbers(asdict(WHOLE)))


@pytest.mark.parametrize("value", ["1e400", "NaN", "-Infinity", "9" * 400, "1e300", "-1" + "0" * 20, "true", '"7"'])
@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_has_a_range(path: tuple[str, ...], value: str) -> None:
    data = asdict(WHOLE)
    section = data
    for key in path[:-1]:
        section = section[key]
    several = isinstance(section[path[-1]], (list, tuple))
    section[path[-1]] = [*section[path[-1]][1:], "here"] if several else "here"
    with pytest.raises(ValueError, match=r"\S") as error:
        SoundingConfig.from_json(json.dumps(data).replace('"here"', value))
    message = str(error.value)
    assert len(message) < 300
    assert "\n" not in message
    assert path[-1] in message or "JSON" in message


def test_ranges_hold_however_a_section_is_made() -> None:
    with pytest.raises(ValueError, match=r"PatchConfig\.image_size is 40000, but 16 to 1024 is expected"):
        PatchConfig(image_size=40_000)
    with pytest.raises(ValueError, match=r"VaeConfig\.channels has 1000 values, but 1 to 8 are expected"):
        VaeConfig(channels=(1,) * 1000)
    with pytest.raises(ValueError, match=r"UnetConfig\.layers is '2', but int is expected"):
        UnetConfig(layers="2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vae": {"channels": [8192] * 7}}, "vae would take about .* of parameters"),
        ({"query": {"hidden": 8192, "layers": 64}}, "query would take about .* of parameters"),
        ({"train_seconds": 120, "vae": {"channels": [1024, 1024, 1024]}}, "vae would take about .* bytes of memory"),
        ({"audio": {"mel_bands": 256}, "vae": {"channels": [8]}}, r"unet would attend to \d+ positions"),
        ({"audio": {"sample_rate": 192_000}}, "audio.hop is 160, but .* 250 frames per second"),
        ({"audio": {"f_max": 9000}}, "audio.f_min is 0 and f_max 9000 at 16000 Hz"),
        ({"vocoder": {"rates": [5, 4, 2, 2, 4]}}, "vocoder.rates multiply to 320, but audio.hop, 160,"),
        ({"vocoder": {"rates": [160], "rate_kernels": [16, 16]}}, "vocoder.rates has 1 values, rate_kernels 2"),
        ({"vocoder": {"kernels": [3] * 5000}}, "vocoder.kernels has 5000 values, but 1 to 10 are expected"),
        ({"diffusion": {"beta_start": 0.5, "beta_end": 0.1}}, "diffusion.beta_start is 0.5 and beta_end 0.1"),
        ({"absent": {"query": 5}}, "absent.'query' is 5"),
        ({"absent": {f"part{i}": "x" for i in range(99)}}, "absent has 99 values"),
        ({"name": "x" * 5000}, "name is 'x.*, but one line of at most 200 printable characters"),
        ({"name": "\x1b[31m"}, "but one line of at most 200 printable characters"),
        ({"patches": {"model": "\ud800"}}, "patches.model is .* characters"),
    ],
)
def test_what_would_take_all_memory_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        SoundingConfig.from_json(json.dumps(changes))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a", "name": "b"}', "a key is there twice"),
        ("[" * 100_000, "nested too deep"),
        ('{"absent":' * 50_000, "nested too deep"),
        ('{"train_seconds": NaN}', "NaN is no number of JSON"),
        ('{"version": ' + "9" * 6000 + "}", "is not JSON"),
        ('{"name": "' + "x" * 2**20 + '"}', "at most 1048576 are expected"),
    ],
)
def test_json_is_bounded(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        SoundingConfig.from_json(text)
    assert len(str(error.value)) < 300


def test_patches_and_query_may_have_widths_of_their_own() -> None:
    """CLIP ViT-L/14 has 768, CLAP 512."""
    assert SoundingConfig(patches=PatchConfig(width=768)).query.width == 512


def test_film_and_condition_share_a_width() -> None:
    with pytest.raises(ValueError, match=r"film_width is 256 and grounding\.condition_width is 512"):
        SoundingConfig(unet=UnetConfig(film_width=256))
    assert SoundingConfig(unet=UnetConfig(film_width=512)).unet.film_width == 512
    with pytest.raises(ValueError, match=r"heads has 2 values, but 4 are expected"):
        SoundingConfig(unet=UnetConfig(heads=(8, 8)))


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.unet.layers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("seconds", "frames"), [(10.24, 256), (5.12, 128), (5.0, 128), (0.32, 8), (0.321, 16), (0.01, 8), (30, 752)]
)
def test_latent_frames_cover_the_seconds(seconds: float, frames: int) -> None:
    assert FULL.latent_frames(seconds) == frames
    assert frames * 4 * 160 / 16_000 >= seconds - 1e-9


@pytest.mark.parametrize("seconds", [0, 0.001, -1, float("nan"), float("inf")])
def test_bad_lengths_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"seconds is .* positive length"):
        FULL.latent_frames(seconds)


def test_derived_sizes() -> None:
    assert FULL.vae.stride == 4
    assert FULL.latent_bands == 16
    assert VaeConfig(channels=(8, 8)).stride == 2
    assert replace(FULL, unet=UnetConfig(channels=(32, 64))).latent_frames(0.01) == 2


def test_the_full_size_is_the_papers() -> None:
    """Each part's parameters, counted on the meta device, against what its authors publish."""
    with torch.device("meta"):
        model = SoundingModel(FULL)
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert millions["unet"] == pytest.approx(181, rel=0.01)  # AudioLDM-S has 181 M; this is 180.7 M
    assert millions["patches"] == pytest.approx(87.85, rel=1e-3)  # CLIP ViT-B/32's image tower
    assert millions["vae"] == pytest.approx(55.4, rel=0.01)
    assert millions["vocoder"] == pytest.approx(55.3, rel=0.01)
    assert asdict(FULL)["diffusion"]["beta_schedule"] == "scaled_linear"
