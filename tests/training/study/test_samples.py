"""Folders and manifests of samples, and which samples a rater gets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from training.evaluate.study.material import prepare
from training.evaluate.study.plan import Settings, draw, scales_of
from training.evaluate.study.samples import CONTROL, digest_of, read_samples, systems_of

from .material import write_samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "samples", items=4, systems=("ours", "audioldm", "audioldm2"))


def test_a_folder_is_read(folder: Path):
    (folder / "audioldm" / "item3.wav").unlink()
    items = read_samples(folder)
    assert [item.name for item in items] == ["item0", "item1", "item2", "item3"]
    assert systems_of(items) == ["audioldm", "audioldm2", "ours"]
    assert list(items[3].sounds) == ["audioldm2", "ours"]
    assert items[0].object == "dog 0"
    assert items[1].mask is None
    assert scales_of(items[0], "rate") == ("OVL", "RET", "REI", "REO")
    assert scales_of(items[1], "rate") == ("OVL", "RET", "REI")
    assert scales_of(items[0], "prefer") == ("preference",)


def test_a_manifest_gives_the_same(folder: Path):
    plain = read_samples(folder)
    entries = [
        {
            "name": item.name,
            "image": item.image.name,
            "mask": item.mask.name if item.mask else None,
            "text": item.text,
            "object": item.object,
            "sounds": {system: f"{system}/{path.name}" for system, path in item.sounds.items()},
        }
        for item in reversed(plain)
    ]
    (folder / "samples.json").write_text(json.dumps({"samples": entries}))
    assert read_samples(folder) == plain
    (folder / "item1.txt").write_text("no longer read")
    before = digest_of(plain)
    assert digest_of(read_samples(folder)) == before
    soundfile.write(folder / "ours" / "item1.wav", np.zeros(100), 16000)
    assert digest_of(read_samples(folder)) != before


def entry(**changed: object) -> str:
    plain = {"name": "a", "image": "item0.png", "text": "a dog", "sounds": {"ours": "ours/item0.wav"}}
    return json.dumps({"samples": [plain | changed]})


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("[1]", "an object"),
        ("{", "manifest"),
        ('{"samples": []}', "0 values"),
        (entry(extra=1), "extra"),
        (entry(image="../outside.png"), "not a file in"),
        (entry(image="/etc/hostname"), "not a file in"),
        (entry(image="link.png"), "not a file in"),
        (entry(image="missing.png"), "not a file in"),
        (entry(image="item0.txt"), "ends in"),
        (entry(sounds={"ours": "item0.png"}), "ends in"),
        (entry(sounds={"../ours": "ours/item0.wav"}), "cannot name"),
        (entry(sounds={CONTROL: "ours/item0.wav"}), "cannot name"),
        (entry(sounds={}), "0 values"),
        (entry(name="a\u202eb"), "cannot name"),
        (entry(text="x" * 501), "one line"),
        (entry(text="two\nlines"), "one line"),
        (entry(text=" "), "no text"),
        (entry(text=7), "str is expected"),
    ],
)
def test_bad_manifests_are_refused_in_a_sentence(folder: Path, manifest: str, said: str):
    Image.new("RGB", (9, 9)).save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "samples.json").write_text(manifest)
    with pytest.raises(ValueError, match=said) as caught:
        read_samples(folder)
    assert str(caught.value).endswith(".")


def test_bad_folders_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="not a folder"):
        read_samples(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        read_samples(tmp_path / "empty")
    (folder / "ours" / "item0.flac").write_bytes(b"")
    with pytest.raises(ValueError, match="several sounds"):
        read_samples(folder)
    (folder / "ours" / "item0.flac").unlink()
    (folder / "item0.txt").unlink()
    with pytest.raises(ValueError, match=r"item0\.txt"):
        read_samples(folder)


def test_files_are_checked_before_anyone_rates(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (folder / "ours" / "item2.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(ValueError, match=r"item2\.wav cannot be read as audio"):
        prepare(read_samples(folder), [], out, 0)
    soundfile.write(folder / "ours" / "item2.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match="0 s long"):
        prepare(read_samples(folder), [], out, 0)
    soundfile.write(folder / "ours" / "item2.wav", np.zeros(50), 16000)
    Image.new("L", (80, 60)).save(folder / "item2_mask.png")
    with pytest.raises(ValueError, match="selects nothing"):
        prepare(read_samples(folder), [], out, 0)
    Image.new("L", (60, 80), 255).save(folder / "item2_mask.png")
    with pytest.raises(ValueError, match="60 x 80 pixels, but a mask in the shape of its image, 80 x 60"):
        prepare(read_samples(folder), [], out, 0)
    Image.new("L", (160, 120), 255).save(folder / "item2_mask.png")  # finer than its image
    assert len(prepare(read_samples(folder), ["item1"], out, 0).sounds) == 4 * 3 + 1


def test_a_rater_gets_all_systems_of_the_least_rated_items(folder: Path):
    items = read_samples(folder)
    settings = Settings(items_per_rater=2, controls=1, seed=3)
    used: Counter[str] = Counter()
    for rater in range(1, 9):
        asked = draw(items, settings, rater, used)
        assert asked == draw(items, settings, rater, used)
        sounds = [each for each in asked if each.system != CONTROL]
        assert len(asked) == len(sounds) + 1
        assert len(set(sounds)) == len(sounds) == 6
        assert len({each.item for each in sounds}) == 2
        used.update({each.item for each in sounds})
        assert max(used.values()) - min(used[item.name] for item in items) <= 1


def test_pairs_are_of_the_chosen_system_and_sides_are_drawn(folder: Path):
    items = read_samples(folder)
    every = draw(items, Settings("prefer", controls=0), 1, Counter())
    assert {frozenset((each.system, each.other)) for each in every} == {
        frozenset(pair) for pair in (("ours", "audioldm"), ("ours", "audioldm2"), ("audioldm", "audioldm2"))
    }
    some = [draw(items, Settings("prefer", controls=2, against="ours"), rater, Counter()) for rater in range(20)]
    assert all(len(asked) == 4 * 2 + 2 for asked in some)
    pairs = [each for asked in some for each in asked if CONTROL not in (each.system, each.other)]
    first = sum(each.system == "ours" for each in pairs)
    assert sum("ours" in (each.system, each.other) for each in pairs) == 160
    assert 55 < first < 105  # of 160: within four standard deviations of the half
    assert {CONTROL} < {each.system for asked in some for each in asked}
    with pytest.raises(ValueError, match="two systems"):
        draw(items, Settings("prefer", controls=2, against="nobody"), 1, Counter())
