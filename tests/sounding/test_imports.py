"""Importing is cheap, and neither importing nor generating looks for a network."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

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


def modules() -> dict[str, Path]:
    """All modules of the library by their names."""
    found = {}
    for path in sorted((ROOT / "sounding").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path, known: Collection[str]) -> set[str]:
    """What a module imports, also inside functions; what is there for type checkers alone is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {name if (name := f"{base}.{alias.name}") in known else base for alias in node.names}
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: (imported(name, path, known) & known.keys()) - {name} for name, path in known.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("sounding.checkpoint") < order.index("sounding.loading") < order.index("sounding.model")
    assert "sounding.model" not in graph["sounding.checkpoint"] | graph["sounding.loading"]
    assert {"sounding.grounding", "sounding.diffusion", "sounding.loading"} <= graph["sounding.parts"]
    with pytest.raises(graphlib.CycleError, match=r"sounding\.checkpoint'"):
        graphlib.TopologicalSorter(graph | {"sounding.checkpoint": {"sounding.model"}}).prepare()


def test_the_library_knows_neither_nodes_nor_training() -> None:
    known = modules()
    for name, path in known.items():
        tops = {found.partition(".")[0] for found in imported(name, path, known)}
        assert not tops & {"nodes", "training", "tests", "benchmarks", "comfy", "comfy_api"}, name


def test_converting_and_segmenting_read_weights_and_not_each_other() -> None:
    known = modules()
    rooms = {
        room: set().union(*(imported(name, path, known) for name, path in known.items() if name.startswith(room)))
        for room in ("sounding.weights", "sounding.convert", "sounding.segment")
    }

    def uses(room: str, other: str) -> bool:
        return any(found == other or found.startswith(f"{other}.") for found in rooms[room])

    assert uses("sounding.convert", "sounding.weights")
    assert uses("sounding.segment", "sounding.weights")
    for room in rooms:
        for other in rooms.keys() - {room, "sounding.weights"}:
            assert not uses(room, other), (room, other)


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


@pytest.fixture(scope="module")
def generated(tiny_checkpoint: Path) -> list[str]:
    """Lines of a process that has no network and generates, first without the text tower."""
    code = """
import gc, torch, sounding
model = sounding.load("starter", device="cpu", parts=["patches", "grounding", "unet", "vae", "vocoder"])
assert gc.isenabled() and model.query is None
assert model.generate(image=torch.rand(1, 32, 32, 3), mask=torch.ones(1, 32, 32), seconds=0.2, steps=1).waveform.any()
print(*sys.modules)
try:
    model.ground(torch.zeros(1, 81, 256), text="a dog")
except ValueError as error:
    print(error)
model = sounding.load(sys.argv[1], device="cpu")
image = torch.rand(1, 32, 32, 3)
for selection in ({"mask": torch.ones(1, 32, 32)}, {"text": "a dog"}):
    print(tuple(model.generate(image=image, seconds=0.3, steps=1, **selection).waveform.shape))
try:
    socket.create_connection(("localhost", 9))
except AssertionError:
    print("refused")
"""
    return python(code, str(tiny_checkpoint)).splitlines()


def test_a_masked_object_sounds_without_the_text_tower(generated: list[str]) -> None:
    """Nor the libraries that it is built with; the collector is on again afterwards."""
    loaded, error, *_ = generated
    assert "diffusers" in loaded.split()
    assert "open_clip" not in loaded.split()
    assert error == "The model was loaded without 'query', but this needs it; load it with 'query' among its parts."


def test_generation_needs_no_network(generated: list[str]) -> None:
    assert generated[2:] == ["(1, 1, 4800)", "(1, 1, 4800)", "refused"]


def test_public_names_are_what_the_package_lists() -> None:
    import sounding

    for name in sounding.__all__:
        assert getattr(sounding, name).__name__ == name
    missing = "nothing_of_this_name"
    assert not hasattr(sounding, missing)
