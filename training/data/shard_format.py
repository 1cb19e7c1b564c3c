"""What a folder of shards holds: samples as members of webdataset tars, and `shards.json` beside them.

A sample KEY has the members (webdataset's `base_plus_ext` grouping: everything after the first dot is the field)

    KEY.json                {id, captions, licence, source, seconds, labels?, sounding?}
    KEY.flac                mono, 16 kHz, 16 bit
    KEY.0.jpg, KEY.1.jpg    images, one or several frames, quality 95
    KEY.mask.0.png          8 bit, one per object
    KEY.safetensors         features

and nothing in it is ever pickled. `shards.py` reads them, `shard_file.py` writes one tar, `shard_writer.py` a folder.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sounding.config import from_dict
from sounding.utils.messages import printable

from .storage import location, request, write_atomic

if TYPE_CHECKING:
    from .storage import Location

INDEX = "shards.json"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\.tar", re.ASCII)
BLOCK = 512  # bytes; a tar's unit
MOST_JSON = 1 << 30  # bytes; an index of a million clips has some 50 MB
SAMPLE_RATE = 16_000
JPEG_QUALITY = 95

Kind = Literal["raw", "features"]


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be made, and why in one sentence."""

    id: str
    why: str


def reason(error: Exception) -> str:
    """An error as one line that can be printed; its kind too, unless it is one that is raised with a sentence."""
    said = " ".join(str(error).split())[:1000]
    text = said if said and type(error) in (ValueError, OSError) else f"{type(error).__name__}: {said}".rstrip(": ")
    return printable(text)


@dataclass(frozen=True)
class Shard:
    """One tar of the folder. Sample `i` lies in bytes `offsets[i]` to `offsets[i + 1]` of it."""

    name: str
    samples: int
    bytes: int
    offsets: tuple[int, ...]

    def check(self) -> None:
        """Whether the numbers fit each other.

        Raises:
            ValueError: they do not, or the name leads elsewhere.
        """
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a shard is called {self.name[:60]!r}, but names such as shard-000000.tar are expected")
        if len(self.offsets) != self.samples + 1:
            raise ValueError(f"{self.name} has {len(self.offsets)} offsets, but {self.samples + 1} are expected")
        last = 0
        for offset in self.offsets:
            if not last <= offset <= self.bytes or offset % BLOCK:
                raise ValueError(
                    f"{self.name} has the offset {offset}, but ascending multiples of {BLOCK} are expected"
                )
            last = offset


