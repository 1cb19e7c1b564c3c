"""The click node over the API, and the route that its page asks: masks, and sentences for all that is wrong."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

pytestmark = pytest.mark.server

INPUT = Path(__file__).parent.parent.parent / "example_workflows" / "input"
DOG, COW = {"x": 140, "y": 190}, {"x": 340, "y": 225}
FARM = {"name": "farm.png", "subfolder": "", "type": "input"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def state(*objects: dict[str, Any], size: tuple[int, int] | None = (512, 384)) -> dict[str, Any]:
    return {"version": 1, "size": size, "objects": [{"name": f"Object {i + 1}", **o} for i, o in enumerate(objects)]}


def true_mask(name: str) -> np.ndarray:
    return np.asarray(Image.open(INPUT / f"farm_mask_{name}.png").convert("L")) > 127


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def click(inputs: dict[str, Any], **others: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A graph that saves the masks, and shows the other outputs."""
    graph = {
        "click": node("SoundingClick", **inputs),
        "grey": node("MaskToImage", mask=["click", 1]),
        "masks": node("PreviewImage", images=["grey", 0]),
        "image": node("PreviewImage", images=["click", 0]),
    }
    for i, name in enumerate(("names", "gains", "positive_coords", "negative_coords"), start=2):
        graph[name] = node("PreviewAny", source=["click", i])
    return graph | others


def pictures(server: Any, entry: dict[str, Any], name: str) -> list[np.ndarray]:
    files = entry["outputs"][name]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.get("/view", **file).content)).convert("RGB")) for file in files]


def shown(entry: dict[str, Any], name: str) -> list[str]:
    return list(entry["outputs"][name]["text"])


def ask(server: Any, body: Any, **headers: str) -> requests.Response:
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    headers = {"Content-Type": "application/json", **headers}
    return requests.post(server.url + "/sounding/click", data=data, headers=headers, timeout=600)


