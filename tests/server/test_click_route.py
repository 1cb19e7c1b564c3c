"""The route that the click node's page asks: masks, and sentences for everything that is wrong."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from PIL import Image

from .click_graphs import BODY, ask, click, images, mask_of
from .graphs import COW, DOG, FARM, INPUT, iou, state, true_mask

pytestmark = pytest.mark.server

STARTER_LABEL = "starter (in the box)"


def test_the_route_answers_a_mask_for_each_object(server):
    body = {"picture": FARM, "state": state({"positive": [DOG]}, {}, {"positive": [COW]})}
    answer = ask(server, body).json()
    assert (answer["width"], answer["height"]) == (512, 384)
    dog, nothing, cow = answer["masks"]
    assert nothing is None
    assert iou(mask_of(dog), true_mask("dog")) > 0.75
    assert iou(mask_of(cow), true_mask("cow")) > 0.75
    assert 0 <= dog["score"] <= 1


def test_each_mask_has_a_name_and_what_the_starter_knows_of_it(server):
    answer = ask(server, {"picture": FARM, "state": state({"positive": [DOG]}, {}, {"positive": [COW]})}).json()
    assert answer["vocabulary"] == {"checkpoint": STARTER_LABEL, "names": 79}
    dog, cow = answer["masks"][0]["named"], answer["masks"][2]["named"]
    assert (dog["name"], dog["known"], dog["sounds_as"]) == ("dog", True, "a dog")
    assert dog["top"][0] == ["dog", dog["probability"]]
    assert dog["nearest"][0] == "a dog"
    assert 1 >= dog["probability"] >= 0.5 > dog["top"][1][1]
    assert len(cow["top"]) == 5
    assert 0 <= answer["naming_milliseconds"] <= answer["milliseconds"]


@pytest.mark.parametrize("checkpoint", [None, "none.safetensors", "../starter.safetensors", "text.safetensors",
                                        "foreign.safetensors", "tiny.safetensors", "\0"])  # fmt: skip
def test_names_come_where_nothing_is_known_of_a_checkpoint(server, checkpoint):
    """It lists no names, is not of this pack, or cannot be read: which loading it says."""
    answer = ask(server, BODY | {"checkpoint": checkpoint})
    assert answer.status_code == 200
    assert answer.json()["vocabulary"] is None
    named = answer.json()["masks"][0]["named"]
    assert named["name"] == "dog"
    assert "sounds_as" not in named


def test_the_mask_shown_is_the_mask_that_the_graph_gets(server):
    clicked = state({"positive": [DOG], "negative": [{"x": 250, "y": 30}], "box": [55, 105, 250, 315]})
    entry = server.run(click({"picture": "farm.png", "state": json.dumps(clicked)}))
    (made,) = images(server, entry, "masks")
    (answer,) = ask(server, {"picture": FARM, "state": clicked}).json()["masks"]
    # The route sends 8 bits at half, the graph more: a pixel at exactly half may fall on either side.
    assert ((made[..., 0] > 127) != mask_of(answer)).mean() < 5e-4


def test_a_further_click_does_not_prepare_the_image_again(server):
    """On one machine, one after the other: the first click pays for reading the image and its embedding."""
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
    "a colon": (BODY | {"picture": FARM | {"name": "a:b.png"}}, {}, 400, "no image 'a:b.png'"),
    "a pipe": (BODY | {"picture": FARM | {"name": "pipe.png"}}, {}, 400, "no image"),
    "no segmenter": (BODY | {"segmenter": "sams/none.pth"}, {}, 400, "a Segment Anything model in models/sams"),
    "a segmenter of zero bytes": (BODY | {"segmenter": "sams/\0\ud800"}, {}, 400, "a Segment Anything model in"),
    "a segmenter by number": (BODY | {"segmenter": 7}, {}, 400, "segmenter is not a name"),
    "a checkpoint by number": (BODY | {"checkpoint": 7}, {}, 400, "checkpoint is not a name"),
    "a checkpoint of 2000 letters": (BODY | {"checkpoint": "a" * 2000}, {}, 400, "checkpoint is not a name"),
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
    "a folder": (BODY | {"picture": FARM | {"name": "."}}, {}, 400, "no image"),
    "none": (BODY | {"picture": FARM | {"name": "none.png"}}, {}, 400, "no image 'none.png'"),
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
