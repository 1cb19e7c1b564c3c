"""Prompts, the cache, what is loaded and refused, and the segmenter in the box."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sounding
from sounding.checkpoint import CheckpointError, describe, read_header
from sounding.config import SegmenterConfig, SoundingConfig
from sounding.model import SoundingModel
from sounding.segment import Prompt, load_segmenter
from sounding.segment.click import ClickSegmenter, network_size, passes
from sounding.segment.network import ClickNetwork, Clicks
from training.starter.transplant import put_segmenter, take_segmenter

SMALL = SegmenterConfig(side=96, widths=(16, 12, 8), blocks=(1, 1, 1), key_width=8)


@pytest.fixture(scope="module")
def click_model(tiny_config: SoundingConfig) -> SoundingModel:
    torch.manual_seed(1)
    model = SoundingModel(dataclasses.replace(tiny_config, name="clicks", segmenter=SMALL)).requires_grad_(False)
    assert model.segmenter is not None
    torch.nn.init.normal_(model.segmenter.sharp.weight, std=0.3)  # it starts at zero, which would hide it
    return model


@pytest.fixture(scope="module")
def click_checkpoint(click_model: SoundingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clicks") / "clicks.safetensors"
    click_model.save_pretrained(path, dtype=torch.float32)
    return path


class Attack:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.write_text, (self.marker, "executed")


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, form) -> None:
    marker, path = tmp_path / "marker", tmp_path / "sam_vit_b_01ec64.pth"
    state = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768), "x": Attack(marker)}
    if form == "zip":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(ValueError, match="so it was not opened"):
        load_segmenter(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if form == "zip" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the attack itself does nothing: the test proves nothing"


def test_other_files_are_refused_in_one_sentence(tmp_path, tiny_checkpoint) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_file({"image_encoder.trunk.pos_embed": torch.zeros(2)}, tmp_path / "sam2.safetensors")
    save_file({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 8)}, tmp_path / "part.safetensors")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "empty").mkdir()
    cases = {
        "text.pth": "text.pth",
        "text.safetensors": "not a readable .safetensors",
        "other.safetensors": "has tensors such as weight, but a Segment Anything file of Meta's",
        "sam2.safetensors": "SAM 2 and SAM 3 are read from their transformers folders",
        "part.safetensors": "has no 'image_encoder.patch_embed.proj.weight'",
        "bert": "a folder of the model type 'bert'",
        "empty": "config.json",
        "nothing": "neither a file nor a folder",
    }
    for name, words in cases.items():
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            load_segmenter(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="has no segmenter; use the starter's"):
        load_segmenter(tiny_checkpoint)


def test_the_network_sees_the_picture_in_multiples_of_32() -> None:
    assert network_size((480, 640), 320) == (256, 320)
    assert network_size((1000, 10), 320) == (320, 32)
    assert network_size((20, 20), 96) == (96, 96)


def test_clicks_are_shown_one_after_the_other() -> None:
    assert passes(1) == [1]
    assert passes(3) == [1, 2, 3]
    assert passes(20) == [1, 2, 3, 4, 5, 20]


def test_a_click_costs_the_decoder_alone_and_each_one_counts(click_checkpoint) -> None:
    segmenter = load_segmenter(click_checkpoint)
    assert isinstance(segmenter, ClickSegmenter)
    runs: list[int] = []
    segmenter.module.patches.tower.trunk.conv_stem.register_forward_hook(lambda *_: runs.append(1))
    picture = torch.rand(1, 50, 70, 3)
    prepared = segmenter.prepare(picture)
    assert all(value.device.type == "cpu" for value in prepared.tensors.values())
    prompts = [
        Prompt(((10.0, 20.0),)),
        Prompt(((60.0, 20.0),)),
        Prompt(((10.0, 20.0), (60.0, 20.0))),
        Prompt(((10.0, 20.0),), ((60.0, 20.0),)),
        Prompt(box=(5.0, 5.0, 40.0, 40.0)),
        Prompt(((10.0, 20.0),), box=(5.0, 5.0, 40.0, 40.0)),
    ]
    answers = [segmenter.segment(prepared, prompt) for prompt in prompts]
    assert len(runs) == 1 + len(prepared.zoomed)  # the whole, and what had to be looked at more closely
    seen = len(runs)
    repeated = [segmenter.segment(prepared, prompt) for prompt in prompts]
    assert len(runs) == seen
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(answers, repeated, strict=True))
    for index, answer in enumerate(answers):
        assert answer.mask.shape == answer.logits.shape == (50, 70)
        assert torch.equal(answer.mask, answer.logits.sigmoid())
        assert 0 <= answer.score <= 1
        assert not any(torch.equal(answer.logits, other.logits) for other in answers[:index])
    again = segmenter.segment(segmenter.prepare(picture[0]), prompts[0])
    assert torch.equal(again.logits, answers[0].logits)


def test_prompts_are_drawn_where_they_are(click_model) -> None:
    """Discs, halos and boxes in closed form, at the cells' centres."""
    network = click_model.segmenter
    clicks = Clicks(torch.tensor([[[20.0, 36.0]]]), torch.tensor([[-1]]), torch.tensor([[8.0, 16.0, 32.0, 48.0]]))
    maps = network._prompts(clicks, None, torch.zeros(1, 1, 8, 12), 8)[0]
    positive, far, disc, halo, box, last = maps
    assert not positive.any()
    assert not far.any()
    assert not last.any()
    assert disc.argmax() == halo.argmax() == 4 * 12 + 2  # the cell whose centre (20, 36) was clicked
    assert disc.max() == halo.max() == 1
    assert disc[4, 3] == pytest.approx(torch.tensor(-((1 / 1.5) ** 2)).exp().item())
    assert halo[4, 3] == pytest.approx(torch.tensor(-8 / (0.15 * 96)).exp().item())
    inside = torch.zeros(8, 12)
    inside[2:6, 1:4] = 1
    assert torch.equal(box, inside)


