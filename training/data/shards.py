"""Reading shards: any sample of a folder, or of several, by its number; only the fields asked for are read and decoded.

webdataset streams the same tars; random access is what makes a resumed training see the very samples that an
unbroken one would have seen, and reading byte ranges what makes one frame of features cheap.

MosaicML streaming and Hugging Face datasets have random access, too, but decode whole values of a sample (636 KB of
features where one frame needs 184) and check no bounds of what a folder pretends. The index would stay beside them
(what was skipped and why, licences, which encoders made the features), and they bring 53 and 8 further packages.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from .sample_decoding import decode_description, decode_flac, decode_images
from .shard_folders import Folders, find_folders, merge_indices
from .shard_format import ShardIndex
from .tar_reader import Member, TarReader
from .tensor_layout import LENGTH, StoredTensor, header_size, read_layout

DESCRIBED = ("id", "captions", "licence", "source", "seconds", "labels", "sounding")
RAW = ("waveform", "images", "masks")
FRAMES = "frames"
DIMENSIONS = {
    "patches": 3,
    "queries": 2,
    "coverage": 1,
    "backdrop": 1,
    "mean": 3,
    "std": 3,
    "visual_tokens": 3,
    "audio_tokens": 3,
    "tokens": 2,
    "trajectory": 4,
}
FEATURES = (*DIMENSIONS, FRAMES)
FIELDS = (*DESCRIBED, *RAW, *FEATURES)


class Frames:
    """Patches of a sample's frames, `frames[i]` [P, L]: each is read from its tar when it is asked for, alone."""

    def __init__(self, tensor: StoredTensor, read: Callable[[StoredTensor], Tensor]):
        self._tensor, self._read = tensor, read

    def __len__(self) -> int:
        return self._tensor.shape[0]

    def __getitem__(self, number: int) -> Tensor:
        if not 0 <= number < len(self):
            raise IndexError(f"Frame {number} was asked of a sample that has {len(self)}; ask for one of them.")
        return self._read(self._tensor.row(number))


