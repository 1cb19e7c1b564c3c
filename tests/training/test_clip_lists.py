"""Lists of clips as their publishers write them, and as they come when something went wrong on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from training.data.clip_lists import Clip, read_clips, read_ids, without
from training.data.prepare import app
from training.data.shard_format import ShardIndex

from .video_material import write_video

HEADER = "audiocap_id,youtube_id,start_time,caption\n"
VGGSOUND = '---g-f_I2yQ,1,"people marching",test\n--0PQM4-hqg,30,waterfall burbling,train\n"-0ap",2,dog,train\n'
AUDIOSET = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2, num_segs=2\n"
    '# YTID, start_seconds, end_seconds, positive_labels\n--4gqARaEJE, 0.000, 10.000, "/m/1,/m/2"\n'
    '-00_#x, 30.500, 40.500, "/m/2"\n'
)
CLASSES = 'index,mid,display_name\n0,/m/1,"Speech, woman"\n1,/m/2,Dog\n'


def listed(tmp_path: Path, data: str | bytes, name: str = "list.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def test_vggsound_has_no_header_and_both_splits(tmp_path: Path) -> None:
    clips = read_clips(listed(tmp_path, VGGSOUND))
    assert clips[0] == Clip("---g-f_I2yQ", 1.0, None, ("people marching",), None, "test")
    assert [clip.id for clip in clips] == ["---g-f_I2yQ_1", "--0PQM4-hqg_30", "-0ap_2"]
    kept, out = without(clips, [], "train")
    assert [clip.video for clip in kept] == ["--0PQM4-hqg", "-0ap"]
    assert [(left.id, left.why) for left in out] == [("---g-f_I2yQ_1", "It is of the split test.")]
    assert without(clips, [], None) == (clips, [])


def test_audioset_has_times_and_several_labels(tmp_path: Path) -> None:
    clips = read_clips(listed(tmp_path, AUDIOSET), classes=listed(tmp_path, CLASSES, "classes.csv"))
    assert clips == [
        Clip("--4gqARaEJE", 0.0, 10.0, ("Speech, woman, Dog",), (0, 1)),
        Clip("-00_#x", 30.5, 10.0, ("Dog",), (1,)),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_and_encodings(encoding: str, end: str, tmp_path: Path) -> None:
    text = HEADER + '1,x,30,"Ein Löwe, der ""brüllt"""\n\n2,y,0.5,a\u2028b\n3,x,30.000,again,\n'
    clips = read_clips(listed(tmp_path, text.replace("\n", end).encode(encoding)))
    assert clips == [
        Clip("x", 30.0, None, ('Ein Löwe, der "brüllt"', "again")),
        Clip("y", 0.5, None, ("a\u2028b",)),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('0,v0,30,"A dog barks\n1,v1,30,A cat\n', "line 2: a quote does not close on its line"),
        ('0,v0,30,"A dog barks\n1,v1,30,says "\n', "line 2: a quote does not close on its line"),
        ('0,v0,30,fine\n1,"v1,30,A cat\n2,v2,30,"a"\n', "line 3: "),
        ('0,v0,30,"A dog" barks\n', r"line 2: '.' expected after"),
        (f"0,v0,30,{'x' * 200_000}\n", "line 2: field larger than field limit"),
        ("0,v0,30,a\0b\n", "line 2: it has a NUL"),
        ("0,v0,30,A dog, and a man\n", "line 2: .*a caption with commas stands in quotes"),
        ("0,v0,30\n", "line 2: .* is no row of AudioCaps"),
        ("0,v0,1e15,x\n", "line 2: .* is no row"),
        ("0,v0,1000000000000000,x\n", "line 2: .* is no row"),
        ("0,v0,nan,x\n", "line 2: .* is no row"),
        ("0,v0,-1,x\n", "line 2: .* is no row"),
        ("0,v0,0x1E,x\n", "line 2: .* is no row"),
        ("0,v0,1_0,x\n", "line 2: .* is no row"),
        ("0,v0,٣,x\n", "line 2: .* is no row"),
        ("0,v0,inf,x\n", "line 2: .* is no row"),
        ("0,,3,x\n", "line 2: .* is no row"),
        ("0,../../v,3,x\n", "line 2: .* is no row"),
    ],
)
def test_lines_that_are_wrong_are_named(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"list\.csv, {words}") as error:
        read_clips(listed(tmp_path, HEADER + row), "audiocaps")
    assert len(str(error.value)) < 800


