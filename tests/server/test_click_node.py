"""The click node over the API: masks, and sentences for everything that is wrong."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .click_graphs import BODY, ask, click, images, mask_of, shown
from .graphs import COW, DOG, FARM, INPUT, iou, node, state, true_mask

pytestmark = pytest.mark.server


def test_masks_names_gains_and_points_of_what_is_on(server):
    clicked = state(
        {"name": "cow", "positive": [COW], "gain_db": -6},
        {"name": "off", "positive": [DOG], "on": False},
        {"name": "dog", "positive": [DOG], "negative": [{"x": 30, "y": 30}]},
        {"name": "not clicked yet"},
    )
    entry = server.run(click({"picture": "farm.png", "state": json.dumps(clicked)}))
    cow, dog = (mask[..., 0] > 127 for mask in images(server, entry, "masks"))
    assert iou(cow, true_mask("cow")) > 0.75
    assert iou(dog, true_mask("dog")) > 0.75
    (image,) = images(server, entry, "image")
    np.testing.assert_array_equal(image, np.asarray(Image.open(INPUT / "farm.png").convert("RGB")))
    assert shown(entry, "names") == ["cow\ndog"]
    assert [float(value) for value in shown(entry, "gains")] == [-6, 0]
    assert [json.loads(value) for value in shown(entry, "positive_coords")] == [[COW], [DOG]]
    assert [json.loads(value) for value in shown(entry, "negative_coords")] == [[], [{"x": 30, "y": 30}]]


def test_a_connected_image_takes_precedence_and_a_larger_one_is_scaled(server):
    larger = {
        "load": node("LoadImage", image="farm.png"),
        "large": node("ImageScaleBy", image=["load", 0], upscale_method="nearest-exact", scale_by=4.0),
    }
    clicked = json.dumps(state({"positive": [DOG]}))
    entry = server.run(click({"picture": "none.png", "state": clicked, "image": ["large", 0]}, **larger))
    (mask,) = images(server, entry, "masks")
    assert mask.shape == (1536, 2048, 3)
    assert iou(mask[::4, ::4, 0] > 127, true_mask("dog")) > 0.75
    (reference,) = entry["outputs"]["click"]["sounding_click"]
    assert (reference["width"], reference["height"], reference["type"]) == (2048, 1536, "temp")
    sent = Image.open(io.BytesIO(server.get("/view", filename=reference["name"], type="temp").content))
    np.testing.assert_array_equal(np.asarray(sent)[::4, ::4], np.asarray(Image.open(INPUT / "farm.png").convert("RGB")))


def test_points_of_other_nodes_select_without_a_state(server):
    points = {"points": node("StringConcatenate", string_a=json.dumps([DOG]), string_b="", delimiter="")}
    entry = server.run(click({"picture": "farm.png", "positive_coords": ["points", 0]}, **points))
    (mask,) = images(server, entry, "masks")
    assert iou(mask[..., 0] > 127, true_mask("dog")) > 0.75
    assert shown(entry, "names") == ["Object 1"]


def test_a_file_replaced_under_its_name_is_read_again(server):
    path = server.folder / "input" / "replaced.png"
    graph = click({"picture": "replaced.png", "state": json.dumps(state({"positive": [DOG]}, size=None))})
    found = []
    for turn in (False, True):
        image = Image.open(INPUT / "farm.png").convert("RGB")
        (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn else image).save(path)
        found += images(server, server.run(graph), "image")
    np.testing.assert_array_equal(found[0], found[1][:, ::-1])


DOG_TEXT = json.dumps(state({"positive": [DOG]}))


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing clicked": ({"picture": "farm.png"}, "Nothing is clicked"),
    "all off": ({"picture": "farm.png", "state": json.dumps(state({"positive": [DOG], "on": False}))}, "Nothing is"),
    "no picture": ({"state": DOG_TEXT}, "There is no image"),
    "no such picture": ({"picture": "none.png", "state": DOG_TEXT}, "no image 'none.png'"),
    "outside": ({"picture": "../log.txt", "state": DOG_TEXT}, "inside the input folder"),
    "absolute": ({"picture": "/etc/passwd", "state": DOG_TEXT}, "inside the input folder"),
    "a link": ({"picture": "link.png", "state": DOG_TEXT}, "inside the input folder"),
    "no picture at all": ({"picture": "text.png", "state": DOG_TEXT}, "cannot be read as"),
    "no state": ({"picture": "farm.png", "state": "{"}, "state is not JSON"),
    "points": ({"picture": "farm.png", "state": DOG_TEXT, "positive_coords": "1, 2"}, "'1, 2', which is not JSON"),
    "another shape": ({"picture": "dog.webp", "state": DOG_TEXT}, "another shape"),
    "outside of the picture": ({"picture": "farm.png", "state": json.dumps(state({"positive": [{"x": 600, "y": 1}]}))},
                               "the image has 512 x 384"),
}  # fmt: skip


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_said(server, case):
    inputs, words = ERRORS[case]
    assert words in server.error(click(inputs))


@pytest.mark.usefixtures("odd_files")
def test_what_is_listed_can_be_clicked_on_and_nothing_else_is_listed(server):
    folder = server.folder / "input"
    fine = ["a:b.png", "UPPER.PNG", "café.png", "with spaces .webp", "[1].png"]
    odd = ["notes.txt", "drawing.svg", "document.eps", "a\\b.png", "two\nlines.png", "x.png [temp]",
           os.fsdecode(b"\xff.png")]  # fmt: skip
    image = Image.open(INPUT / "farm.png").convert("RGB")
    for name in fine + odd:
        image.save(folder / name, "WEBP" if name.endswith("webp") else "PNG")
    (folder / "inside.png").symlink_to(folder / "farm.png")
    try:
        info = server.get("/object_info/SoundingClick").json()["SoundingClick"]
        listed = set(info["input"]["optional"]["picture"][1]["options"])
        assert listed >= {*fine, "farm.png", "inside.png"}
        assert not listed & {*odd, "link.png", "loop.png", "pipe.png"}
        for name in [*fine, "inside.png"]:
            graph = click({"picture": name, "state": json.dumps(state({"positive": [DOG]}))})
            assert len(images(server, server.run(graph), "image")) == 1, name
            assert ask(server, BODY | {"picture": {"name": name}}).status_code == 200, name
    finally:
        for name in [*fine, *odd, "inside.png"]:
            (folder / name).unlink()


@pytest.mark.parametrize("given", [7, True, {"name": "farm.png"}])
def test_an_image_of_another_type_is_named(server, given):
    said = server.error(click({"picture": given, "state": DOG_TEXT}))
    assert "the name of a file is expected" in said


def test_points_of_every_form_and_label_select_alike(server):
    found = []
    for positive, negative in (
        ([DOG], [COW]),
        ([[140, 190]], [[340, 225]]),
        ([DOG | {"label": 1}, COW | {"label": 0}], []),
    ):
        points = {"positive": json.dumps(positive), "negative": json.dumps(negative)}
        both = {
            name: node("StringConcatenate", string_a=text, string_b="", delimiter="") for name, text in points.items()
        }
        linked = {f"{name}_coords": [name, 0] for name in points}
        by_input = server.run(click({"picture": "farm.png", **linked}, **both))
        clicked = json.dumps(state({"positive": positive, "negative": negative}))
        by_state = server.run(click({"picture": "farm.png", "state": clicked}))
        (answer,) = ask(server, {"picture": FARM, "state": json.loads(clicked)}).json()["masks"]
        found += [images(server, entry, "masks")[0][..., 0] for entry in (by_input, by_state)]
        assert ((found[-1] > 127) != mask_of(answer)).mean() < 5e-4
        assert [json.loads(value) for value in shown(by_state, "negative_coords")] == [[COW]]
    for mask in found[1:]:
        np.testing.assert_array_equal(mask, found[0])


def test_a_batch_is_refused(server):
    batch = {"batch": node("EmptyImage", width=512, height=384, batch_size=2, color=0)}
    assert "a batch of 2 images" in server.error(click({"state": DOG_TEXT, "image": ["batch", 0]}, **batch))