@dataclass(frozen=True)
class ShardIndex:
    """`shards.json`: all tars of a folder, what was left out, and how it was made.

    `skipped` are samples that could not be made, `left_out` files and rows that belong to none. `model` is the
    fingerprint of the encoders and the VAE that made features (`features.fingerprint`), null for raw shards.
    `licences` counts samples. `bare` are ids of samples that have neither a caption nor a mask, `masked` counts those
    with masks; null where an earlier version did not look.
    """

    kind: Kind
    shards: tuple[Shard, ...]
    samples: int
    skipped: tuple[Skipped, ...] = ()
    licences: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    left_out: tuple[Skipped, ...] = ()
    bare: tuple[str, ...] | None = None
    masked: int | None = None

    @classmethod
    def read(cls, folder: Location) -> ShardIndex:
        """The index of `folder`.

        Raises:
            ValueError: there is no finished folder of shards, or its index is damaged.
        """
        file = location(folder) / INDEX
        again = "remove that folder and prepare it again"
        try:
            data = read_json(file)
        except FileNotFoundError:
            raise ValueError(
                f"{file} is missing, but a folder of finished shards is expected; make one with `python -m training "
                "prepare`, or run an interrupted one again."
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read ({error}); {again}.") from None
        try:
            if not isinstance(data, dict):
                raise ValueError(f"a {type(data).__name__} came, but an object is expected")
            index: ShardIndex = from_dict(cls, data)
            index.check()
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged ({error}); {again}.") from None
        return index

    def check(self) -> None:
        """Whether the numbers fit each other.

        Raises:
            ValueError: they do not, or a tar's name leads elsewhere.
        """
        names = [shard.name for shard in self.shards]
        if len(set(names)) != len(names):
            raise ValueError("a shard is listed twice")
        for shard in self.shards:
            shard.check()
        if self.samples != sum(shard.samples for shard in self.shards):
            raise ValueError(f"{self.samples} samples are counted, but its shards have another number")

    def write(self, folder: Location) -> None:
        """Write `shards.json` into `folder` in one step."""
        write_atomic(folder / INDEX, json.dumps(dataclasses.asdict(self)).encode())


def known_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a sample that was read, beside its sound, images, masks and features, for a new `Sample`."""
    known = {name: row[name] for name in ("id", "licence", "source", "seconds")}
    return known | {name: tuple(row[name]) for name in ("captions", "labels", "sounding") if name in row}


@dataclass(frozen=True)
class Sample:
    """One sample before it is written; what is None is left out.

    `masks` belong to the first image. `labels` are the classes of the masks' objects (without masks: of the
    clip), `sounding` the positions in `masks` of those that can be heard.
    """

    id: str
    captions: tuple[str, ...]
    licence: str
    source: str
    seconds: float
    labels: tuple[int, ...] | None = None
    sounding: tuple[int, ...] | None = None
    waveform: np.ndarray | None = None  # [samples] float, -1..1
    images: tuple[np.ndarray, ...] = ()  # each [H, W, 3] uint8
    masks: tuple[np.ndarray, ...] = ()  # each [H, W] uint8
    features: dict[str, np.ndarray] | None = None

    def members(self) -> dict[str, bytes]:
        """The sample's files by field name. Equal samples give equal bytes."""
        files = {"json": self._description()}
        if self.waveform is not None:
            files["flac"] = encode_flac(self.waveform)
        for number, image in enumerate(self.images):
            files[f"{number}.jpg"] = _encode_image(image, "JPEG", quality=JPEG_QUALITY)
        for number, mask in enumerate(self.masks):
            files[f"mask.{number}.png"] = _encode_image(mask, "PNG")
        if self.features is not None:
            from safetensors.numpy import save

            files["safetensors"] = save({name: np.ascontiguousarray(value) for name, value in self.features.items()})
        return files

    def _description(self) -> bytes:
        names = ("id", "captions", "licence", "source", "seconds", "labels", "sounding")
        values = {name: getattr(self, name) for name in names}
        return json.dumps({k: v for k, v in values.items() if v is not None}, ensure_ascii=False).encode(
            "utf-8",
            "backslashreplace",  # a lone surrogate of a file's name becomes JSON's own escape
        )

    @property
    def masked(self) -> bool:
        """Whether it says where the objects are."""
        return bool(self.masks) if self.features is None else "coverage" in self.features

    @property
    def bare(self) -> bool:
        """Whether neither a caption nor a mask says what in the image sounds, where grounding asks for it."""
        if self.features is not None and {"audio_tokens", "tokens"} & self.features.keys():  # which ask for neither
            return False
        asked = self.captions if self.features is None else self.features.get("queries", ())
        return not self.masked and not len(asked)


def read_json(file: Location, most: int = MOST_JSON) -> Any:
    """A JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, nested too deeply, or has more than `most` bytes.
    """
    data = request(file, lambda: _start(file, most + 1))
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return parse_json(data)


def _start(file: Location, most: int) -> bytes:
    with file.open("rb") as opened:
        return bytes(opened.read(most))


def parse_json(data: bytes) -> Any:
    """Parsed JSON.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def encode_flac(waveform: np.ndarray) -> bytes:
    """[samples] float, -1..1 -> FLAC of 16 bit at 16 kHz; values beyond are limited."""
    import soundfile

    steps = np.clip(np.round(np.asarray(waveform, np.float64) * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _encode_image(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
