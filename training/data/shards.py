"""Reading shards: any sample of a folder by its number, only the asked fields decoded.

webdataset streams the same tars; random access is what makes a resumed training see the very samples that an
unbroken one would have seen.
"""

from __future__ import annotations

import bisect
import io
import json
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .shard_format import SAMPLE_RATE, Shard, ShardIndex, Skipped

__all__ = ["FIELDS", "Shard", "ShardIndex", "Shards", "Skipped"]

DESCRIBED = ("id", "captions", "licence", "source", "seconds", "labels", "sounding")
RAW = ("waveform", "pictures", "masks")
FEATURES = ("patches", "queries", "coverage", "backdrop", "mean", "std")
FIELDS = (*DESCRIBED, *RAW, *FEATURES)
OPEN_FILES = 64  # tars that one process keeps open; folders may have thousands
BLOCK = tarfile.BLOCKSIZE


class Shards(Dataset[dict[str, Any]]):
    """The samples of a folder of shards, `shards[i]` in the order they were prepared in.

    Fields: id, captions, licence, source, seconds, labels, sounding as they were described; waveform [samples]
    float32 at 16 kHz; pictures [F, H, W, 3] uint8; masks [k, H, W] uint8; and of features patches [F, P, L],
    queries [C, L], coverage and backdrop [P] (share of each patch under the sounding objects' masks, and under
    none), mean and std [8, T/4, 16] (the VAE's posterior times the latents' scale), all float16.

    Tars are opened as they are needed, anew in every process: objects of this class can be forked and pickled
    into a DataLoader's workers, and used by several threads.

    Args:
        folder: made by `python -m training prepare`.
        fields: what `shards[i]` holds; a sample without one of them is an error.
        optional: decoded where a sample has them, else left out.

    Raises:
        ValueError: no index, an unknown field, or one that this kind of shards does not have.
    """

    def __init__(self, folder: str | os.PathLike[str], fields: Sequence[str], optional: Sequence[str] = ()):
        self.folder = Path(folder)
        self.index = ShardIndex.read(self.folder)
        self.fields, self.optional = tuple(fields), tuple(optional)
        known = {"raw": (*DESCRIBED, *RAW), "features": (*DESCRIBED, *FEATURES)}[self.index.kind]
        for name in (*self.fields, *self.optional):
            if name not in FIELDS:
                raise ValueError(f"The field {name!r} is unknown, but one of {', '.join(FIELDS)} is expected.")
            if name not in known:
                other = "make features of them first" if self.index.kind == "raw" else "read the raw shards for it"
                raise ValueError(f"{self.folder} holds {self.index.kind} shards, which have no {name!r}; {other}.")
        self._ends = list(accumulate(shard.samples for shard in self.index.shards))
        self._forget()

    def _forget(self) -> None:
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_lock", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self.index.samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`.

        Raises:
            IndexError: there is no such sample.
            ValueError: it lacks a field; a tar is missing, cut off or not the one of the index; a member is broken.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(f"Sample {number} was asked of {self.folder}, which has {len(self)}; ask for one of them.")
        number %= len(self)
        place = bisect.bisect_right(self._ends, number)
        shard = self.index.shards[place]
        row = number - (self._ends[place] - shard.samples)
        members = self._members(place, shard.offsets[row], shard.offsets[row + 1])
        where = f"Sample {number} of {self.folder} ({shard.name})"
        try:
            sample = self._decode(members)
        except Exception as error:  # each format's library raises kinds of its own for damaged data
            raise ValueError(f"{where} is damaged ({error}); remove that folder and prepare it again.") from error
        for name in self.fields:
            if name not in sample:
                raise ValueError(f"{where} has no {name!r}, which was asked for; ask for it as an optional field.")
        return sample

    def _members(self, place: int, start: int, end: int) -> dict[str, bytes]:
        """The wanted members between two offsets of a tar, by their field names."""
        shard = self.index.shards[place]
        path = self.folder / shard.name
        found: dict[str, bytes] = {}
        keys: set[str] = set()
        if self._process != os.getpid():  # forked: the parent's files share their position with this process
            self._forget()
        with self._lock:
            file = self._open(place, shard)
            try:
                while start < end:
                    file.seek(start)
                    header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
                    key, _, name = header.name.partition(".")
                    keys.add(key)
                    if self._wanted(name):
                        found[name] = file.read(header.size)
                    start += BLOCK + -(-header.size // BLOCK) * BLOCK
            except (tarfile.HeaderError, OSError) as error:
                raise ValueError(f"{path} is damaged ({error}); remove that folder and prepare it again.") from None
        if len(keys) != 1 or start != end:
            raise ValueError(f"{path} is not the tar that {self.folder} has in its index; prepare the folder again.")
        return found

    def _wanted(self, name: str) -> bool:
        kinds = {"flac": "waveform", "safetensors": FEATURES, "json": DESCRIBED}
        fields = kinds.get(name) or ("masks" if name.startswith("mask.") else "pictures")
        asked = {*self.fields, *self.optional}
        return bool(asked & ({fields} if isinstance(fields, str) else set(fields)))

    def _open(self, place: int, shard: Shard) -> BinaryIO:
        """The shard's file, the least recently used one closed when there are too many."""
        if place in self._files:
            self._files.move_to_end(place)
            return self._files[place]
        path = self.folder / shard.name
        try:
            size = path.stat().st_size
            file = path.open("rb")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); copy the whole folder again, or prepare it again."
            ) from None
        if size != shard.bytes:
            file.close()
            raise ValueError(
                f"{path} has {size} bytes, but {shard.bytes} are expected; it is cut off or another file, so copy or "
                "prepare it again."
            )
        self._files[place] = file
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file

    def _decode(self, members: dict[str, bytes]) -> dict[str, Any]:
        asked = {*self.fields, *self.optional}
        sample: dict[str, Any] = {}
        if "json" in members:
            described = json.loads(members["json"])
            sample.update({name: described[name] for name in DESCRIBED if name in asked & described.keys()})
        if "flac" in members:
            sample["waveform"] = _decode_flac(members["flac"])
        for field, start, ending, mode in (("pictures", "", ".jpg", "RGB"), ("masks", "mask.", ".png", "L")):
            names = [name for name in members if name.endswith(ending)]
            if names:
                names.sort(key=lambda name: int(name.removeprefix(start).removesuffix(ending)))
                sample[field] = torch.stack([_decode_picture(members[name], mode) for name in names])
        if "safetensors" in members:
            from safetensors.torch import load

            tensors = load(members["safetensors"])
            sample.update({name: tensors[name] for name in FEATURES if name in asked & tensors.keys()})
        return sample


def _decode_flac(data: bytes) -> Tensor:
    import soundfile

    waveform, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate != SAMPLE_RATE or waveform.ndim != 1:
        raise ValueError(f"its sound has shape {waveform.shape} at {rate} Hz, but mono at {SAMPLE_RATE} is expected")
    return torch.from_numpy(waveform)


def _decode_picture(data: bytes, mode: str) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert(mode)))