class Shards(Dataset[dict[str, Any]]):
    """The samples of folders of shards, `shards[i]` folder by folder in the order they were prepared in.

    Fields: id, captions, licence, source, seconds, labels, sounding as they were described; waveform [samples]
    float32 at 16 kHz; images [F, H, W, 3] uint8; masks [k, H, W] uint8; and of features patches [F, P, L], or the
    same as frames, of which each is read when it is asked for (`Frames`), queries [C, L], coverage and backdrop [P]
    (share of each patch under the sounding objects' masks, and under none), mean and std [8, T/4, 16] (the VAE's
    posterior times the latents' scale); or, for audio-visual matching, visual_tokens [F, K, W] and audio_tokens
    [A, M, V]; or, for step distillation, tokens [N, D] and trajectory [points + 1, 8, T/4, 16]; all float16.

    Objects of this class can be forked and pickled into a DataLoader's workers, and used by several threads.

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
        self.index = merge_indices(self.indices)
        self._set_fields(fields, optional)
        self._ends = list(accumulate(shard.samples for shard in self.index.shards))
        paths = [folder / shard.name for folder, index in self.indices.items() for shard in index.shards]
        self._tars = TarReader(paths, self.index.shards)

    def _set_fields(self, fields: Sequence[str], optional: Sequence[str]) -> None:
        known = {"raw": (*DESCRIBED, *RAW), "features": (*DESCRIBED, *FEATURES)}[self.index.kind]
        for name in (*fields, *optional):
            if name not in FIELDS:
                raise ValueError(f"The field {name!r} is unknown, but one of {', '.join(FIELDS)} is expected.")
            if name not in known:
                other = "make features of them first" if self.index.kind == "raw" else "read the raw shards for it"
                raise ValueError(f"{self.named} holds {self.index.kind} shards, which have no {name!r}; {other}.")
        self.fields, self.optional = tuple(fields), tuple(optional)
        self._asked = {*fields, *optional}

    def only(self, *fields: str) -> Shards:
        """The same samples with these fields alone, out of the same open files."""
        other = copy.copy(self)
        other._set_fields(fields, ())
        return other

    def ids(self) -> list[str]:
        """Of all samples, in their order. All descriptions are read for it."""
        described = self.only("id")
        return [described[number]["id"] for number in range(len(self))]

    @property
    def named(self) -> str:
        """The folders, for messages."""
        first, *others = self.indices
        return f"{first} and {len(others)} more" if others else str(first)

    def __len__(self) -> int:
        return self.index.samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`.

        Raises:
            IndexError: there is no such sample.
            ValueError: it lacks a field; a tar is missing, cut off or not the one of the index; a member is broken.
        """
        number, place, members = self._find(number)
        shard = self.index.shards[place]
        where = f"Sample {number} of {self.named} ({shard.name})"
        try:
            sample = self._decode(place, members)
        except Exception as error:  # each format's library raises kinds of its own for damaged data
            raise ValueError(f"{where} is damaged ({error}); remove that folder and prepare it again.") from error
        for name in self.fields:
            if name not in sample:
                raise ValueError(f"{where} has no {name!r}, which was asked for; ask for it as an optional field.")
        return sample

    def members(self, number: int) -> dict[str, bytes]:
        """All members of sample `number` as they lie in its tar, by the name of their field.

        Raises:
            IndexError, ValueError: as `shards[number]`.
        """
        _, place, members = self._find(number)
        return {name: self._tars.read(place, *member) for name, member in members.items()}

    def _find(self, number: int) -> tuple[int, int, dict[str, Member]]:
        """Sample `number` counted from 0, the number of its tar, and its members there."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"Sample {number} was asked of {self.named}, which has {len(self)}; ask for one of them.")
        number %= len(self)
        place = bisect.bisect_right(self._ends, number)
        row = number - (self._ends[place] - self.index.shards[place].samples)
        return number, place, self._tars.members(place, row)

    def _decode(self, place: int, members: dict[str, Member]) -> dict[str, Any]:
        def content(name: str) -> bytes:
            return self._tars.read(place, *members[name])

        sample: dict[str, Any] = {}
        if "json" in members and self._asked & set(DESCRIBED):
            described = decode_description(content("json"))
            sample.update({name: described[name] for name in DESCRIBED if name in self._asked & described.keys()})
        if "flac" in members and "waveform" in self._asked:
            sample["waveform"] = decode_flac(content("flac"))
        for field, start, ending, mode in (("images", "", ".jpg", "RGB"), ("masks", "mask.", ".png", "L")):
            names = [name for name in members if name.endswith(ending) and field in self._asked]
            if names:
                names.sort(key=lambda name: int(name.removeprefix(start).removesuffix(ending)))
                sample[field] = decode_images([content(name) for name in names], mode)
        if "safetensors" in members and self._asked & set(FEATURES):
            sample.update(self._tensors(place, members["safetensors"]))
        return sample

    def _tensors(self, place: int, member: Member) -> dict[str, Any]:
        """The features asked for; nothing else of them is read."""

        def read(tensor: StoredTensor) -> Tensor:
            return tensor.decode(self._tars.read(place, member.start + tensor.begin, tensor.size))

        length = header_size(self._tars.read(place, member.start, min(LENGTH, member.size)), member.size)
        header = self._tars.read(place, member.start + LENGTH, length)
        asked = {"patches" if name == FRAMES else name for name in self._asked & set(FEATURES)}
        layout = read_layout(header, member.size, asked)
        for name, tensor in layout.items():
            if len(tensor.shape) != DIMENSIONS[name]:
                raise ValueError(f"its {name} have shape {tensor.shape}")
        found: dict[str, Any] = {name: read(layout[name]) for name in DIMENSIONS if name in self._asked & layout.keys()}
        if FRAMES in self._asked and "patches" in layout:
            found[FRAMES] = Frames(layout["patches"], read)
        return found
