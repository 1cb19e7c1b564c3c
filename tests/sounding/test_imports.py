"""Importing is cheap, and neither importing nor generating looks for a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..conftest import ROOT

HEAVY = ("diffusers", "transformers", "open_clip", "timm", "segment_anything", "torchaudio", "torchvision", "librosa")

OFFLINE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


def python(code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE + code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_import_loads_no_heavy_library() -> None:
    loaded = python("import sounding; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert "sounding" in loaded
    assert not set(loaded) & {*HEAVY, "torch", "numpy"}


def test_the_package_is_a_program_too() -> None:
    """Where no `sounding` is on the path, as in ComfyUI's Python."""
    ran = subprocess.run(
        [sys.executable, "-m", "sounding", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert "sounding" in ran.stdout
    assert "generate" in ran.stdout


def test_modules_load_networks_libraries_only_when_they_build_one() -> None:
    code = """
import sounding.audio, sounding.encoders.patches, sounding.encoders.text, sounding.grounding, sounding.diffusion
import sounding.networks.build, sounding.checkpoint, sounding.model
print(*{name.split('.')[0] for name in sys.modules})
"""
    loaded = python(code).split()
    assert "torch" in loaded
    assert not set(loaded) & set(HEAVY)


def test_generation_needs_no_network(tiny_checkpoint: Path) -> None:
    code = """
import torch, sounding
model = sounding.load(sys.argv[1], device="cpu")
image = torch.rand(1, 32, 32, 3)
for selection in ({"mask": torch.ones(1, 32, 32)}, {"text": "a dog"}):
    print(tuple(model.generate(image=image, seconds=0.3, steps=1, **selection).waveform.shape))
try:
    socket.create_connection(("localhost", 9))
except AssertionError:
    print("refused")
"""
    assert python(code, str(tiny_checkpoint)).splitlines() == ["(1, 1, 4800)", "(1, 1, 4800)", "refused"]


def test_public_names_are_what_the_package_lists() -> None:
    import sounding

    for name in sounding.__all__:
        assert getattr(sounding, name).__name__ == name
    missing = "nothing_of_this_name"
    assert not hasattr(sounding, missing)
