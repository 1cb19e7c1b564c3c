"""The namer in the box: its probabilities, its names of photographs, and the command `sounding name`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner, Result

import sounding
from sounding.checkpoint import CheckpointError
from sounding.cli.app import app
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel
from sounding.naming.load import Namer, boxed_namer, load_namer, namer_of
from sounding.naming.names import UNKNOWN
from training.starter.imagenet import published_weights

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture(scope="module")
def namer() -> Namer:
    return boxed_namer()


def test_a_whole_image_is_classified_as_the_published_network_does(namer: Namer) -> None:
    """timm's own forward pass over the published weights, and a softmax with one more constant logit."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    own = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(own, published_weights().values(), strict=True)), strict=False)
    image, config = read_image(PHOTOGRAPHS / "owl.jpg"), namer.part.config
    with torch.inference_mode():
        logits = network(namer.encoder.preprocess(image))[0] * config.scale
        whole = namer.part.probabilities(namer.part.embed(namer.encoder, image, None), masked=False)[0]
        everywhere = namer.part.probabilities(namer.part.embed(namer.encoder, image, torch.ones(image.shape[:3])))[0]
    assert config.none_logit is not None
    for found, none in ((whole, 0.0), (everywhere, math.exp(config.none_logit))):
        shares = logits.exp() / (logits.exp().sum() + none)
        expected = torch.zeros(len(config.names)).index_add(0, torch.tensor(config.rows), shares)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # the file's weights are float16


@pytest.mark.parametrize("photograph", ["dog", "koala", "penguin", "camel"])
def test_photographs_are_named_by_their_masks(namer: Namer, photograph: str) -> None:
    image, mask = read_image(PHOTOGRAPHS / f"{photograph}.jpg"), read_mask(PHOTOGRAPHS / f"{photograph}_mask.png")
    (found,) = namer.name(image, mask)
    assert found.name == photograph
    assert found.top[0] == (photograph, pytest.approx(found.probability))


def test_what_shows_nothing_is_unknown(namer: Namer) -> None:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 200)[None, :, None, None].expand(1, 200, 200, 3)
    noise = (ramp + 0.05 * torch.randn(1, 200, 200, 3, generator=generator)).clamp(0, 1)
    for image in (torch.full((1, 200, 200, 3), 0.5), ramp, noise):
        (found,) = namer.name(image, torch.ones(1, 200, 200))
        assert (found.name, found.known) == (UNKNOWN, False)


def test_models_without_names_of_their_own_use_the_box(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    image, mask = read_image(PHOTOGRAPHS / "dog.jpg"), read_mask(PHOTOGRAPHS / "dog_mask.png")
    assert [one.name for one in tiny_model.name(image, torch.cat([mask, mask]))] == ["dog", "dog"]
    with pytest.raises(ValueError, match="no names of its own, so its patches have none; give the image"):
        tiny_model.name(patches=tiny_model.see(image), mask=mask)
    assert namer_of(tiny_checkpoint).labels == load_namer().labels
    with pytest.raises(CheckpointError, match="gives no names; convert it again"):
        load_namer(tiny_checkpoint)


def test_a_missing_namer_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sounding.checkpoint.__file__", str(tmp_path / "sounding" / "checkpoint.py"))
    boxed_namer.cache_clear()
    with pytest.raises(CheckpointError, match="namer in the box cannot be used; reinstall the pack"):
        boxed_namer()
    boxed_namer.cache_clear()


def test_the_namer_makes_no_sounds() -> None:
    with pytest.raises(CheckpointError, match=r"only names objects.*give one, such as 'starter'"):
        sounding.load("starter-names", device="cpu")


def test_the_command_names_objects() -> None:
    image, mask = PHOTOGRAPHS / "dog.jpg", PHOTOGRAPHS / "dog_mask.png"
    result = run("name", "--image", str(image), "--mask", str(mask), "--mask", str(mask), "--top", "2", "--json")
    objects = json.loads(result.stdout)["objects"]
    assert [one["name"] for one in objects] == ["dog", "dog"]
    assert objects[0]["top"][0][0] == "dog"
    assert objects[0]["probability"] == pytest.approx(objects[0]["top"][0][1])
    assert run("name", "--image", str(image)).stdout.startswith("animal (dog ")  # the whole image is less sure
    several = run("name", "--image", str(image), "--mask", str(mask), "--mask", str(mask)).stdout.splitlines()
    assert [line.split(" (")[0] for line in several] == [f"{mask}: dog"] * 2
    failed = run("name", "--image", str(image), "--model", "nowhere.safetensors", "--json")
    assert failed.exit_code == 1
    assert "nowhere.safetensors is not a file" in json.loads(failed.stdout)["error"]
