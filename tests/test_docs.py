"""Pages say what is there: links and anchors, files, modules, and command lines with their options."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from sounding.weights.catalogue import CATALOGUE

ROOT = Path(__file__).parent.parent
MADE = {"data", "demo", "dist", "runs", "weights"}  # by commands, in the checkout
# Folders of this repository that pages name files of. `models/` is also a folder of ComfyUI, and one to write to.
ROOMS = "sounding|training|nodes|web|tests|benchmarks|docs|examples|example_workflows|locales|\\.ci"
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n)+")
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
PATH = re.compile(rf"^(?:{ROOMS})/[\w.*/-]*$")
MODULE = re.compile(r"\b(?:sounding|training|benchmarks|nodes)(?:\.[a-z_]\w*)+\b")


def pages() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not (name.startswith(".") or (folder == str(ROOT) and name in MADE))]
        yield from (Path(folder) / name for name in files if name.endswith(".md"))


PAGES = sorted(pages())
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks with their languages ("" where none is given)."""
    fenced = [(found[2], re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE)) for found in FENCE.finditer(text)]
    return fenced + [("", re.sub("^ {4}", "", found, flags=re.MULTILINE)) for found in INDENTED.findall(prose(text))]


def prose(text: str) -> str:
    return FENCE.sub("\n", text)


def spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(LINK, lambda link: link[0].split("]")[0][1:], title).lower())
        slug = slug.strip().replace(" ", "-")
        found.add(next(name for n in range(99) if (name := f"{slug}-{n}" if n else slug) not in found))
    return found


@every_page
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}; there are {anchors(target)}"


@every_page
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    words = [*spans(text), *(word for _, block in blocks(text) for word in block.split())]
    for word in words:
        if PATH.match(word) and not word.startswith("docs/api/"):  # which is made
            assert list(ROOT.glob(word.rstrip("/"))), f"{page.name} names {word}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or what one has."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:cut])
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            found: Any = importlib.import_module(".".join(parts[:cut])) if cut < len(parts) else None
            for attribute in parts[cut:]:
                if not hasattr(found, attribute):
                    fields = getattr(found, "__dataclass_fields__", {})
                    return attribute in fields and attribute == parts[-1]
                found = getattr(found, attribute)
            return True
    return False


@every_page
def test_named_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = [*spans(text), *(block for language, block in blocks(text) if language != "python")]
    for name in {name for piece in code for name in MODULE.findall(piece)}:
        if not name.endswith((".safetensors", ".json", ".wav", ".zip")):
            assert resolves(name), f"{page.name} names {name}"


@every_page
def test_python_blocks_import_what_exists(page: Path) -> None:
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"sounding", "training"}:
                for alias in node.names:
                    assert resolves(f"{node.module}.{alias.name}"), f"{page.name} imports {node.module}.{alias.name}"


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Command lines, and whether they are whole (in a block) or may be a part (in a sentence)."""
    for language, block in blocks(text):
        if language in {"", "sh"}:
            yield from ((line, True) for line in block.replace("\\\n", " ").splitlines())
    yield from ((span, False) for span in spans(text))


@functools.cache
def extras() -> set[str]:
    """Names of the project's extras and groups."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.10 has none
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {*metadata["project"]["optional-dependencies"], *metadata["dependency-groups"]}


