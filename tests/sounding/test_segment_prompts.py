"""Prompts as strings, and the cache of prepared images."""

from __future__ import annotations

import gc
import json
import re

import pytest
import torch
from torch import Tensor

from sounding.segment import Cache, Prepared, Prompt, Segmentation


@pytest.mark.parametrize(
    ("positive", "negative", "box", "expected"),
    [
        ('[{"x": 10, "y": 20.5}]', "", "", Prompt(((10.0, 20.5),))),
        ('[{"x": 1, "y": 2}, {"x": 3, "y": 4}]', "[[5, 6]]", "", Prompt(((1.0, 2.0), (3.0, 4.0)), ((5.0, 6.0),))),
        ("[[1, 2]]", "[]", "[]", Prompt(((1.0, 2.0),))),
        ("", " ", "[10, 20, 30, 40]", Prompt(box=(10.0, 20.0, 30.0, 40.0))),
        ("", "", "[[30, 40, 10, 20]]", Prompt(box=(10.0, 20.0, 30.0, 40.0))),
        ("", "", '[{"startX": 1, "startY": 2, "endX": 3, "endY": 4}]', Prompt(box=(1.0, 2.0, 3.0, 4.0))),
        ("", "", '{"x0": 1, "y0": 2, "x1": 3, "y1": 4}', Prompt(box=(1.0, 2.0, 3.0, 4.0))),
        ("", "", '{"x": 1, "y": 2, "width": 10, "height": 20}', Prompt(box=(1.0, 2.0, 11.0, 22.0))),
        ("", "", "{}", Prompt()),
        ('[{"x": 1, "y": 2, "label": 1}, {"x": 3, "y": 4, "label": 0}]', "", "", Prompt(((1.0, 2.0),), ((3.0, 4.0),))),
    ],
)
def test_common_forms_of_prompts(positive, negative, box, expected) -> None:
    assert Prompt.from_strings(positive, negative, box) == expected


def test_text_travels_as_it_is() -> None:
    assert Prompt.from_strings("", text=" a dog ") == Prompt(text="a dog")


