"""Files that run code when they are unpickled, in every format that PyTorch reads."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".pkl", "")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


class Executed:
    """Runs a line of code when it is unpickled."""

    def __init__(self, marker: Path):
        self.code = f"open({str(marker)!r}, 'w').close()"

    def __reduce__(self) -> tuple:
        return exec, (self.code,)


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Executed(marker)))


def as_zip(path: Path, marker: Path) -> None:
    torch.save({"state_dict": {"visual.proj": torch.zeros(2, 2)}, "optimizer": Executed(marker)}, path)


def as_legacy(path: Path, marker: Path) -> None:
    torch.save({"a": Payload(marker), "w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def as_torchscript(path: Path, marker: Path) -> None:
    """An archive that `torch.jit.load` takes for a model: a pickle among other members."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Executed(marker), protocol=2))
        archive.writestr("model/constants.pkl", pickle.dumps((Executed(marker),), protocol=2))
        archive.writestr("model/version", "3\n")


def as_tar(path: Path, marker: Path) -> None:
    """The format before the legacy one: a tar whose members are pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(Executed(marker), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "pickle": as_pickle,
    "zip": as_zip,
    "legacy": as_legacy,
    "tar": as_tar,
    "torchscript": as_torchscript,
}
