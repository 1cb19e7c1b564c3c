"""Sounding Name Object in real runs: names, probabilities and prompts as lists, and sentences for what is wrong."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sounding
from sounding.config import NamingConfig
from sounding.model import SoundingModel
from sounding.naming.load import boxed_namer

from .comfyui import ROOT, Graph, Server
from .graphs import node

pytestmark = pytest.mark.server

PHOTOGRAPHS = ROOT / "tests" / "photographs"


def pixels(name: str, mode: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(PHOTOGRAPHS / name).convert(mode), np.float32) / 255)[None]


@pytest.fixture(scope="module", autouse=True)
def photograph(server: Server) -> tuple[torch.Tensor, torch.Tensor]:
    """A dog, and the masks of it and of all around it."""
    for name in ("dog.jpg", "dog_mask.png"):
        shutil.copy(PHOTOGRAPHS / name, server.folder / "input" / f"photograph_{name}")
    mask = pixels("dog_mask.png", "L")
    return pixels("dog.jpg", "RGB"), torch.cat([mask, 1 - mask])


def graph_of(**inputs: Any) -> Graph:
    """The dog and its surroundings, named; every output is shown."""
    graph = {
        "image": node("LoadImage", image="photograph_dog.jpg"),
        "dog": node("LoadImageMask", image="photograph_dog_mask.png", channel="red"),
        "around": node("InvertMask", mask=["dog", 0]),
        "first": node("MaskToImage", mask=["dog", 0]),
        "second": node("MaskToImage", mask=["around", 0]),
        "both": node("ImageBatch", image1=["first", 0], image2=["second", 0]),
        "masks": node("ImageToMask", image=["both", 0], channel="red"),
        "name": node("SoundingNameObject", **{
            "image": ["image", 0],
            "mask": ["masks", 0],
            "template": "the sound of {name}",
            "if_unknown": "ambient background sound",
            "top": 3,
            **inputs,
        }),
    }  # fmt: skip
    for place, output in enumerate(("names", "probabilities", "prompts")):
        graph[output] = node("PreviewAny", source=["name", place])
    return graph


def shown(entry: dict[str, Any], output: str) -> list[str]:
    return list(entry["outputs"][output]["text"])


def test_each_mask_gets_a_name_its_probability_and_a_prompt(server, photograph):
    template = "{name} of {names} at {probability}"
    entry = server.run(graph_of(template=template, if_unknown=template))
    expected = boxed_namer().name(*photograph, top=3)
    names = [each.name for each in expected]
    assert names == ["dog", "unknown"]
    assert shown(entry, "names") == names
    probabilities = [float(value) for value in shown(entry, "probabilities")]
    np.testing.assert_allclose(probabilities, [each.probability for each in expected], atol=1e-4)
    told = entry["outputs"]["name"]["sounding_names"]
    assert [each["name"] for each in told] == names
    likely = [[name for name, _ in each["top"]] for each in told]
    assert [(each[0], len(each)) for each in likely] == [(each.top[0][0], 3) for each in expected]
    assert shown(entry, "prompts") == [
        f"{three[0]} of {', '.join(three)} at {share:.2f}" for three, share in zip(likely, probabilities, strict=True)
    ]
    assert "dog" in entry["outputs"]["name"]["text"][0]


def test_names_that_are_given_stay_and_the_others_are_found(server):
    graph = graph_of(names=["lines", 0])
    graph["lines"] = node("StringConcatenate", string_a="Object 1", string_b="dry grass", delimiter="\n")
    entry = server.run(graph)
    assert shown(entry, "names") == ["dog", "dry grass"]
    assert float(shown(entry, "probabilities")[1]) == 1.0
    assert shown(entry, "prompts") == ["the sound of dog", "the sound of dry grass"]


def test_what_nobody_can_tell_gets_a_prompt_of_its_own(server):
    graph = graph_of(image=["plain", 0], mask=["whole", 0])
    graph["plain"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x808080)
    graph["whole"] = node("SolidMask", value=1.0, width=64, height=64)
    assert shown(server.run(graph), "names") == ["unknown"]
    assert shown(server.run(graph), "prompts") == ["ambient background sound"]
    graph["name"]["inputs"]["if_unknown"] = "perhaps {name}"
    entry = server.run(graph)
    likeliest = entry["outputs"]["name"]["sounding_names"][0]["top"][0][0]
    assert shown(entry, "prompts") == [f"perhaps {likeliest}"]


def test_several_images_and_the_whole_image(server, photograph):
    graph = graph_of(image=["pair", 0])
    graph["pair"] = node("ImageBatch", image1=["image", 0], image2=["image", 0])
    both = shown(server.run(graph), "names")
    assert both == shown(server.run(graph_of()), "names")
    graph["name"]["inputs"]["mask"] = ["dog", 0]
    assert shown(server.run(graph), "names") == ["dog", "dog"]
    del graph["name"]["inputs"]["mask"]
    whole = boxed_namer().name(photograph[0])[0].name
    assert shown(server.run(graph), "names") == [whole, whole]


def test_a_converted_model_names_by_itself(server, tiny_config, photograph):
    names = tuple(f"thing {i}" for i in range(tiny_config.patches.width))
    naming = NamingConfig(names=names, rows=tuple(range(len(names))), threshold=0.0)
    model = SoundingModel(dataclasses.replace(tiny_config, naming=naming))
    torch.nn.init.normal_(model.naming.embeddings)
    path = server.folder / "models" / "sounding" / "naming.safetensors"
    model.save_pretrained(path)
    graph = graph_of(model=["load", 0])
    graph["load"] = node("SoundingLoadModel", checkpoint=path.name)
    entry = server.run(graph)
    model = sounding.load(path)  # with the precision of the file
    expected = model.name(*photograph, top=3)
    assert shown(entry, "names") == [each.name for each in expected]
    probabilities = [float(value) for value in shown(entry, "probabilities")]
    np.testing.assert_allclose(probabilities, [each.probability for each in expected], atol=1e-4)
    graph["load"]["inputs"]["checkpoint"] = "tiny.safetensors"  # has no names of its own
    assert shown(server.run(graph), "names")[0] == "dog"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a field": ({"template": "the sound of {nmae}"}, "template is 'the sound of {nmae}', but the only fields expected"),
    "a brace": ({"if_unknown": "{"}, "if_unknown is '{', but the only fields expected"),
    "an attribute": ({"template": "{name.__class__}"}, "but the only fields expected"),
    "names": ({"names": ["name 3", 0]}, "names has 3 lines for 2 objects"),
    "an empty mask": ({"mask": ["empty", 0]}, "mask is empty"),
    "masks": ({"image": ["images", 0]}, "3 images and 2 masks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(server, case):
    inputs, words = WRONG[case]
    graph = graph_of(**inputs)
    graph["name 3"] = node("StringConcatenate", string_a="a", string_b="b\nc", delimiter="\n")
    graph["empty"] = node("SolidMask", value=0.0, width=64, height=48)
    graph["two"] = node("ImageBatch", image1=["image", 0], image2=["image", 0])
    graph["images"] = node("ImageBatch", image1=["two", 0], image2=["image", 0])
    said = server.error(graph)
    assert words in said
    assert "expected" in said or "should" in said
    assert "\n" not in said.strip()
