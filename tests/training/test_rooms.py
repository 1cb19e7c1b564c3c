"""Which room of the training package may import from which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import training

ROOT = Path(training.__file__).parent
# What each room may import from; the modules at the top (registry, recipe, run, ...) may import from all.
ALLOWED = {
    "cluster": set(),
    "data": {"cluster"},
    "engine": set(),
    "matching": {"data"},
    "tasks": {"data", "engine", "matching"},
    "finetune": {"tasks", "data", "engine", "the top"},
    "evaluate": {"cluster", "data", "matching"},
    # evaluate: its models of sounds; the top: the reading of YAML files
    "refine": {"cluster", "data", "evaluate", "matching", "the top"},
    # finetune: its evaluation with the starter's judge
    "starter": {"tasks", "data", "engine", "the top", "finetune", "evaluate", "matching"},
}


def imports(room: str) -> dict[str, set[str]]:
    """Rooms that a room's modules import from, anywhere in them -> the modules that do."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / room).rglob("*.py"):
        package = path.relative_to(ROOT.parent).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                target = (*base, *(node.module or "").split(".")) if node.module else base
                targets = [(*target, name.name) for name in node.names]
            elif isinstance(node, ast.Import):
                targets = [tuple(name.name.split(".")) for name in node.names]
            else:
                continue
            for target in targets:
                if target[0] == "training" and len(target) > 1:
                    other = target[1] if (ROOT / target[1]).is_dir() else "the top"
                    if other != room:
                        found.setdefault(other, set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_one_way(room: str) -> None:
    for other, modules in imports(room).items():
        assert other in ALLOWED[room], f"{sorted(modules)} import from {other}"


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set(ALLOWED)


def test_of_the_top_only_the_registry_and_the_command_line_know_the_starter() -> None:
    """Neither do they know fine-tuning: a run of the paper's needs no more than its own tasks."""
    for path in ROOT.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
        known = {module.split(".")[0] for module in named} & {"starter", "finetune"}
        assert not known or path.name in {"registry.py", "__main__.py"}, path.name
