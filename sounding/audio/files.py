"""Sound files: of any length and rate to mono at ours, and back to any rate and depth, atomically."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..utils.files import write_atomic
from ..utils.libraries import importing
from ..utils.messages import printable
from .resampling import check_rate, fit_length, resample
from .vorbis_comments import with_comments
from .wave_chunks import SOFTWARE, with_chunks

MAX_SECONDS = 3600.0  # of a file
_MAX_VALUES = 2**30  # samples of all channels of a file: an hour of stereo at 149 kHz
# Formats that keep rate, channels and 16 bits; what else libsndfile writes does not, or leaves files beside.
WRITTEN = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV")
_PIECE = 2**18  # values that are read or written at a time
WRITTEN_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, which all formats take
# How samples can be kept, and by which formats; those that lose some on purpose (MP3, OGG) have no depth.
DEPTHS = {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}
_LOSSY = ("MP3", "OGG")
_NO_FLOAT = (*_LOSSY, "FLAC")


@dataclass(frozen=True)
class Tags:
    """What a file says of its sound."""

    title: str
    offset: float = 0.0  # seconds after which it begins, of a track; only WAV files note it
    # Named JSON texts, such as ComfyUI's "workflow" and "prompt": comments of their own in FLAC and OGG, where the page
    # looks for them, and one JSON object as the comment of a WAV file.
    graph: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """A sound file as it is."""

    waveform: Tensor  # [channels, samples] float32, exact for samples of up to 24 bits
    sample_rate: int
    depth: str  # one of `DEPTHS` that keeps its samples: lossy files and those of more bits become floats


def read_audio(path: str | os.PathLike[str], sample_rate: int) -> Tensor:
    """Read a sound file of any rate and number of channels as mono at `sample_rate`: [samples] float.

    It is read from front to back, so that what its header says of its length does not matter, and in pieces, so that
    it takes no more memory than the result.

    Raises:
        ValueError: the file cannot be read as audio, is longer than `MAX_SECONDS`, has a rate outside `RATES` or
            samples that are not finite.
    """
    with importing("soxr"):
        import soxr

    pieces, frames, rate, change = [np.zeros(0, np.float32)], 0, sample_rate, None
    for rate, _, piece in _read(path):
        if rate != sample_rate and change is None:
            change = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        frames += len(piece)
        mono = np.ascontiguousarray(piece.mean(axis=1))
        pieces.append(mono if change is None else change.resample_chunk(mono))
    if change is not None and frames:
        pieces.append(change.resample_chunk(np.zeros(0, np.float32), last=True))
    sound = torch.from_numpy(np.concatenate(pieces))
    return fit_length(_finite(sound, path), -(-frames * sample_rate // rate))


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a sound file as it is, all channels at its own rate.

    Raises:
        ValueError: see `read_audio`; or it has no samples.
    """
    (rates, kinds, pieces) = zip(*_read(path), strict=True)
    sound = _finite(torch.from_numpy(np.concatenate(pieces).T.copy()), path)
    if not sound.shape[1]:
        raise ValueError(f"{printable(os.fspath(path)[-400:])} has no samples; give a sound that has some.")
    depth = {"PCM_S8": "16", "PCM_U8": "16", "PCM_16": "16", "PCM_24": "24"}.get(kinds[0], "float")
    return Recording(sound, rates[0], depth)


def _finite(sound: Tensor, path: str | os.PathLike[str]) -> Tensor:
    if not sound.isfinite().all():
        called = printable(os.fspath(path)[-400:])
        raise ValueError(f"{called} has samples that are not finite, but numbers are expected; export it again.")
    return sound


