"""PyTorch's own files: what is read of them, and archives that are damaged or made to keep a reader busy."""

from __future__ import annotations

import copy
import io
import pickle
import random
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from sounding.weights import WeightsError
from sounding.weights.pytorch import check_pickle
from sounding.weights.reading import read_state


def test_numbers_and_settings_beside_weights_are_left_alone(tmp_path: Path) -> None:
    """LAION's files carry NumPy numbers, AudioLDM's a trainer's settings; torch's safe loading refuses both."""
    import argparse

    weights = {"a": torch.randn(3, 2), "half": torch.randn(4).half(), "turned": torch.randn(2, 5).T}
    path = tmp_path / "weights.pt"
    beside = {"epoch": numpy.float64(3.5), "options": argparse.Namespace(lr=0.1), "names": {"a", "b"}, "t": (1, None)}
    torch.save({"state_dict": weights, **beside}, path)
    with pytest.raises(Exception, match=r"(?i)weights"):
        torch.load(path, weights_only=True)
    got = read_state(path)
    assert got.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(got[name], value)
        assert got[name].dtype == value.dtype


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def test_torchscript_is_refused_with_what_to_take_instead(tmp_path: Path) -> None:
    """As OpenAI's original CLIP files are; their weights are published as safetensors too."""
    module = torch.nn.Sequential(Inner(), torch.nn.ReLU(), Inner()).half()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3).half()), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"is a TorchScript program .*`sounding fetch clip-b32`"):
        read_state(tmp_path / "model.pt")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_pass_in_every_protocol(protocol: int) -> None:
    shared = [1, -5, 2**40, 2**62, 1.5, "wörd", None, True, False]
    value = {"a": shared, "b": (shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "c": {}, "d": [], 5: {"x": "y"}}
    value["e"] = {"set", 7, (1, 2)}
    shared.append(b"bytes")
    pickled = pickle.dumps(value, protocol=protocol)
    file = io.BytesIO(pickled + b"the next")
    check_pickle(file)
    assert file.read() == b"the next"
    with pytest.raises(WeightsError, match=r"is (cut off|damaged)"):
        check_pickle(io.BytesIO(pickled[:-1]))


def test_damaged_archives_get_one_sentence(tmp_path: Path) -> None:
    """A zip of PyTorch with bytes of its pickle changed: read, or refused in a sentence."""
    good = tmp_path / "good.pt"
    torch.save({"state_dict": {"a": torch.randn(3)}, "x": "text"}, good)
    with zipfile.ZipFile(good) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    draw = random.Random(0)
    refused: list[str] = []
    for _ in range(200):
        bad = tmp_path / "bad.pt"
        with zipfile.ZipFile(bad, "w") as archive:
            for name, data in parts.items():
                if name.endswith("data.pkl"):
                    data = bytearray(data)
                    for _ in range(draw.randint(1, 3)):
                        data[draw.randrange(len(data))] = draw.randrange(256)
                archive.writestr(name, bytes(data))
        try:
            read_state(bad)
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in message for message in refused)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A zip archive with its members changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))


def test_tensors_outside_their_storage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.arange(4.0), "epoch": numpy.float64(1)}, path)  # the number keeps torch's own loading out
    assert torch.equal(read_state(path)["a"], torch.arange(4.0))
    rewritten(path, lambda name, data: data[:8] if "/data/" in name else data)
    with pytest.raises(WeightsError, match=r"weights.pt is damaged"):
        read_state(path)


