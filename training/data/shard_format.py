"""What a folder of shards holds: samples as members of webdataset tars, and `shards.json` beside them.

A sample KEY has the members (webdataset's `base_plus_ext` grouping: everything after the first dot is the field)

    KEY.json                {id, captions, licence, source, seconds, labels?, sounding?}
    KEY.flac                mono, 16 kHz, 16 bit
    KEY.0.jpg, KEY.1.jpg    pictures, one or several frames, quality 95
    KEY.mask.0.png          8 bit, one an object
    KEY.safetensors         features

and nothing in it is ever pickled. `shards.py` reads them, `one_shard.py` writes one, `making.py` all.
"""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sounding.config import from_dict
from sounding.files import write_atomic

INDEX = "shards.json"
SAMPLE_RATE = 16_000
JPEG_QUALITY = 95

Kind = Literal["raw", "features"]


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be made, and why in one sentence."""

    id: str
    why: str


def reason(error: Exception) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Shard:
    """One tar of the folder. Sample `i` lies in bytes `offsets[i]` to `offsets[i + 1]` of it."""

    name: str
    samples: int
    bytes: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class ShardIndex:
    """`shards.json`: all tars of a folder, what was left out, and how it was made.

    `model` is the fingerprint of the encoders and the VAE that made features (`features.fingerprint`), null for
    raw shards. `licences` counts samples.
    """

    kind: Kind
    shards: tuple[Shard, ...]
    samples: int
    skipped: tuple[Skipped, ...] = ()
    licences: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str | None = None

    @classmethod
    def read(cls, folder: Path) -> ShardIndex:
        """The index of `folder`.

        Raises:
            ValueError: there is no finished folder of shards, or its index is damaged.
        """
        file = Path(folder) / INDEX
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"{file} is missing, but a folder of finished shards is expected; make one with `python -m training "
                "prepare`, or run an interrupted one again."
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} cannot be read ({error}); remove that folder and prepare it again.") from None
        try:
            if not isinstance(data, dict):
                raise ValueError(f"a {type(data).__name__} came, but an object is expected")
            index: ShardIndex = from_dict(cls, data)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}); remove that folder and prepare it again.") from None
        for shard in index.shards:
            if len(shard.offsets) != shard.samples + 1:
                raise ValueError(
                    f"{file} is damaged ({shard.name} has {len(shard.offsets)} offsets, but {shard.samples + 1} are "
                    "expected); remove that folder and prepare it again."
                )
        return index

    def write(self, folder: Path) -> None:
        """Write `shards.json` into `folder` in one step."""
        write_atomic(folder / INDEX, json.dumps(dataclasses.asdict(self)).encode())


@dataclass(frozen=True)
class Sample:
    """One sample before it is written; what is None is left out.

    `masks` belong to the first picture. `labels` are the classes of the masks' objects (without masks: of the
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
    pictures: tuple[np.ndarray, ...] = ()  # each [H, W, 3] uint8
    masks: tuple[np.ndarray, ...] = ()  # each [H, W] uint8
    features: dict[str, np.ndarray] | None = None

    def members(self) -> dict[str, bytes]:
        """The sample's files by field name. Equal samples give equal bytes."""
        files = {"json": self._description()}
        if self.waveform is not None:
            files["flac"] = encode_flac(self.waveform)
        for number, picture in enumerate(self.pictures):
            files[f"{number}.jpg"] = _encode_picture(picture, "JPEG", quality=JPEG_QUALITY)
        for number, mask in enumerate(self.masks):
            files[f"mask.{number}.png"] = _encode_picture(mask, "PNG")
        if self.features is not None:
            from safetensors.numpy import save

            files["safetensors"] = save({name: np.ascontiguousarray(value) for name, value in self.features.items()})
        return files

    def _description(self) -> bytes:
        names = ("id", "captions", "licence", "source", "seconds", "labels", "sounding")
        values = {name: getattr(self, name) for name in names}
        return json.dumps({k: v for k, v in values.items() if v is not None}, ensure_ascii=False).encode()


def encode_flac(waveform: np.ndarray) -> bytes:
    """[samples] float, -1..1 -> FLAC of 16 bit at 16 kHz; values beyond are limited."""
    import soundfile

    steps = np.clip(np.round(np.asarray(waveform, np.float64) * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _encode_picture(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