def mask_of(answer: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png"]))).getchannel("A")) > 127


# The node


def test_masks_names_gains_and_points_of_what_is_on(server):
    clicked = state(
        {"name": "cow", "positive": [COW], "gain_db": -6},
        {"name": "off", "positive": [DOG], "on": False},
        {"name": "dog", "positive": [DOG], "negative": [{"x": 30, "y": 30}]},
        {"name": "not clicked yet"},
    )
    entry = server.run(click({"picture": "farm.png", "state": json.dumps(clicked)}))
    cow, dog = (mask[..., 0] > 127 for mask in pictures(server, entry, "masks"))
    assert iou(cow, true_mask("cow")) > 0.75
    assert iou(dog, true_mask("dog")) > 0.75
    (image,) = pictures(server, entry, "image")
    np.testing.assert_array_equal(image, np.asarray(Image.open(INPUT / "farm.png").convert("RGB")))
    assert shown(entry, "names") == ["cow\ndog"]
    assert [float(value) for value in shown(entry, "gains")] == [-6, 0]
    assert [json.loads(value) for value in shown(entry, "positive_coords")] == [[COW], [DOG]]
    assert [json.loads(value) for value in shown(entry, "negative_coords")] == [[], [{"x": 30, "y": 30}]]


def test_a_connected_picture_takes_precedence_and_a_larger_one_is_scaled(server):
    larger = {
        "load": node("LoadImage", image="farm.png"),
        "large": node("ImageScaleBy", image=["load", 0], upscale_method="nearest-exact", scale_by=4.0),
    }
    clicked = json.dumps(state({"positive": [DOG]}))
    entry = server.run(click({"picture": "none.png", "state": clicked, "image": ["large", 0]}, **larger))
    (mask,) = pictures(server, entry, "masks")
    assert mask.shape == (1536, 2048, 3)
    assert iou(mask[::4, ::4, 0] > 127, true_mask("dog")) > 0.75
    (reference,) = entry["outputs"]["click"]["sounding_click"]
    assert (reference["width"], reference["height"], reference["type"]) == (2048, 1536, "temp")
    sent = Image.open(io.BytesIO(server.get("/view", filename=reference["name"], type="temp").content))
    np.testing.assert_array_equal(np.asarray(sent)[::4, ::4], np.asarray(Image.open(INPUT / "farm.png").convert("RGB")))


def test_points_of_other_nodes_select_without_a_state(server):
    points = {"points": node("StringConcatenate", string_a=json.dumps([DOG]), string_b="", delimiter="")}
    entry = server.run(click({"picture": "farm.png", "positive_coords": ["points", 0]}, **points))
    (mask,) = pictures(server, entry, "masks")
    assert iou(mask[..., 0] > 127, true_mask("dog")) > 0.75
    assert shown(entry, "names") == ["Object 1"]


def test_a_file_replaced_under_its_name_is_read_again(server):
    path = server.folder / "input" / "replaced.png"
    graph = click({"picture": "replaced.png", "state": json.dumps(state({"positive": [DOG]}, size=None))})
    found = []
    for turn in (False, True):
        picture = Image.open(INPUT / "farm.png").convert("RGB")
        (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn else picture).save(path)
        found += pictures(server, server.run(graph), "image")
    np.testing.assert_array_equal(found[0], found[1][:, ::-1])


DOG_TEXT = json.dumps(state({"positive": [DOG]}))
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing clicked": ({"picture": "farm.png"}, "Nothing is clicked"),
    "all off": ({"picture": "farm.png", "state": json.dumps(state({"positive": [DOG], "on": False}))}, "Nothing is"),
    "no picture": ({"state": DOG_TEXT}, "There is no picture"),
    "no such picture": ({"picture": "none.png", "state": DOG_TEXT}, "no picture 'none.png'"),
    "outside": ({"picture": "../log.txt", "state": DOG_TEXT}, "inside the input folder"),
    "absolute": ({"picture": "/etc/passwd", "state": DOG_TEXT}, "inside the input folder"),
    "a link": ({"picture": "link.png", "state": DOG_TEXT}, "inside the input folder"),
    "no picture at all": ({"picture": "text.png", "state": DOG_TEXT}, "cannot be read as a picture"),
    "no state": ({"picture": "farm.png", "state": "{"}, "state is not JSON"),
    "points": ({"picture": "farm.png", "state": DOG_TEXT, "positive_coords": "1, 2"}, "'1, 2', which is not JSON"),
    "another shape": ({"picture": "dog.png", "state": DOG_TEXT}, "another shape"),
    "outside of the picture": ({"picture": "farm.png", "state": json.dumps(state({"positive": [{"x": 600, "y": 1}]}))},
                               "the picture has 512 x 384"),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd_files(server: Any) -> Iterator[None]:
    """Inputs that are no pictures of the input folder."""
    folder = server.folder / "input"
    (folder / "text.png").write_text("no picture")
    (server.folder / "secret.png").write_bytes((INPUT / "farm.png").read_bytes())
    (folder / "link.png").symlink_to(server.folder / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    yield
    (folder / "loop.png").unlink()
    (folder / "pipe.png").unlink()
    (folder / "link.png").unlink()
    (folder / "text.png").unlink()


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
    picture = Image.open(INPUT / "farm.png").convert("RGB")
    for name in fine + odd:
        picture.save(folder / name, "WEBP" if name.endswith("webp") else "PNG")
    (folder / "inside.png").symlink_to(folder / "farm.png")
    try:
        info = server.get("/object_info/SoundingClick").json()["SoundingClick"]
        listed = set(info["input"]["optional"]["picture"][1]["options"])
        assert listed >= {*fine, "farm.png", "inside.png"}
        assert not listed & {*odd, "link.png", "loop.png", "pipe.png"}
        for name in [*fine, "inside.png"]:
            graph = click({"picture": name, "state": json.dumps(state({"positive": [DOG]}))})
            assert len(pictures(server, server.run(graph), "image")) == 1, name
            assert ask(server, BODY | {"picture": {"name": name}}).status_code == 200, name
    finally:
        for name in [*fine, *odd, "inside.png"]:
            (folder / name).unlink()


@pytest.mark.parametrize("given", [7, True, {"name": "farm.png"}])
def test_a_picture_of_another_type_is_named(server, given):
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
        found += [pictures(server, entry, "masks")[0][..., 0] for entry in (by_input, by_state)]
        assert ((found[-1] > 127) != mask_of(answer)).mean() < 5e-4
        assert [json.loads(value) for value in shown(by_state, "negative_coords")] == [[COW]]
    for mask in found[1:]:
        np.testing.assert_array_equal(mask, found[0])


def test_a_batch_is_refused(server):
    batch = {"batch": node("EmptyImage", width=512, height=384, batch_size=2, color=0)}
    assert "a batch of 2 pictures" in server.error(click({"state": DOG_TEXT, "image": ["batch", 0]}, **batch))


# The route


def test_the_route_answers_a_mask_for_each_object(server):
    body = {"picture": FARM, "state": state({"positive": [DOG]}, {}, {"positive": [COW]})}
    answer = ask(server, body).json()
    assert (answer["width"], answer["height"]) == (512, 384)
    dog, nothing, cow = answer["masks"]
    assert nothing is None
    assert iou(mask_of(dog), true_mask("dog")) > 0.75
    assert iou(mask_of(cow), true_mask("cow")) > 0.75
    assert 0 <= dog["score"] <= 1


def test_the_mask_shown_is_the_mask_that_the_graph_gets(server):
    clicked = state({"positive": [DOG], "negative": [{"x": 250, "y": 30}], "box": [55, 105, 250, 315]})
    entry = server.run(click({"picture": "farm.png", "state": json.dumps(clicked)}))
    (made,) = pictures(server, entry, "masks")
    (answer,) = ask(server, {"picture": FARM, "state": clicked}).json()["masks"]
    # The route sends 8 bits at half, the graph more: a pixel at exactly half may fall on either side.
    assert ((made[..., 0] > 127) != mask_of(answer)).mean() < 5e-4


def test_a_further_click_does_not_prepare_the_picture_again(server):
    """On one machine, one after the other: the first click pays for reading the picture and its embedding."""
    path = server.folder / "input" / "fresh.png"
    large = Image.open(INPUT / "farm.png").convert("RGB").resize((2048, 1536))
    large.save(path)
    body = {"picture": {"name": "fresh.png"}, "state": state({"positive": [DOG]})}
    first = ask(server, body).json()["milliseconds"]
    later = []
    for x in (100, 120, 150):
        body["state"] = state({"positive": [{"x": x, "y": 190}]})
        later.append(ask(server, body).json()["milliseconds"])
    print(f"first click {first} ms, further ones {later} ms")
    assert min(later) < first / 2


def test_many_at_once_are_answered_in_turn_or_refused(server):
    body = {"picture": FARM, "state": state({"positive": [DOG]})}
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(server, body), range(24)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 16
    assert all(answer.json().get("error") for answer in answers if answer.status_code == 429)


def deep(levels: int) -> Any:
    """Lists in lists."""
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


BODY = {"picture": FARM, "state": state({"positive": [DOG]})}
REFUSED: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "a form": (json.dumps(BODY), {"Content-Type": "text/plain"}, 415, "application/json is expected"),
    "a form of a page": ("a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    "another site": (BODY, {"Sec-Fetch-Site": "cross-site"}, 403, "another origin"),
    "another port": (BODY, {"Sec-Fetch-Site": "same-site"}, 403, "another origin"),
    "too much": (json.dumps(BODY) + " " * 300_000, {}, 413, "262144 bytes"),
    "no JSON": ("{", {}, 400, "not JSON"),
    "deep": ("[" * 100_000, {}, 400, "not JSON"),
    "a list": ([], {}, 400, "picture and state"),
    "more": (BODY | {"more": 1}, {}, 400, "picture and state"),
    "picture": (BODY | {"picture": "farm.png"}, {}, 400, "a name, a subfolder and a type"),
    "picture's name": (BODY | {"picture": {"name": 1}}, {}, 400, "a name, a subfolder and a type"),
    "picture's type": (BODY | {"picture": FARM | {"type": "models"}}, {}, 400, "one of input, output, temp"),
    "above": (BODY | {"picture": FARM | {"name": "../log.txt"}}, {}, 400, "inside the input folder"),
    "above in the folder": (BODY | {"picture": FARM | {"subfolder": ".."}}, {}, 400, "inside the input folder"),
    "backslashes": (BODY | {"picture": FARM | {"name": "..\\log.txt"}}, {}, 400, "inside the input folder"),
    "absolute": (BODY | {"picture": FARM | {"name": "/etc/passwd"}}, {}, 400, "inside the input folder"),
    "a drive": (BODY | {"picture": FARM | {"name": "c:farm.png"}}, {}, 400, "inside the input folder"),
    "zero byte": (BODY | {"picture": FARM | {"name": "farm.png\0"}}, {}, 400, "inside the input folder"),
    "a link": (BODY | {"picture": FARM | {"name": "link.png"}}, {}, 400, "inside the input folder"),
    "half of a letter": (BODY | {"picture": FARM | {"name": "\ud800.png"}}, {}, 400, "inside the input folder"),
    "zero byte far in front": (BODY | {"picture": {"name": "\0" + "a" * 300}}, {}, 400, "inside the input folder"),
    "zero byte in the folder": (BODY | {"picture": FARM | {"subfolder": "\0"}}, {}, 400, "inside the input folder"),
    "a loop of links": (BODY | {"picture": FARM | {"name": "loop.png"}}, {}, 400, "cannot be found"),
    "a loop of folders": (BODY | {"picture": FARM | {"subfolder": "loop.png"}}, {}, 400, "cannot be found"),
    "a colon": (BODY | {"picture": FARM | {"name": "a:b.png"}}, {}, 400, "no picture 'a:b.png'"),
    "a pipe": (BODY | {"picture": FARM | {"name": "pipe.png"}}, {}, 400, "no picture"),
    "no segmenter": (BODY | {"segmenter": "sams/none.pth"}, {}, 400, "a Segment Anything model in models/sams"),
    "a segmenter of zero bytes": (BODY | {"segmenter": "sams/\0\ud800"}, {}, 400, "a Segment Anything model in"),
    "a segmenter by number": (BODY | {"segmenter": 7}, {}, 400, "segmenter is not a name"),
    "lists in the state": (json.dumps(BODY).replace("190", "[" * 800 + "]" * 800), {}, 400, "an x and a y"),
    "lists for the state": (BODY | {"state": deep(800)}, {}, 400, "a JSON object is expected"),
    "lists for the picture": (BODY | {"picture": deep(800)}, {}, 400, "a name, a subfolder and a type"),
    "400 digits": (json.dumps(BODY).replace("190", "1" + "0" * 400), {}, 400, "an x and a y are expected"),
    "5000 digits": (json.dumps(BODY).replace("190", "1" + "0" * 5000), {}, 400, "not JSON"),
    "true": ("true", {}, 400, "picture and state"),
    "nothing": ("", {}, 400, "not JSON"),
    "bytes": (b"\xff\xfe\x00", {}, 400, "not JSON"),
    "not compressed": (json.dumps(BODY), {"Content-Encoding": "gzip"}, 400, "Bad Request|damaged"),
    "compressed and large": (gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"}, 413, "262144 bytes"),
    "long": (BODY | {"picture": FARM | {"name": "a" * 1000}}, {}, 400, "cannot be found"),
    "a folder": (BODY | {"picture": FARM | {"name": "."}}, {}, 400, "no picture"),
    "none": (BODY | {"picture": FARM | {"name": "none.png"}}, {}, 400, "no picture 'none.png'"),
    "not a picture": (BODY | {"picture": FARM | {"name": "text.png"}}, {}, 400, "cannot be read"),
    "state": (BODY | {"state": {"version": 1, "objects": "all"}}, {}, 400, "a list is expected"),
    "not a number": (json.dumps(BODY).replace("190", "NaN"), {}, 400, "an x and a y are expected"),
    "outside of the picture": (BODY | {"state": state({"positive": [{"x": 600, "y": 1}]})}, {}, 400, "512 x 384"),
}  # fmt: skip


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("case", REFUSED)
def test_the_route_refuses_with_a_sentence(server, case):
    body, headers, status, words = REFUSED[case]
    answer = ask(server, body, **headers)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert any(each in answer.json()["error"] for each in words.split("|"))
    assert str(server.folder) not in answer.text
    assert ask(server, BODY).status_code == 200


def test_the_hosts_own_rule_of_origins_holds(server):
    assert ask(server, BODY, Origin="http://evil.example").status_code == 403
    assert requests.get(server.url + "/sounding/click", timeout=600).status_code in (404, 405)
