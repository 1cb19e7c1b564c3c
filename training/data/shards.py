"""Reading shards: any sample of a folder, or of several, by its number, only the asked fields decoded.

webdataset streams the same tars; random access is what makes a resumed training see the very samples that an
unbroken one would have seen.
"""

from __future__ import annotations

import bisect
import glob
import io
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

from sounding.images.decoding import open_picture

from .shard_format import BLOCK, INDEX, SAMPLE_RATE, Shard, ShardIndex, Skipped, parse_json

__all__ = ["FIELDS", "Folders", "Shard", "ShardIndex", "Shards", "Skipped", "find_folders"]

Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # a folder, a pattern, or several of them

DESCRIBED = ("id", "captions", "licence", "source", "seconds", "labels", "sounding")
RAW = ("waveform", "pictures", "masks")
FEATURES = ("patches", "queries", "coverage", "backdrop", "mean", "std")
FIELDS = (*DESCRIBED, *RAW, *FEATURES)
OPEN_FILES = 64  # tars that one process keeps open; folders may have thousands
MOST_BYTES = 1 << 28  # of a sample: a damaged index must not fill the memory
MOST_SECONDS = 3600  # of its sound
MOST_PIXELS = 1 << 28  # of all of its pictures; ten frames of 25 megapixels
DIMENSIONS = {"patches": 3, "queries": 2, "coverage": 1, "backdrop": 1, "mean": 3, "std": 3}


def find_folders(given: Folders) -> list[Path]:
    """The folders of shards that are meant: paths, and patterns such as shards/*, whose folders are sorted by name.

    Raises:
        ValueError: none, one of them twice, or a pattern that fits nothing.
    """
    found: list[Path] = []
    for one in [given] if isinstance(given, (str, os.PathLike)) else given:
        text = os.fspath(one)
        if "\0" in text or not text.strip():
            raise ValueError(f"{text!r} came for a folder of shards, but a path or pattern is expected; give one.")
        fitting = [Path(text)]
        if glob.has_magic(text) and not fitting[0].is_dir():
            fitting = [Path(name) for name in sorted(glob.glob(text)) if (Path(name) / INDEX).is_file()]
            if not fitting:
                raise ValueError(f"{text} fits no folder of finished shards; give one that does, or prepare them.")
        found += fitting
    if not found:
        raise ValueError("No folder of shards came, but one or more are expected; name those that were prepared.")
    twice = [folder for folder in found if sum(folder.resolve() == other.resolve() for other in found) > 1]
    if twice:
        raise ValueError(f"{twice[0]} came twice among the folders of shards, but once is expected; leave one out.")
    return found


def _merged(indices: dict[Path, ShardIndex]) -> ShardIndex:
    """One index over several folders.

    Raises:
        ValueError: raw shards beside features, or features of different models.
    """
    (first, index), *others = indices.items()
    for folder, other in others:
        if other.kind != index.kind:
            raise ValueError(
                f"{first} holds {index.kind} shards and {folder} {other.kind} shards, but one kind alone can be "
                "combined; make features of the raw ones."
            )
        if other.model != index.model:
            raise ValueError(
                f"The features in {first} and {folder} were made with different models, so they cannot be combined; "
                "prepare one of them again with the other's model."
            )
    licences: dict[str, int] = {}
    for one in indices.values():
        for licence, count in one.licences.items():
            licences[licence] = licences.get(licence, 0) + count
    bare, masked = ([getattr(one, name) for one in indices.values()] for name in ("bare", "masked"))
    return ShardIndex(
        kind=index.kind,
        shards=tuple(shard for one in indices.values() for shard in one.shards),
        samples=sum(one.samples for one in indices.values()),
        skipped=tuple(skip for one in indices.values() for skip in one.skipped),
        licences=licences,
        settings=index.settings if not others else {"combined": [one.settings for one in indices.values()]},
        model=index.model,
        left_out=tuple(left for one in indices.values() for left in one.left_out),
        bare=None if None in bare else tuple(name for names in bare for name in names),
        masked=None if None in masked else sum(masked),
    )