def test_alike_places_are_told_from_others(click_model) -> None:
    """The cosine to a clicked cell is that of the cells' features, and the best of several clicks counts."""
    from sounding.segment.network import _alike

    keys = torch.nn.functional.normalize(torch.randn(1, 5, 4, 6), dim=1)
    clicks = Clicks(torch.tensor([[[12.0, 4.0], [44.0, 28.0]]]), torch.tensor([[1, 1]]), torch.zeros(1, 4))
    alike = _alike(keys, clicks, 8)[0]
    first, second = keys[0, :, 0, 1], keys[0, :, 3, 5]
    expected = torch.stack([torch.einsum("c,chw->hw", one, keys[0]) for one in (first, second)]).amax(dim=0)
    torch.testing.assert_close(alike[0], expected)
    assert not alike[1].any()


def test_the_segmenter_of_a_loaded_model_is_the_files(click_checkpoint) -> None:
    model = sounding.load(click_checkpoint, device="cpu")
    shared, read = load_segmenter("starter", model=model), load_segmenter(click_checkpoint)
    assert shared.module.network is model.segmenter
    picture, prompt = torch.rand(1, 40, 60, 3), Prompt(((10.0, 20.0),))
    answers = [one.segment(one.prepare(picture), prompt).logits for one in (shared, read)]
    assert torch.equal(*answers)


def test_a_checkpoint_may_do_without_and_says_what_it_has(
    click_model, click_checkpoint, tiny_checkpoint, tmp_path
) -> None:
    assert sounding.load(tiny_checkpoint, device="cpu").segmenter is None
    assert "segmenter" not in describe(tiny_checkpoint)["parameters"]
    described = describe(click_checkpoint)
    assert described["parameters"]["segmenter"] == sum(p.numel() for p in click_model.segmenter.parameters())
    assert described["config"]["segmenter"]["side"] == 96
    loaded = sounding.load(click_checkpoint, device="cpu")
    assert loaded.config == click_model.config
    assert torch.equal(loaded.segmenter.sharp.weight, click_model.segmenter.sharp.weight)
    # strict both ways
    tensors, metadata = load_file(click_checkpoint), read_header(click_checkpoint).metadata
    del tensors["segmenter.sharp.bias"]
    save_file(tensors, tmp_path / "less.safetensors", metadata=metadata)
    for load in (sounding.load, load_segmenter):
        with pytest.raises(CheckpointError, match=r"segmenter\.sharp\.bias|sharp\.bias"):
            load(tmp_path / "less.safetensors")
    plain = dataclasses.replace(click_model.config, segmenter=None)
    save_file(load_file(click_checkpoint), tmp_path / "more.safetensors", {"sounding.config": plain.to_json()})
    with pytest.raises(CheckpointError, match="that its configuration does not know"):
        sounding.load(tmp_path / "more.safetensors")