def test_the_list_whose_quote_never_closes(tmp_path: Path) -> None:
    rows = "".join(f"{i},abcdefghij{i},30,A dog barks and a man speaks number {i}\n" for i in range(5))
    file = listed(tmp_path, f'{HEADER}0,v0,30,"A dog barks\n{rows}')
    command = ["videos", "--csv", str(file), "--videos", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "line 2: a quote does not close on its line ('0,v0,30,\"A dog barks' ...)" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_other_bad_lists_are_one_sentence(tmp_path: Path) -> None:
    bad = {
        "vgg.csv": (VGGSOUND + "x,1,dog,validation\n", r"vgg\.csv, line 4: .* no row of VGG-Sound"),
        "latin.csv": ((HEADER + "0,a,1,x\n0,b,1,Löwe\n").encode("latin-1"), r"latin\.csv, line 3: it cannot be read"),
        "utf16.csv": (b"\xff\xfea", r"utf16\.csv, line 1: it cannot be read"),
        "empty.csv": ("", "empty.csv has the columns , but"),
    }
    for name, (data, words) in bad.items():
        with pytest.raises(ValueError, match=words):
            read_clips(listed(tmp_path, data, name))
    for path in (Path("/dev/zero"), tmp_path, tmp_path / "none.csv"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_clips(path)
    with pytest.raises(ValueError, match=r"classes\.csv, line 2: .* is no class"):
        read_clips(
            listed(tmp_path, AUDIOSET), classes=listed(tmp_path, CLASSES.replace("0,/m", "zero,/m"), "classes.csv")
        )


def test_videos_are_kept_out_by_id(tmp_path: Path) -> None:
    clips = [Clip(video, 1.0, None, ("x",)) for video in "abcde"]
    audiocaps = listed(tmp_path, HEADER + "7,a,77,another clip of the video\n", "test.csv")
    audioset = listed(tmp_path, '# YTID, start_seconds, end_seconds, positive_labels\nb, 0.0, 10.0, "/m/2"\n', "e.csv")
    vggsound = listed(tmp_path, "c,5,dog,test\n", "v.csv")
    plain = listed(tmp_path, "\ufeffd\r\n\r\nnever\r\n", "ids.txt")
    assert (read_ids(audiocaps), read_ids(audioset), read_ids(vggsound)) == ({"a"}, {"b"}, {"c"})
    kept, out = without(clips, [audiocaps, audioset, vggsound, plain], "train")
    assert [clip.video for clip in kept] == ["e"]
    assert [(left.id, left.why) for left in out] == [
        ("a_1", "The list test.csv keeps this video out."),
        ("b_1", "The list e.csv keeps this video out."),
        ("c_1", "The list v.csv keeps this video out."),
        ("d_1", "The list ids.txt keeps this video out."),
    ]
    with pytest.raises(ValueError, match=r"ids\.txt, line 1: .* a YouTube id is expected"):
        read_ids(listed(tmp_path, "two words\n", "ids.txt"))


def test_prepare_keeps_the_test_set_out(tmp_path: Path) -> None:
    for name in ("--0PQM4-hqg_000030", "-0ap_000002", "---g-f_I2yQ_000001"):
        write_video(tmp_path / f"{name}.mp4", 3)
    test = listed(tmp_path, HEADER + "7,-0ap,77,x\n", "test.csv")
    command = ["videos", "--csv", str(listed(tmp_path, VGGSOUND)), "--videos", str(tmp_path), "--workers", "0"]
    settings = ["--seconds", "2", "--frames", "1", "--size", "32", "--exclude", str(test)]
    result = CliRunner().invoke(app, [*command, *settings, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 samples in 1 shards" in result.output
    assert "2 files or rows are left out" in result.output
    index = ShardIndex.read(tmp_path / "out")
    assert (index.samples, index.skipped) == (1, ())
    assert {left.id: left.why for left in index.left_out} == {
        "---g-f_I2yQ_1": "It is of the split test.",
        "-0ap_2": "The list test.csv keeps this video out.",
    }


def test_damaged_lists_are_read_or_one_sentence(tmp_path: Path) -> None:
    """Changed at random, seeded: whatever comes of it, it is clips or a sentence that names the file."""
    rng = np.random.default_rng(5)
    letters = list("\",\n\r\0#;abc019.-+e \u00e9\u2028'\t".encode())
    whole = [(HEADER + '1,abc,30,"a dog, barks"\n2,def,0,cat\n').encode(), VGGSOUND.encode(), AUDIOSET.encode()]
    refused = 0
    for number in range(600):
        file, classes = bytearray(whole[number % 3]), bytearray(CLASSES.encode())
        for data in (file, classes):
            for _ in range(int(rng.integers(0, 5))):
                at = int(rng.integers(len(data)))
                data[at : at + int(rng.integers(0, 3))] = bytes(rng.choice(letters, int(rng.integers(0, 4))).tolist())
        path = listed(tmp_path, bytes(file))
        for read in (lambda path: read_clips(path, None, tmp_path / "classes.csv"), read_ids):
            listed(tmp_path, bytes(classes), "classes.csv")
            try:
                read(path)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
                assert ".csv" in str(error)  # noqa: PT017
    assert 200 < refused < 1100