@pytest.mark.parametrize(
    ("strings", "words"),
    [
        ({"positive": "10, 20"}, "positive is '10, 20', which is not JSON"),
        ({"positive": "[" * 100_000}, "which is not JSON"),
        ({"positive": '{"x": 1, "y": 2}'}, "positive is a dict, but a list is expected"),
        ({"positive": "7"}, "positive is a int, but a list"),
        ({"positive": '[{"x": 1}]'}, "has the point {'x': 1}, but an x and a y"),
        ({"positive": "[[1, 2, 3]]"}, "has the point [1, 2, 3]"),
        ({"positive": '[["1", "2"]]'}, "an x and a y are expected"),
        ({"positive": "[[NaN, 1]]"}, "an x and a y are expected"),
        ({"positive": "[[1e999, 1]]"}, "an x and a y are expected"),
        ({"positive": "[[true, 1]]"}, "an x and a y are expected"),
        ({"positive": f"[[1{'0' * 400}, 1]]"}, "an x and a y are expected"),
        ({"positive": f"[[1{'0' * 5000}, 1]]"}, "which is not JSON"),
        ({"positive": "[[32769, 1]]"}, "an x and a y are expected, 0 to 32768 pixels"),
        ({"positive": "[" * 800 + "]" * 800}, "an x and a y are expected"),
        ({"positive": '[{"x": 1, "y": 2, "label": -1}]'}, "a point with the label -1, but 1 (on the object) or 0"),
        ({"positive": json.dumps([[1, 2]] * 257)}, "positive has 257 points, but at most 256"),
        ({"positive": " " * 200_001}, "positive has 200001 characters"),
        ({"positive": "", "box": f"[1{'0' * 400}, 1, 2, 3]"}, "one box is expected"),
        ({"positive": "", "negative": "x"}, "negative is 'x'"),
        ({"positive": "", "box": "[1, 2, 3]"}, "box is [1, 2, 3], but one box is expected"),
        ({"positive": "", "box": "[[1, 2, 3, 4], [5, 6, 7, 8]]"}, "one box is expected"),
        ({"positive": "", "box": '{"x": 1}'}, "one box is expected"),
        ({"positive": "", "box": '{"x": 1, "y": 2, "width": null, "height": 3}'}, "one box is expected"),
    ],
)
def test_other_strings_are_named(strings, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Prompt.from_strings(**strings)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(), "no point on the object and no box"),
        (Prompt(negative=((1.0, 1.0),)), "no point on the object"),
        (Prompt(((41.0, 5.0),)), "(41, 5) is outside of the image, which has 40 x 30"),
        (Prompt(((5.0, 5.0),), ((-1.0, 5.0),)), "(-1, 5) is outside"),
        (Prompt(box=(5.0, 5.0, 41.0, 20.0)), "box 5, 5, 41, 20 does not lie in the image of 40 x 30"),
        (Prompt(box=(5.0, 5.0, 5.0, 20.0)), "does not lie in the image"),
        (Prompt(((1.0, 1.0),) * 257), "257 points, but at most 256"),
        (Prompt(text="a dog"), "tiny got the text 'a dog', but understands points and boxes only; use SAM 3"),
    ],
)
def test_a_prompt_has_to_fit_the_picture(prompt, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        prompt.check((30, 40), "tiny")


class Counting:
    """A segmenter that notes what it is given."""

    name, module, memory = "counting", None, 0

    def __init__(self, size: int = 1000):
        self.size, self.prepared = size, 0

    def prepare(self, image: Tensor) -> Prepared:
        self.prepared += 1
        return Prepared((image.shape[1], image.shape[2]), {"x": torch.zeros(self.size, dtype=torch.uint8)})

    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        return Segmentation.of(torch.zeros(prepared.size), 0.5)


def pictures(count: int) -> list[Tensor]:
    return list(torch.rand(count, 1, 4, 5, 3, generator=torch.Generator().manual_seed(0)))


def test_the_cache_knows_a_picture_by_its_content() -> None:
    segmenter, cache = Counting(), Cache()
    (picture,) = pictures(1)
    first = cache.prepare(segmenter, picture)
    assert cache.prepare(segmenter, picture.clone()[0]) is first
    other = picture.clone()
    other[0, 3, 4, 2] += 1 / 512
    assert cache.prepare(segmenter, other) is not first
    assert cache.prepare(segmenter, picture.reshape(1, 5, 4, 3)) is not first
    assert cache.prepare(Counting(), picture) is not first
    assert segmenter.prepared == 3


def test_the_cache_is_bounded_by_count_and_bytes() -> None:
    segmenter, cache = Counting(), Cache(count=3, size=2500)
    first, second, third, large = pictures(4)
    kept = cache.prepare(segmenter, first)
    cache.prepare(segmenter, second)
    assert cache.prepare(segmenter, first) is kept  # now the second is the least lately used
    cache.prepare(segmenter, third)
    assert (len(cache), cache.nbytes) == (2, 2000)
    assert cache.prepare(segmenter, first) is kept
    assert segmenter.prepared == 3
    segmenter.size = 3000
    cache.prepare(segmenter, large)  # larger than the cache: given, not kept, and nothing goes for it
    assert cache.prepare(segmenter, first) is kept
    small = Cache(count=1)
    segmenter.size = 10
    for picture in (first, second):
        small.prepare(segmenter, picture)
    assert len(small) == 1
    small.clear()
    assert (len(small), small.nbytes) == (0, 0)


def test_the_cache_keeps_no_segmenter_and_forgets_with_it() -> None:
    cache, segmenter = Cache(), Counting()
    cache.prepare(segmenter, pictures(1)[0])
    assert len(cache) == 1
    del segmenter
    gc.collect()
    assert len(cache) == 0


def test_several_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="There are 2 images, but one is expected"):
        Cache().prepare(Counting(), torch.zeros(2, 4, 4, 3))
