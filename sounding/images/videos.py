"""Frames and masks out of video files, or out of folders with one image per frame."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..utils.libraries import importing
from ..utils.messages import printable
from ..video import Frame, check_frame_rate
from .files import read_image, read_mask
from .opening import TooLarge, check_size

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

# ffmpeg's names of what is read: formats that hold all of the video, and name no further files or addresses.
FORMATS = "mov,matroska,webm,avi,gif,mpegts,flv,ogg"
Read = Callable[[], Tensor]


def frame_rate_of(video: Path, frame_rate: float | None = None) -> float:
    """Frames per second: as given, or a video file's own.

    Raises:
        ValueError: it is out of range; a folder without a given one; or not a video.
    """
    if frame_rate is None:
        if video.is_dir():
            raise ValueError(f"{_called(video)} is a folder of images, which has no frame rate; give it by --fps.")
        frame_rate = _stream_rate(video)
    check_frame_rate(frame_rate)
    return frame_rate


def read_video(video: Path, masks: Path) -> Iterator[Frame]:
    """Frames of a video and of a video of masks, white on the object, at any sizes; each one is a file or a folder.

    Images in a folder are taken in the order of their names, numbers in these by their values: 9.png comes before
    10.png. Only one frame is in memory at a time.

    Raises:
        ValueError: a file or an image that cannot be read, an empty folder, or numbers of frames that differ.
    """
    lists = [_images(folder) if folder.is_dir() else None for folder in (video, masks)]
    if lists[0] is not None and lists[1] is not None and len(lists[0]) != len(lists[1]):
        raise ValueError(
            f"{_called(video)} has {len(lists[0])} images and {_called(masks)} has {len(lists[1])}, but one mask per "
            "frame is expected; give the masks of the same frames."
        )
    images: Iterator[Read | None] = _decoded(video) if lists[0] is None else map(_image_reader, lists[0])
    whites: Iterator[Read | None] = _decoded(masks) if lists[1] is None else map(_mask_reader, lists[1])
    for number, (image, mask) in enumerate(zip_longest(images, whites)):
        if image is None or mask is None:
            short, long = (video, masks) if image is None else (masks, video)
            raise ValueError(
                f"{_called(short)} has {number} frames and {_called(long)} more, but one mask per frame is expected; "
                "give the masks of the same frames."
            )
        white = mask()
        yield Frame(white.mean(dim=-1) if white.ndim == 3 else white, image)


def _image_reader(path: Path) -> Read:
    return lambda: read_image(path)[0]


def _mask_reader(path: Path) -> Read:
    return lambda: read_mask(path)[0]


def _images(folder: Path) -> list[Path]:
    """The files of a folder, but for hidden ones."""
    found = sorted(
        (path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")),
        key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)],
    )
    if not found:
        raise ValueError(f"{_called(folder)} is an empty folder, but one image per frame is expected.")
    return found


def _stream_rate(path: Path) -> float:
    """A video's frames per second."""
    with _reading(path), _opened(path) as container:
        rate = container.streams.video[0].average_rate if container.streams.video else None
    if rate is None:
        raise ValueError(f"{_called(path)} has no frames with a frame rate; give a video, or its frame rate by --fps.")
    return float(rate)


def _decoded(path: Path) -> Iterator[Read]:
    """Each frame of a video, upright, to be made an image [H, W, 3] 0..1 of."""
    with _reading(path), _opened(path) as container:
        if not container.streams.video:
            raise ValueError("it has no images")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is not known")
        check_size((stream.codec_context.width, stream.codec_context.height), _called(path))
        for frame in container.decode(stream):
            check_size((frame.width, frame.height), _called(path))  # it may change within a stream
            yield lambda frame=frame: _pixels(frame, path)  # type: ignore[misc]


def _pixels(frame: av.VideoFrame, path: Path) -> Tensor:
    """[H, W, 3] float 0..1, turned upright."""
    turns = round(frame.rotation / 90) if abs(frame.rotation) <= 180 else 0  # a damaged matrix has no angle
    with _reading(path):
        return torch.from_numpy(np.rot90(frame.to_ndarray(format="rgb24"), turns).copy()).float() / 255


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    with importing("av"):
        import av

    if not path.is_file() and path.exists():
        raise ValueError("it is no ordinary file")  # reading others may never end
    with path.open("rb") as file, av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
        yield container


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what is wrong with a video in one sentence."""
    with importing("av"):
        import av

    try:
        yield
    except (TooLarge, ImportError):
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{_called(path)} cannot be read as a video ({printable(why)}); give an MP4, WebM or a folder of images."
        ) from None


def _called(path: Path) -> str:
    return printable(os.fspath(path)[-400:])