def program(words: list[str]) -> tuple[str, list[str]] | None:
    """A module of ours and its arguments; None for other programs."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:1] == ["uv"] or words[:2] == ["accelerate", "launch"]:
        for option, name in pairwise(words):
            assert option not in {"--extra", "--group"} or name in extras(), f"uv {option} {name}"
        words = words[min((words.index(w) for w in ("python", "sounding", "-m") if w in words), default=len(words)) :]
    if words[:1] == ["sounding"]:
        return "sounding", words[1:]
    if words[:1] == ["-m"] or (words[:1] and re.fullmatch(r"(.*/)?python3?", words[0]) and words[1:2] == ["-m"]):
        words = words[words.index("-m") + 1 :]
        return (words[0], words[1:]) if words and re.match(r"(sounding|training|benchmarks)\b", words[0]) else None
    if len(words) > 1 and words[0] == "python" and words[1].startswith("docs/tools/"):
        return words[1].removesuffix(".py").replace("/", "."), words[2:]
    return None


@functools.cache
def command_of(module: str) -> Any:
    """A module as a program, as typer builds it."""
    home = {"sounding": "sounding.cli.app", "training": "training.__main__"}.get(module, module)
    found = importlib.import_module(home)
    app = getattr(found, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(found.main)
    return typer.main.get_command(app)


def problem(command: Any, arguments: list[str], whole: bool) -> str:
    """What is wrong with a command's arguments, or "". No class of click's is named: newer typers bring their own."""
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if not arguments or arguments[0] in {"--help", "..."}:
        return ""
    commands = getattr(command, "commands", None)
    if commands and arguments[0] not in options:
        name = arguments[0]
        return problem(commands[name], arguments[1:], whole) if name in commands else f"no {name!r} in {list(commands)}"
    if not whole:
        unknown = {word.split("=")[0] for word in arguments if word.startswith("--")} - options - {"--help"}
        return f"no {unknown} in {sorted(options)}" if unknown else ""
    try:
        command.make_context("docs", list(arguments))
    except Exception as error:
        return getattr(error, "message", "") or repr(error)
    return ""


def wrong_arguments(module: str, arguments: list[str], whole: bool) -> str:
    """What is wrong with a module's arguments, or ""."""
    if not arguments:
        return ""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    source = file.read_text(encoding="utf-8") if file.is_file() else ""
    if "argparse" not in source:
        return problem(command_of(module), arguments, whole)
    beside = "".join(path.read_text(encoding="utf-8") for path in file.parent.glob("*.py"))  # parsers have parents
    unknown = [word for word in arguments if word.startswith("--") and f'"{word}"' not in beside]
    return f"no {unknown}" if unknown else ""


@every_page
def test_commands_are_understood(page: Path) -> None:
    for line, whole in command_lines(page.read_text(encoding="utf-8")):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # not a command line: an apostrophe, a quote
            continue
        for part in " ".join(shlex.quote(word) for word in words).split(" '&&' "):
            found = program(shlex.split(part))
            said = wrong_arguments(*found, whole) if found else ""
            assert not said, f"{page.name}: {line!r}: {said}"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "tools").glob("*.py")))
def test_tools_of_docs_are_named_as_they_are(name: str) -> None:
    """Each tool that is a command shows in its first lines how it is run."""
    source = (ROOT / "docs" / "tools" / f"{name}.py").read_text(encoding="utf-8")
    documented = ast.get_docstring(ast.parse(source)) or ""
    assert '__name__ == "__main__"' not in source or f"docs/tools/{name}.py" in documented


def test_the_map_shows_every_room() -> None:
    """All packages, and what lies directly in the three that others are in."""
    page = (ROOT / "docs" / "developers.md").read_text(encoding="utf-8")
    for room in ("sounding", "nodes", "training"):
        packages = {path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / room).rglob("__init__.py")}
        modules = {f"{room}/{path.name}" for path in (ROOT / room).glob("[a-z]*.py")}
        assert not {name for name in packages | modules if f"`{name}`" not in page}


def test_all_nodes_are_listed_under_their_names() -> None:
    page = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").rglob("*.py"))
    named = re.findall(r'node_id="(\w+)",\s+display_name="([^"]+)"', sources)
    assert len(named) >= 14
    for node, name in named:
        assert f"[{name}](../web/docs/{node}.md)" in page, node
    for path in (ROOT / "example_workflows").glob("*.json"):
        assert f"| `{path.stem}` |" in page, path.stem


def test_what_the_registry_leaves_out_is_there() -> None:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or list(ROOT.glob(line.rstrip("/"))), line


def test_all_weights_that_can_be_fetched_are_listed() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for weights in CATALOGUE:
        assert f"`{weights.name}`" in page, weights.name