@pytest.mark.parametrize("beside", [{}, {"epoch": numpy.float64(1)}], ids=["torch's loading", "ours"])
def test_small_files_that_would_fill_the_memory(beside: dict, tmp_path: Path) -> None:
    endless = tmp_path / "endless.pt"
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6), **beside}, endless)
    with pytest.raises(WeightsError, match=r"tensor of shape \(1000000, 1000000\), which is larger than the file"):
        read_state(endless)
    bomb = tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(10**6), **beside}, bomb)
    assert len(read_state(bomb)["a"]) == 10**6
    rewritten(bomb, lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10**5
    with pytest.raises(WeightsError, match="is compressed, which PyTorch never does"):
        read_state(bomb)


def test_dictionaries_that_hold_each_other_without_end(tmp_path: Path) -> None:
    nested: dict = {"w": torch.zeros(1)}
    for _ in range(60):
        nested = {"a": nested, "b": nested}
    torch.save({"nested": nested, "epoch": numpy.float64(1)}, tmp_path / "nested.pt")
    with pytest.raises(WeightsError, match="is nested or copied beyond what weights need"):
        read_state(tmp_path / "nested.pt")


def nested_key(depth: int = 64) -> bytes:
    """{(((...),), ...): 1} with every tuple twice in the next: 2^depth steps to hash."""
    return b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * depth + b"K\x01u."


def as_archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (storages or {}).items():
            archive.writestr(f"archive/data/{name}", data)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off|damaged"),
        (b"\x80\x02cos\nsystem\n.", "names (os|posix).system"),
        (b"\x80\x02cbuiltins\neval\n.", "names builtins.eval"),
        (b"\x80\x02c__builtin__\ngetattr\n.", "names builtins.getattr"),
        (b"\x80\x02]q\x00h\x07.", "damaged"),
        (b"\x80\x02}", "cut off|damaged"),
        (b"(ios\nsystem\n.", "is damaged, or holds more than weights"),
    ],
)
def test_what_weights_do_not_need_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        read_state(as_archive(tmp_path / "weights.pt", data))


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    """Instructions that describe a tensor in storage `key` of `count` float32."""

    def number(value: int) -> bytes:
        data = value.to_bytes(17, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    stored = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key.encode()
    stored += b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    shape = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + number(offset) + shape + b"\x89}tR"


def state(**tensors: bytes) -> bytes:
    items = b"".join(b"X" + len(name).to_bytes(4, "little") + name.encode() + each for name, each in tensors.items())
    return b"\x80\x02}(" + items + b"u."


FLOATS = bytes(4 * 16)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a key that takes years to hash": (nested_key(), "nested or copied beyond"),
    "an element that takes years to hash": (
        nested_key().replace(b"}(", b"\x8f(").replace(b"K\x01u", b"\x90"),
        "nested or copied beyond",
    ),
    "a name that takes years to write": (
        b"\x80\x04)q\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"\x8c\x05torch" + b"h\x00\x93.",
        "nested or copied beyond",
    ),
    "a storage's key that takes years to write": (
        b"\x80\x02)q\x00"
        + b"h\x00h\x00\x86q\x00" * 64
        + b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x00K\x01K\x01tQ.",
        "nested or copied beyond",
    ),
    "keys of one hash": (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0f" + (i * (2**61 - 1)).to_bytes(15, "little") + b"N" for i in range(40_000))
        + b"u.",
        "a number beyond any size",
    ),
    "copies of copies": (
        b"\x80\x02]("
        + b"K\x00K\x01\x86" * 50_000
        + b"eq\x00"
        + b"ccollections\nOrderedDict\nh\x00\x85R0" * 200
        + b"h\x00.",
        "nested or copied beyond",
    ),
    "instructions without end": (b"\x80\x02" + b"N0" * 600_000 + b"N.", "pickle instructions"),
    "a huge shape": (state(a=tensor(16, (2**40, 2**40), (0, 0))), "is damaged"),
    "a shape beyond any number": (state(a=tensor(16, (2**100,), (1,))), "a number beyond any size"),
    "a negative place": (state(a=tensor(16, (4,), (1,), -4)), "is damaged"),
    "a negative stride": (state(a=tensor(16, (4,), (-1,), 8)), "is damaged"),
    "a place outside": (state(a=tensor(16, (4,), (1,), 13)), "is damaged"),
    "a storage that lies": (state(a=tensor(10**12, (4,), (1,))), "is damaged"),
    "a storage that is not there": (state(a=tensor(16, (4,), (1,), key="7")), "is damaged"),
    "axes without end": (state(a=tensor(16, (1,) * 500, (1,) * 500)), "of a kind that weights do not need"),
    "one storage a thousand times": (
        state(**{f"t{i}": tensor(2**20, (2**20,), (1,)) for i in range(30)}),
        "is damaged|larger than the file",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_are_read_in_bounded_steps(kind: str, tmp_path: Path) -> None:
    """Each in the format of today, and in the one before where the pickle stands alone."""
    pickled, words = HOSTILE[kind]
    for storages in ({"0": FLOATS}, {"0": bytes(2**22)}):
        path = as_archive(tmp_path / "bad.pth", pickled, storages)
        started = time.process_time()
        with pytest.raises(WeightsError) as error:
            read_state(path)
        assert time.process_time() - started < 10
        if storages["0"] == FLOATS:
            assert re.search(words, str(error.value)), str(error.value)
        assert len(str(error.value)) < 600
        assert "\n" not in str(error.value)
    (tmp_path / "old.pth").write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickled + b"\x80\x02]."
    )
    with pytest.raises(WeightsError):
        read_state(tmp_path / "old.pth")


def test_both_formats_of_torch_are_read_alike(tmp_path: Path) -> None:
    shared = torch.randn(6)
    weights = {
        "a": torch.randn(3, 2),
        "b": torch.arange(5),
        "half": torch.randn(4).half(),
        "turned": torch.randn(2, 5).T,
    }
    weights |= {
        "shared": shared[:4],
        "rest": shared[2:],
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
    }
    for new in (True, False):
        path = tmp_path / f"{new}.pt"
        torch.save({"state_dict": weights, "epoch": 3}, path, _use_new_zipfile_serialization=new)
        got = read_state(path)
        assert got.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=0)
            assert got[name].dtype == value.dtype
        for cut in (10, 100, path.stat().st_size // 2, path.stat().st_size - 3):
            (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:cut])
            with pytest.raises(WeightsError):
                read_state(tmp_path / "cut.pt")


def test_entries_that_overlap_take_no_more_than_the_file(tmp_path: Path) -> None:
    """A zip bomb of entries over the same bytes: the tensors are the same pages, and too many of them are refused."""
    path = as_archive(
        tmp_path / "a.pt",
        state(**{f"t{i}": tensor(2**18, (2**18,), (1,), key=f"{i}") for i in range(50)}),
        {"0": bytes(2**20)},
    )
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("archive/data/0")
        entries = [*archive.infolist(), *(copy.copy(entry) for _ in range(49))]
    for number, each in enumerate(entries[-49:], start=1):
        each.filename = f"archive/data/{number}"
    with zipfile.ZipFile(path, "a") as archive:
        for each in entries[-49:]:
            archive.filelist.append(each)
            archive.NameToInfo[each.filename] = each
        archive._didModify = True  # so that the directory is written anew
    assert path.stat().st_size < len(data) + 10_000
    with pytest.raises(WeightsError, match="larger than the file, taken together"):
        read_state(path)