def _read(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, np.ndarray]]:
    """Rate, libsndfile's name of the samples' kind, and a piece [samples, channels] at a time, the first one empty."""
    with importing("soundfile"):
        import soundfile

    class Stream(soundfile.SoundFile):  # type: ignore[misc]
        """After each piece soundfile seeks to where it is, which fails where a header gives no length."""

        def seekable(self) -> bool:
            return False

    called = printable(os.fspath(path)[-400:])
    try:
        if not Path(path).is_file():
            raise ValueError("no such file")
        with Stream(path) as file:
            rate, frames = check_rate(file.samplerate), 0
            step = max(1, _PIECE // file.channels)
            most = min(MAX_SECONDS * rate, _MAX_VALUES / file.channels)
            yield rate, file.subtype, np.zeros((0, file.channels), np.float32)
            while len(piece := file.read(step, dtype="float32", always_2d=True)):
                frames += len(piece)
                if frames > most:
                    raise ValueError(f"it is longer than {most / rate:.0f} s; cut it")
                yield rate, file.subtype, piece
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:  # TypeError: a name that ends in .raw
        why = (error.strerror if isinstance(error, OSError) else None) or printable(
            str(error).replace(str(path), called)
        )
        raise ValueError(f"{called} cannot be read as audio ({why}); give a WAV, FLAC, OGG or MP3.") from None


def audio_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of `path` names, to be checked before long work.

    Raises:
        ValueError: the ending is none of `WRITTEN`, or this libsndfile does not write it.
    """
    with importing("soundfile"):
        import soundfile

    name = Path(path).suffix[1:].upper()
    if name not in WRITTEN or name not in soundfile.available_formats():
        raise ValueError(f"{path} ends in {Path(path).suffix or 'nothing'}, but .wav, .flac, .ogg or .mp3 is expected.")
    return name


def check_depth(path: str | os.PathLike[str], depth: str) -> None:
    """Whether the format that the ending of `path` names keeps samples like this, to be asked before long work.

    Raises:
        ValueError: it does not, or there is no such depth.
    """
    name = audio_format(path)
    if depth not in DEPTHS:
        raise ValueError(f"The depth is {depth!r}, but one of {', '.join(DEPTHS)} is expected.")
    if depth != "16" and (name in _LOSSY or (depth == "float" and name in _NO_FLOAT)):
        kept = "no certain number of bits" if name in _LOSSY else "16 or 24 bits"
        raise ValueError(f"The depth is {depth}, but {name} files keep {kept}; leave it out, or write .wav.")


def write_audio(
    path: str | os.PathLike[str],
    waveform: Tensor,
    sample_rate: int,
    *,
    depth: str = "16",
    to_rate: int | None = None,
    tags: Tags | None = None,
    exact: bool = False,
) -> None:
    """Write [channels, samples] or [samples] atomically, see `encode_audio`."""
    write_atomic(path, encode_audio(path, waveform, sample_rate, depth=depth, to_rate=to_rate, tags=tags, exact=exact))


def encode_audio(
    path: str | os.PathLike[str],
    waveform: Tensor,
    sample_rate: int,
    *,
    depth: str = "16",
    to_rate: int | None = None,
    tags: Tags | None = None,
    exact: bool = False,
) -> bytes:
    """[channels, samples] or [samples] as the bytes of a file; the ending of `path` names the format.

    Args:
        path: the file that it is for.
        waveform: the sound. Values beyond -1..1 are limited, unless they are kept as floating-point numbers.
        sample_rate: in Hz.
        depth: how samples are kept: as "16" or "24" bits, or as "float"; see `check_depth`.
        to_rate: Hz that the file is to have, if not those of the sound.
        tags: what it says of itself, in WAV, FLAC and OGG.
        exact: whether samples that were read from 16 or 24 bits become the same numbers again. Otherwise libsndfile
            scales them by 1 - 2^-15 or 1 - 2^-23, so that 1 and -1 are kept alike.

    Raises:
        ValueError: the ending is not a format that is written, or the format does not take this rate, this depth or so
            many channels.
    """
    name = audio_format(path)
    check_depth(path, depth)
    import soundfile

    rate = sample_rate if to_rate is None else to_rate
    sound = resample(waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]), sample_rate, rate)
    samples = (sound if depth == "float" else sound.clamp(-1, 1)).T.numpy()
    if exact and name not in _LOSSY and depth != "float":
        levels = 2 ** (int(depth) - 1)
        whole = (sound.double() * levels).round().clamp(-levels, levels - 1)
        samples = (whole * 2 ** (32 - int(depth))).to(torch.int32).T.numpy()  # of which libsndfile takes the upper bits
    channels = samples.shape[1]
    kept = {} if name in _LOSSY or depth == "16" else {"subtype": DEPTHS[depth]}
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", rate, channels, format=name, **kept) as file:
            for piece in _pieces(samples):  # libsndfile's Vorbis encoder overruns its stack on a long sound at once
                file.write(piece)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path} cannot be written ({error}); give a .wav.") from None
    data = buffer.getvalue()
    if tags is not None and name == "WAV":
        comment = json.dumps({key: json.loads(text) for key, text in tags.graph.items()}) if tags.graph else ""
        data = with_chunks(data, rate, channels, tags.title, comment, tags.offset)
    elif tags is not None and name in ("FLAC", "OGG"):
        # The graph comes first: ComfyUI's page reads OGG files as far as one page of theirs, 64 KB, goes.
        data = with_comments(data, {**tags.graph, "title": tags.title, "software": SOFTWARE})
    return data


def _pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _PIECE // samples.shape[1])
    return (samples[start : start + step] for start in range(0, len(samples), step))