class Shards(Dataset[dict[str, Any]]):
    """The samples of folders of shards, `shards[i]` folder by folder in the order they were prepared in.

    Fields: id, captions, licence, source, seconds, labels, sounding as they were described; waveform [samples]
    float32 at 16 kHz; pictures [F, H, W, 3] uint8; masks [k, H, W] uint8; and of features patches [F, P, L],
    queries [C, L], coverage and backdrop [P] (share of each patch under the sounding objects' masks, and under
    none), mean and std [8, T/4, 16] (the VAE's posterior times the latents' scale), all float16.

    Tars are opened as they are needed, anew in every process: objects of this class can be forked and pickled
    into a DataLoader's workers, and used by several threads.

    Args:
        folders: made by `python -m training prepare`; one, a pattern, or several (`find_folders`).
        fields: what `shards[i]` holds; a sample without one of them is an error.
        optional: decoded where a sample has them, else left out.

    Raises:
        ValueError: no index, an unknown field, one that this kind of shards does not have, or folders that do not go
            together.
    """

    def __init__(self, folders: Folders, fields: Sequence[str], optional: Sequence[str] = ()):
        self.indices = {folder: ShardIndex.read(folder) for folder in find_folders(folders)}
        self.index = _merged(self.indices)
        self._folders = [folder for folder, index in self.indices.items() for _ in index.shards]  # of each shard
        self.fields, self.optional = tuple(fields), tuple(optional)
        known = {"raw": (*DESCRIBED, *RAW), "features": (*DESCRIBED, *FEATURES)}[self.index.kind]
        for name in (*self.fields, *self.optional):
            if name not in FIELDS:
                raise ValueError(f"The field {name!r} is unknown, but one of {', '.join(FIELDS)} is expected.")
            if name not in known:
                other = "make features of them first" if self.index.kind == "raw" else "read the raw shards for it"
                raise ValueError(f"{self.named} holds {self.index.kind} shards, which have no {name!r}; {other}.")
        self._ends = list(accumulate(shard.samples for shard in self.index.shards))
        self._forget()

    @property
    def named(self) -> str:
        """The folders, for messages."""
        first, *others = self.indices
        return f"{first} and {len(others)} more" if others else str(first)

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
            raise IndexError(f"Sample {number} was asked of {self.named}, which has {len(self)}; ask for one of them.")
        number %= len(self)
        place = bisect.bisect_right(self._ends, number)
        shard = self.index.shards[place]
        row = number - (self._ends[place] - shard.samples)
        members = self._members(place, shard.offsets[row], shard.offsets[row + 1])
        where = f"Sample {number} of {self.named} ({shard.name})"
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
        path = self._folders[place] / shard.name
        if end - start > MOST_BYTES:
            raise ValueError(f"{path} has a sample of {end - start:,} bytes, but at most {MOST_BYTES:,} are expected.")
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
                    if (
                        header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
                        or not 0 <= header.size <= end - start - BLOCK
                    ):
                        raise ValueError(f"its member {header.name[:60]!r} is no ordinary file of {header.size} bytes")
                    if name in found or not name:
                        raise ValueError(f"its member {header.name[:60]!r} comes twice or has no ending")
                    found[name] = file.read(header.size) if self._wanted(name) else b""
                    start += BLOCK + -(-header.size // BLOCK) * BLOCK
            except (tarfile.HeaderError, OSError, ValueError, OverflowError) as error:
                raise ValueError(f"{path} is damaged ({error}); remove that folder and prepare it again.") from None
        if len(keys) != 1 or start != end:
            raise ValueError(f"{path} is not the tar that its folder has in its index; prepare that folder again.")
        return {name: data for name, data in found.items() if self._wanted(name)}

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
        path = self._folders[place] / shard.name
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
            described = _checked(parse_json(members["json"]))
            sample.update({name: described[name] for name in DESCRIBED if name in asked & described.keys()})
        if "flac" in members:
            sample["waveform"] = _decode_flac(members["flac"])
        for field, start, ending, mode in (("pictures", "", ".jpg", "RGB"), ("masks", "mask.", ".png", "L")):
            names = [name for name in members if name.endswith(ending)]
            if names:
                names.sort(key=lambda name: int(name.removeprefix(start).removesuffix(ending)))
                sample[field] = _decode_pictures([members[name] for name in names], mode)
        if "safetensors" in members:
            from safetensors.torch import load

            tensors = load(members["safetensors"])
            for name in (name for name in FEATURES if name in asked & tensors.keys()):
                if tensors[name].ndim != DIMENSIONS[name] or not tensors[name].is_floating_point():
                    raise ValueError(
                        f"its {name} have shape {tuple(tensors[name].shape)} and are {tensors[name].dtype}"
                    )
                sample[name] = tensors[name]
        return sample


def _checked(described: Any) -> dict[str, Any]:
    """A sample's description.

    Raises:
        ValueError: not as `Sample` writes it.
    """
    kinds: dict[str, tuple[type, ...]] = {"id": (str,), "licence": (str,), "source": (str,), "seconds": (int, float)}
    lists: dict[str, type] = {"captions": str, "labels": int, "sounding": int}
    if not isinstance(described, dict):
        raise ValueError("its description is no object")
    for name, value in described.items():
        fine = isinstance(value, kinds[name]) if name in kinds else name not in lists or isinstance(value, list)
        if not fine or (name in lists and not all(type(one) is lists[name] for one in value)):
            raise ValueError(f"the {name} of its description is of another kind than expected")
    return described


def _decode_flac(data: bytes) -> Tensor:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.samplerate != SAMPLE_RATE or file.channels != 1:
            raise ValueError(
                f"its sound has {file.channels} channels at {file.samplerate} Hz, but mono at {SAMPLE_RATE} is expected"
            )
        waveform = file.read(min(file.frames, MOST_SECONDS * SAMPLE_RATE + 1), dtype="float32")
    if len(waveform) > MOST_SECONDS * SAMPLE_RATE:
        raise ValueError(f"its sound is longer than {MOST_SECONDS} s")
    return torch.from_numpy(waveform)


def _decode_pictures(files: list[bytes], mode: str) -> Tensor:
    """[N, H, W, 3] or [N, H, W] uint8."""
    pictures: list[Tensor] = []
    for data in files:
        picture = open_picture(io.BytesIO(data), "One of its pictures").convert(mode)
        if picture.width * picture.height * len(files) > MOST_PIXELS:
            raise ValueError(f"its {len(files)} pictures have more than {MOST_PIXELS:,} pixels together")
        pictures.append(torch.from_numpy(np.array(picture)))
    return torch.stack(pictures)
