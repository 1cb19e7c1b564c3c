"""Files that want to run code, and files that are broken: no code runs, and one sentence says what to do."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sounding
from sounding.checkpoint import CheckpointError
from sounding.weights import WeightsError
from sounding.weights.reading import read_state

from ..malicious_files import FORMS, SUFFIXES


@pytest.mark.parametrize("form", FORMS)
def test_the_payloads_would_run(form: str, tmp_path: Path) -> None:
    """The bait works where a file is unpickled, so that its silence below means something."""
    marker, path = tmp_path / "marker", tmp_path / "bait"
    FORMS[form](path, marker)
    if form == "torchscript":
        pickle.loads(zipfile.ZipFile(path).read("model/data.pkl"))
    elif form == "pickle":
        pickle.loads(path.read_bytes())
    elif form == "tar":
        with contextlib.suppress(Exception):  # what torch makes of the result
            torch.load(path, weights_only=False)
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_in_a_file_runs(form: str, suffix: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"weights{suffix}"
    FORMS[form](path, marker)
    with pytest.raises(WeightsError) as error:
        read_state(path)
    assert not marker.exists()
    assert "from its publisher" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value)  # torch's own advice is to switch safety off


@pytest.mark.parametrize("form", FORMS)
def test_no_source_of_a_conversion_is_unpickled(form: str, tmp_path: Path) -> None:
    """Each reader by itself, since a conversion stops at the first that refuses."""
    from sounding.convert.audioldm import read_audioldm
    from sounding.convert.clap import read_clap, read_tokenizer
    from sounding.convert.clip import read_clip
    from sounding.convert.hifigan import read_hifigan

    marker, bait = tmp_path / "marker", tmp_path / "bait.pt"
    FORMS[form](bait, marker)
    shutil.copy(bait, tmp_path / "tokenizer.json")
    for reader in (read_audioldm, read_clap, read_clip, read_hifigan):
        with pytest.raises(WeightsError):
            reader(bait)
    with pytest.raises(WeightsError, match="damaged tokenizer"):
        read_tokenizer(tmp_path)
    assert not marker.exists()


def header_of(data: bytes) -> tuple[int, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return length, data[8 : 8 + length]


def mutations(data: bytes) -> list[bytes]:
    """100 files whose header is wrong in some way: lengths, offsets, types, shapes, letters."""
    draw = random.Random(1)
    length, header = header_of(data)
    body = data[8 + length :]
    made = [struct.pack("<Q", n) + data[8:] for n in (0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1)]
    fields = json.loads(header)
    names = [name for name in fields if name != "__metadata__"]
    for number in range(53):
        changed = json.loads(header)
        entry = changed[draw.choice(names)]
        what = number % 5
        if number < 3:  # two tensors at one place
            entry["data_offsets"] = changed[draw.choice([name for name in names if changed[name] != entry])][
                "data_offsets"
            ]
        elif what == 0:
            entry["data_offsets"] = [entry["data_offsets"][0] - draw.randint(1, 99), entry["data_offsets"][1]]
        elif what == 1:
            entry["data_offsets"][1] += draw.randint(1, 10**12)
        elif what == 2:
            entry["dtype"] = draw.choice(["F64", "I8", "Q7", "", 5, None])
        elif what == 3:
            entry["shape"] = draw.choice([[2**40, 2**40], [-1], ["a"], None, [1, 1, 1, 7]])
        else:
            del entry[draw.choice(sorted(entry))]
        text = json.dumps(changed).encode()
        made.append(struct.pack("<Q", len(text)) + text + body)
    while len(made) < 100:
        damaged = bytearray(header)
        for _ in range(20):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        made.append(struct.pack("<Q", length) + bytes(damaged) + body)
    return made


def test_mutated_headers_get_one_sentence(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    mutated = mutations(tiny_checkpoint.read_bytes())
    sounding.load(tiny_checkpoint, device="cpu")  # so that only what follows adds to the peak
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, data in enumerate(mutated):
        bad.write_bytes(data)
        with pytest.raises(CheckpointError) as error:
            sounding.load(bad, device="cpu")
        assert "\n" not in str(error.value), number
        assert str(bad) in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_mutated_weights_of_others_get_one_sentence(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({f"w{i}": torch.randn(i + 1, 3) for i in range(6)}, good)
    refused: list[str] = []
    for data in mutations(good.read_bytes()):
        bad.write_bytes(data)
        try:
            read_state(bad)  # a header can be changed into another good one
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) >= 90
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize("name", ["missing.pt", "folder"])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match="is not a file"):
        read_state(tmp_path / name)
