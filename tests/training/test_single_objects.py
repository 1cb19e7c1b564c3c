"""Single objects out of raw shards, which fine-tuning rehearses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.shard_format import Sample
from training.data.shard_writer import make_shards
from training.data.single_objects import read_single_objects
from training.data.source import Source
from training.finetune.plan import known_objects

# Name -> masks, sounding, labels, captions, level of the sound.
CLIPS: dict[str, tuple[int, tuple[int, ...] | None, tuple[int, ...] | None, tuple[str, ...], float]] = {
    "one mask": (1, None, None, ("a bell", "a small bell"), 0.3),
    "second of two": (2, (1,), (3, 4), ("a drum",), 0.3),
    "both sound": (2, (0, 1), (3, 4), ("a bell and a drum",), 0.3),
    "two masks, none named": (2, None, None, ("things",), 0.3),
    "one class, no mask": (0, None, (7,), ("a whistle",), 0.3),
    "two classes": (0, None, (7, 8), ("a whistle, a horn",), 0.3),
    "nobody knows": (0, None, None, ("something",), 0.3),
    "no caption": (1, None, None, (), 0.3),
    "silent": (1, None, None, ("a mute",), 0.0),
}


class Clips(Source):
    def __len__(self) -> int:
        return len(CLIPS)

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return list(CLIPS)[position]

    def make(self, position: int) -> Sample:
        count, sounding, labels, captions, level = CLIPS[self.name(position)]
        masks = np.zeros((count, 40, 60), np.uint8)
        for number, mask in enumerate(masks):
            mask[10:30, 5 + 25 * number : 25 + 25 * number] = 255
        return Sample(
            id=self.name(position),
            captions=captions,
            licence="CC0",
            source="the test",
            seconds=1.0,
            labels=labels,
            sounding=sounding,
            waveform=level * np.sin(np.arange(16_000) / 5),
            images=tuple(np.full((2, 40, 60, 3), 10 * position, np.uint8)),
            masks=tuple(masks),
        )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    make_shards(Clips(), out, shard_size=4)
    return out


def test_samples_of_one_sounding_object_are_taken(clips: Path) -> None:
    found = {one.id: one for one in read_single_objects(clips, 100)}
    assert list(found) == ["one mask", "second of two", "one class, no mask"]
    assert found["one mask"].captions == ("a bell", "a small bell")
    assert [one.masked for one in found.values()] == [True, True, False]
    alpha = np.asarray(found["second of two"].image.getchannel("A"))
    assert alpha[20, 40] == 255  # the second mask
    assert alpha[20, 10] == 0
    assert np.asarray(found["one class, no mask"].image.getchannel("A")).min() == 255
    assert [one.id for one in read_single_objects(clips, 1)] == ["one mask"]


def test_finetuning_rehearses_shards(clips: Path, tmp_path: Path) -> None:
    known = known_objects([str(clips)], tmp_path)
    assert [one.name for one in known] == ["one mask", "second of two", "one class, no mask"]
    assert known[0].pictures[0].cutout.size == (20, 20)
    assert float(known[0].recordings[0].abs().max()) == pytest.approx(0.5)
    assert known[0].licence == "CC0"
