"""`sounding generate --video` on a tiny checkpoint: files and folders, what is written, and what does not fit."""

from __future__ import annotations

import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.images.videos import frame_rate_of, read_video

RATE = 16_000


def write_video(path: Path, frames: list[np.ndarray], frame_rate: int = 8) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A video of a second and a half, its masks (white from 0.5 to 1 s), and the same as folders."""
    place = tmp_path_factory.mktemp("video")
    masks = np.zeros((12, 64, 96, 3), np.uint8)
    masks[4:8, 16:48, 56:88] = 255
    images = np.full_like(masks, 90)
    images[masks > 0] = 200
    write_video(place / "clip.mp4", list(images))
    write_video(place / "masks.mp4", list(masks))
    write_video(place / "short.mp4", list(masks[:9]))
    for name, frames in {"images": images, "masks": masks, "few": masks[:5]}.items():
        (place / name).mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(place / name / f"{number:03}.png")
    (place / "empty").mkdir()
    (place / "text.mp4").write_text("no video")
    clip = (place / "clip.mp4").read_bytes()
    (place / "codec.mp4").write_bytes(clip.replace(b"avc1", b"none"))
    turned = bytearray(clip)
    matrix = turned.index(b"tkhd") + 44
    turned[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    (place / "turned.mp4").write_bytes(turned)
    turned[matrix : matrix + 36] = bytes(36)
    (place / "damaged.mp4").write_bytes(turned)
    os.mkfifo(place / "pipe.mp4")
    (place / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nclip.mp4\n")
    (place / "tiny.safetensors").symlink_to(tiny_checkpoint)
    return place


def sounding(folder: Path, video: str, masks: str, *arguments: str) -> Result:
    files = ("--video", str(folder / video), "--mask-video", str(folder / masks))
    common = ("--model", str(folder / "tiny.safetensors"), "--device", "cpu", "--steps", "1")
    return CliRunner().invoke(app, ["generate", *files, *common, *arguments])


def test_files_and_folders_are_the_same_video(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = sounding(folder, "clip.mp4", "masks.mp4", "--out", str(out), "--place", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["frames"], report["frame_rate"], report["looked_at"]) == (12, 8, [4])
    assert report["times"] == [[0.5, 1.0]]
    samples, rate = soundfile.read(out)
    assert (samples.shape, rate) == ((RATE * 3 // 2, 2), RATE)
    assert not samples[: RATE // 2].any()
    assert not samples[RATE:].any()
    left, right = np.square(samples[RATE // 2 : RATE]).mean(axis=0)
    assert right > 4 * left > 0  # its centre is at three quarters of the width
    files, folders = (
        list(read_video(folder / a, folder / b)) for a, b in (("clip.mp4", "masks.mp4"), ("images", "masks"))
    )
    for one, other in zip(files, folders, strict=True):
        assert (one.mask - other.mask).abs().max() < 0.1  # lossy
        assert (one.image() - other.image()).abs().mean() < 0.03
    assert frame_rate_of(folder / "clip.mp4") == 8


def test_a_folder_has_the_frame_rate_that_is_given(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = sounding(folder, "images", "masks.mp4", "--out", str(out), "--fps", "24", "--rate", "48000")
    assert result.exit_code == 0, result.output
    samples, rate = soundfile.read(out)
    assert (samples.shape, rate) == ((24_000,), 48_000)


def test_frames_are_upright(folder: Path) -> None:
    """A matrix turns all of a video; one that is damaged turns nothing."""
    turned, plain, damaged = (
        next(read_video(folder / f"{name}.mp4", folder / f"{name}.mp4")).image()
        for name in ("turned", "clip", "damaged")
    )
    assert torch.equal(turned, plain.rot90(-1))
    assert torch.equal(damaged, plain)


def test_images_of_a_folder_come_by_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("L", (2, 2), number).save(tmp_path / f"frame {number}.png")
    assert [round(255 * float(frame.mask.max())) for frame in read_video(tmp_path, tmp_path)] == [*range(12)]


@pytest.mark.parametrize(
    ("video", "masks", "arguments", "words"),
    [
        ("clip.mp4", "short.mp4", (), "short.mp4 has 9 frames and "),
        ("images", "few", ("--fps", "8"), "has 12 images and "),
        ("images", "masks", (), "is a folder of images, which has no frame rate; give it by --fps"),
        ("clip.mp4", "empty", (), "is an empty folder, but one image per frame"),
        ("clip.mp4", "missing", (), "does not exist; give a video"),
        ("text.mp4", "masks.mp4", (), "cannot be read as a video"),
        ("codec.mp4", "masks.mp4", (), "cannot be read as a video (its codec is not known)"),
        ("pipe.mp4", "masks.mp4", (), "cannot be read as a video (it is no ordinary file)"),
        ("list.m3u8", "masks.mp4", (), "cannot be read as a video"),
        ("clip.mp4", "masks.mp4", ("--fps", "61"), "The frame rate is 61, but 1 to 60"),
        ("clip.mp4", "masks.mp4", ("--follow-size", "nan"), "follow is nan"),
        ("clip.mp4", "masks.mp4", ("--seconds", "3"), "--seconds came with --video, which does not take it"),
        ("clip.mp4", "masks.mp4", ("--mask", "x.png"), "--mask came with --video"),
        ("clip.mp4", "masks.mp4", ("--jobs", "x.jsonl"), "--jobs came with --video"),
        ("clip.mp4", "masks.mp4", ("--steps", "5000"), "--steps is 5000"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    folder: Path, tmp_path: Path, video: str, masks: str, arguments: tuple[str, ...], words: str
) -> None:
    result = sounding(folder, video, masks, *arguments, "--out", str(tmp_path / "out.wav"))
    assert result.exit_code == 1, result.output
    assert words in result.stderr.replace("\n", " ")
    assert result.stderr.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_what_belongs_to_videos_says_so(tmp_path: Path) -> None:
    for arguments, words in (
        (("--fps", "8"), "--fps came without --video"),
        (("--video", "x.mp4", "--out", "x.wav"), "--video came without --mask-video, which it needs"),
        (("--video", "x.mp4", "--mask-video", "y.mp4"), "--video came without --out"),
    ):
        result = CliRunner().invoke(app, ["generate", *arguments])
        assert result.exit_code == 1
        assert words in result.stderr