def test_the_part_goes_into_another_checkpoint_with_the_same_tower(
    tiny_config, click_model, click_checkpoint, tmp_path
) -> None:
    torch.manual_seed(9)
    other = SoundingModel(tiny_config).requires_grad_(False)
    target = tmp_path / "target.safetensors"
    other.save_pretrained(target, dtype=torch.float16, licence="mine")
    with pytest.raises(CheckpointError, match="another patch tower"):
        put_segmenter(click_checkpoint, target)
    other.patches.load_state_dict(click_model.patches.state_dict())
    other.save_pretrained(target, dtype=torch.float16, licence="mine")
    before = load_file(target)
    take_segmenter(click_checkpoint, tmp_path / "part.safetensors")
    put_segmenter(tmp_path / "part.safetensors", target)
    after, header = load_file(target), read_header(target)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    added = after.keys() - before.keys()
    assert added == {f"segmenter.{name}" for name in click_model.segmenter.state_dict()}
    assert {after[name].dtype for name in added} == {torch.float16}
    assert (header.config.segmenter, header.metadata["modelspec.license"]) == (SMALL, "mine")
    loaded = sounding.load(target, device="cpu")
    torch.testing.assert_close(loaded.segmenter.sharp.weight, click_model.segmenter.sharp.weight, rtol=1e-3, atol=1e-3)
    put_segmenter(click_checkpoint, target)  # and once more, over the one that is there
    assert load_file(target).keys() == after.keys()
    with pytest.raises(CheckpointError, match="has no segmenter, but one is expected"):
        put_segmenter(_without(click_checkpoint, tmp_path), target)


def test_last_layers_of_the_tower_do_not_matter_to_the_decoder(
    tiny_config, click_model, click_checkpoint, tmp_path
) -> None:
    target = tmp_path / "target.safetensors"
    for name, fits in (("head.proj.weight", True), ("trunk.conv_head.weight", True), ("trunk.conv_stem.weight", False)):
        other = SoundingModel(tiny_config).requires_grad_(False)
        other.patches.load_state_dict(click_model.patches.state_dict())
        other.patches.tower.get_parameter(name).mul_(2)
        other.save_pretrained(target, dtype=torch.float16)
        if fits:
            put_segmenter(click_checkpoint, target)
            picture = torch.rand(1, 90, 120, 3, generator=torch.Generator().manual_seed(1))
            prompt = Prompt(((40.0, 40.0),))
            mine, given = (load_segmenter(path) for path in (target, click_checkpoint))
            found, expected = (one.segment(one.prepare(picture), prompt).mask for one in (mine, given))
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # fp16 and fp32
        else:
            with pytest.raises(CheckpointError, match="another patch tower"):
                put_segmenter(click_checkpoint, target)


def _without(path: Path, folder: Path) -> Path:
    header = read_header(path)
    config = dataclasses.replace(header.config, segmenter=None)
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("segmenter.")}
    save_file(tensors, folder / "without.safetensors", {**header.metadata, "sounding.config": config.to_json()})
    return folder / "without.safetensors"


def test_the_decoder_fits_what_the_starters_file_has_left() -> None:
    from sounding.config import PatchConfig

    with torch.device("meta"):
        network = ClickNetwork(SegmenterConfig(), PatchConfig(tower="timm", model="tf_efficientnet_lite0", width=256))
    assert sum(value.numel() for value in network.state_dict().values()) <= 220_000


def test_a_tower_without_levels_is_named(tiny_config) -> None:
    config = dataclasses.replace(tiny_config.patches, tower="vit", model="ViT-B-32")
    with pytest.raises(ValueError, match="has no feature maps at 1/4 to 1/32"):
        ClickNetwork(SMALL, config)
