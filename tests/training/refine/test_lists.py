"""Which clips there are, and which are out before a video is opened."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from training.refine.lists import list_clips
from training.refine.ontology import ClassSet, read_ontology
from training.refine.settings import ListSettings, read_settings

from .material import settings_of, settings_text


def test_a_class_is_dropped_with_all_kinds_of_it_except_the_spared_ones(material: Path) -> None:
    ontology = read_ontology(material / "ontology.json")
    chosen = ClassSet(["/m/music", "ra*"], ["/m/bell"], ontology)
    assert chosen.first(["Bark, yap", "Guitar"], ["/m/bark", "/m/guitar"]) == "Guitar"
    assert chosen.first(["Chime"], ["/m/chime"]) is None
    assert chosen.first(["Music"], ["/m/music"]) == "Music"
    assert chosen.first(["RAIN"], [""]) == "RAIN"  # by its name, whatever the case
    with pytest.raises(ValueError, match="none of that id"):
        ClassSet(["/m/unknown"], [], ontology)


def test_categories_lie_directly_below_the_roots(material: Path) -> None:
    categories = read_ontology(material / "ontology.json").categories
    assert categories["/m/bark"] == categories["/m/dog"] == "/m/animal"
    assert categories["/m/chime"] == "/m/music"
    assert categories["/m/sounds"] == "/m/sounds"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '[{"id": "/m/a"}]',
        '[{"id": "/m/a", "name": 3, "child_ids": []}]',
        '[{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]}]',
        "[" * 100_000,
    ],
)
def test_another_file_is_no_ontology(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ontology.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"ontology\.json"):
        read_ontology(file)


def test_a_circle_in_the_ontology_ends(tmp_path: Path) -> None:
    file = tmp_path / "ontology.json"
    entries = [{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]}, {"id": "/m/b", "name": "B", "child_ids": ["/m/a"]}]
    file.write_text(json.dumps(entries))
    ontology = read_ontology(file)
    assert ontology.below(["/m/a"]) == {"/m/a", "/m/b"}
    assert ontology.categories == {}


def test_an_audioset_list_is_filtered_by_labels_benchmarks_and_files(material: Path, tmp_path: Path) -> None:
    listed = list_clips(settings_of(material, tmp_path / "out"))
    assert [row["id"] for row in listed.rows] == [
        "dog0_0", "dog0_2", "dog1_0", "rain0_1", "rain1_0", "chime0_0", "late0_5", "mute0_0", "silent0_0", "broken0_0",
    ]  # fmt: skip
    out = {row["id"]: (row["dropped_by"], row["reason"]) for row in listed.out}
    assert out == {
        "song0_0": ("labels", "It is labelled Guitar."),
        "gone0_0": ("lists", "There is no video gone0 or gone0_0 in videos."),
        "bench0_0": ("lists", "The list benchmark.txt keeps this video out."),
    }
    first = listed.rows[1]
    assert (first["offset"], first["seconds"], first["licence"]) == (2.0, 2.0, "CC-BY-4.0")
    assert (first["labels"], first["codes"]) == (["Bark, yap"], ["/m/bark"])
    assert first["label_caption"] == "Bark, yap"
    assert first["source"] == "https://youtu.be/dog0?t=2"


def test_a_folder_is_cut_into_clips_labelled_by_subfolders(material: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "Dog").mkdir(parents=True)
    shutil.copy(material / "videos" / "dog0.mp4", tmp_path / "in" / "Dog" / "mine.mp4")
    shutil.copy(material / "videos" / "rain0.mp4", tmp_path / "in" / "other.mp4")
    shutil.copy(material / "videos" / "broken0.mp4", tmp_path / "in" / "x.mp4")
    base = settings_of(material, tmp_path / "out")
    folder = ListSettings(form="folder", videos=str(tmp_path / "in"))
    listed = list_clips(dataclasses.replace(base, seconds=2.5, lists=(folder,)))
    assert [(row["id"], row["labels"], row["codes"]) for row in listed.rows] == [
        ("Dog/mine_0", ["Dog"], ["/m/dog"]),
        ("Dog/mine_2.5", ["Dog"], ["/m/dog"]),
        ("other_0", [], []),
        ("other_2.5", [], []),
    ]
    assert [(row["id"], row["dropped_by"]) for row in listed.out] == [("x_0", "lists")]
    assert listed.out[0]["reason"].startswith("It cannot be opened")


def test_pipes_links_to_nothing_and_names_that_are_no_text_are_reasons(material: Path, tmp_path: Path) -> None:
    videos = tmp_path / "in"
    videos.mkdir()
    os.mkfifo(videos / "pipe.mp4")  # opening it would wait without end
    (videos / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (videos / "round.mp4").symlink_to("round.mp4")
    shutil.copy(material / "videos" / "dog0.mp4", os.fsencode(videos) + b"/bad\xff.mp4")
    base = settings_of(material, tmp_path / "out")
    folder = ListSettings(form="folder", videos=str(videos))
    listed = list_clips(dataclasses.replace(base, lists=(folder,)))
    assert not listed.rows
    reasons = {row["id"]: row["reason"] for row in listed.out}
    assert sorted(reasons) == ["bad\\udcff_0", "gone_0", "pipe_0", "round_0"]
    assert reasons["pipe_0"] == "It cannot be opened (pipe.mp4 is no ordinary file.)."
    assert reasons["bad\\udcff_0"] == "It cannot be opened (the name bad\\udcff.mp4 is not UTF-8; rename it)."
    (tmp_path / "list.csv").write_text("gone,0,Dog,train\nround,0,Dog,train\n")
    named = ListSettings(form="vggsound", csv=str(tmp_path / "list.csv"), videos=str(videos))
    listed = list_clips(dataclasses.replace(base, lists=(named,)))
    assert [row["dropped_by"] for row in listed.out] == ["lists", "lists"]


def test_a_clip_of_two_lists_counts_once_and_another_file_is_another_version(material: Path, tmp_path: Path) -> None:
    settings = settings_of(material, tmp_path / "out")
    listed = list_clips(dataclasses.replace(settings, lists=(*settings.lists, *settings.lists)))
    ids = [row["id"] for row in (*listed.rows, *listed.out)]
    assert len(ids) == len(set(ids)) == listed.twice == 13
    shutil.copytree(material / "videos", tmp_path / "videos")
    again = settings_text(material, tmp_path / "out").replace(
        f"videos: {material}/videos", f"videos: {tmp_path}/videos"
    )
    (tmp_path / "again.yaml").write_text(again)
    before = list_clips(read_settings(tmp_path / "again.yaml")).rows[0]["version"]
    (tmp_path / "videos" / "dog0.mp4").write_bytes((material / "videos" / "rain1.mp4").read_bytes() + b" ")
    assert list_clips(read_settings(tmp_path / "again.yaml")).rows[0]["version"] != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ontology=''", "ontology is missing"),
        ("matching={scorer: names}", "matching.sounds is missing"),
        ("matching={}", "matching.model is missing"),
        ("rephrase={by: endpoint}", "rephrase.url"),
        ("captions={frames: blip}", "captions.blip is missing"),
        ("events={threshold: 0.05}", "events.threshold"),
        ("clip={}", "Unknown key"),
        ("seconds=0", "seconds"),
        ("lists=[{form: folder, videos: v, csv: x}]", "csv"),
    ],
)
def test_bad_settings_are_named(material: Path, tmp_path: Path, change: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(settings_text(material, tmp_path / "out"))
    with pytest.raises(ValueError, match=said):
        read_settings(file, [change])


def test_written_settings_are_read_back(material: Path, tmp_path: Path) -> None:
    settings = settings_of(material, tmp_path / "out")
    (tmp_path / "again.yaml").write_text(settings.to_yaml())
    assert read_settings(tmp_path / "again.yaml") == settings
