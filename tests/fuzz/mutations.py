"""Valid inputs made hostile: values, structures, JSON text and bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def hostile_value(draw: random.Random) -> Any:
    """A value that a field does not expect."""
    return draw.choice(
        [
            None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**18, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e308, -1e308,
            float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "nan", "1e999", "9" * 5000, "x" * 100_000,
            "\0", "\ud800", "\x1b[31mred\x1b[0m", "a\nb", "../../etc/passwd", "/dev/zero", "C:\\con", "hf-hub:x/y",
            "https://example.org/x", "file:///etc/passwd", "local-dir:/tmp", "é\u0301\u202e", "${HOME}", "a:b", "a/b",
            [], {}, [[]], [1] * 3000, [None], ["a"], [1e400], {"a": 1}, {"": None}, nested(5), nested(90),
            [[1, 2], [3]], {str(i): i for i in range(300)}, [0] * 2, [10**9] * 3, [-1, -1], [0.5, 0.5, 0.5],
        ]
    )  # fmt: skip


def mutated(draw: random.Random, value: Any) -> Any:
    """Nested dictionaries and lists with one to three entries changed, removed or duplicated."""
    made = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = made
        while True:
            inner = list(place.values()) if isinstance(place, dict) else place
            deeper = [each for each in inner if isinstance(each, (dict, list)) and each]
            if not deeper or draw.random() < 0.3:
                break
            place = draw.choice(deeper)
        if isinstance(place, dict) and place:
            key = draw.choice(list(place))
            how = draw.random()
            if how < 0.75:
                place[key] = hostile_value(draw)
            elif how < 0.85:
                del place[key]
            else:
                place[str(hostile_value(draw))[:50]] = place[key]
        elif isinstance(place, list) and place:
            place[draw.randrange(len(place))] = hostile_value(draw)
    return made


def as_json(draw: random.Random, value: Any) -> str:
    """A value as JSON, sometimes with broken syntax."""
    text = json.dumps(value)
    how = draw.random()
    if how < 0.06:
        return text[: draw.randrange(len(text) + 1)]
    if how < 0.12:
        place = draw.randrange(len(text) + 1)
        broken = draw.choice(["[" * 100_000, '{"a":' * 30_000, "9" * 5000, '"', "NaN", "\0", "\\ud800", "//", ",", "}"])
        return text[:place] + broken + text[place:]
    return text


def damaged(draw: random.Random, data: bytes) -> bytes:
    """Bytes with some changed, removed, duplicated, or overwritten by large numbers."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not made:
            break
        place = draw.randrange(min(len(made), draw.choice((64, 512, len(made)))))
        how = draw.random()
        if how < 0.5:
            made[place] = draw.randrange(256)
        elif how < 0.65:
            made[place : place + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0")
            )
        elif how < 0.75:
            del made[place : place + draw.choice((1, 2, 7, 100))]
        elif how < 0.85:
            made[place:place] = made[place : place + draw.choice((1, 8, 300))]
        elif how < 0.92:
            del made[place:]
        else:
            made[place:place] = bytes(draw.randrange(256) for _ in range(draw.choice((1, 3, 40))))
    return bytes(made)
