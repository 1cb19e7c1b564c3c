"""Reading recipes in a bounded way: what is no plain mapping of settings is refused before it takes time or memory.

A file may name another one (`extends: base.yaml`, relative to itself) and give its differences alone: mappings are
merged, everything else is replaced. The command line does the same with `key.key=value`.

OmegaConf would take over the two short functions that merge (`merge`, `parse_overrides`: 30 lines) and read YAML
without these bounds; its structured configurations know neither ranges nor unions nor tuples. The checks of values are
`sounding.utils.fields`, which checkpoints need without any training library.
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sounding.utils.messages import printable

MOST_BYTES = 64 * 1024  # of a file; the longest of ours has 2 KB
MOST_DEPTH = 16  # mappings and lists within each other
MOST_ALIASES = 16
MOST_VALUES = 10_000  # with what aliases repeat
MOST_FILES = 8  # that extend each other
MOST_NUMBER = 64  # characters of what may be a number; longer ones are text
MOST_KEYS = 8  # of `key.key.key=value`
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with limits. It also takes 1e-4 (without a dot) for a number, as YAML 1.2 does."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = self.aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Node | None:
        """PyYAML's, up to a depth, with few aliases and no tags."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                raise yaml.YAMLError(f"more than {MOST_ALIASES} aliases; write the values out")
        elif getattr(event, "tag", None) not in (None, "!"):
            raise yaml.YAMLError(f"the tag {event.tag[:40]}; write the value without it")
        if self.depth >= MOST_DEPTH:
            raise yaml.YAMLError(f"more than {MOST_DEPTH} levels within each other")
        self.depth += 1
        node: Node | None = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """PyYAML's; its patterns take for ever over long texts, and Python refuses to read such numbers."""
        if kind is ScalarNode and implicit[0] and len(value) > MOST_NUMBER:
            return str(self.DEFAULT_SCALAR_TAG)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def get_single_data(self) -> Any:
        """The document, if it is small with its aliases written out, has no key twice and no merge keys."""
        node = self.get_single_node()  # type: ignore[no-untyped-call]
        if node is None:
            return None
        _check(node, {})
        return self.construct_document(node)  # type: ignore[no-untyped-call]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def _check(node: Node, sizes: dict[int, int]) -> int:
    """How many values a node is, aliases written out; 0 while it is being counted."""
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise yaml.YAMLError("an alias that stands for what it is in")
        return known
    sizes[id(node)] = 0
    total = 1
    if isinstance(node, SequenceNode):
        total += sum(_check(item, sizes) for item in node.value)
    elif isinstance(node, MappingNode):
        if any(key.tag == MERGE for key, _ in node.value):
            raise yaml.YAMLError("a merge key (<<); write the values out, or use extends")
        keys = Counter(key.value for key, _ in node.value if isinstance(key, ScalarNode))
        if keys and keys.most_common(1)[0][1] > 1:
            raise yaml.YAMLError(f"the key {keys.most_common(1)[0][0][:40]!r} twice")
        total += sum(_check(key, sizes) + _check(value, sizes) for key, value in node.value)
    if total > MOST_VALUES:
        raise yaml.YAMLError(f"more than {MOST_VALUES} values")
    sizes[id(node)] = total
    return total


def parse_yaml(text: str) -> Any:
    """YAML of plain values.

    Raises:
        ValueError: another text; says what is in it.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ValueError(said[:300] or type(error).__name__) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, merged over the one that it extends.

    Raises:
        ValueError: a file is missing, too large or no YAML mapping, or files extend each other in a circle or a long
            chain.
    """
    chain: list[dict[str, Any]] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        path = following
        text, place = _text(path)
        if place in seen:
            raise ValueError(f"{path} extends itself through {' -> '.join(p.name for p in seen)}; break the circle.")
        seen.append(place)
        if len(seen) > MOST_FILES:
            raise ValueError(f"{seen[0]} extends more than {MOST_FILES - 1} files in a row; put some of them together.")
        try:
            data = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"{path} is not YAML that a recipe may have ({error}); name a recipe file.") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path} holds a {type(data).__name__}, but a mapping of keys is expected.")
        base = data.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise ValueError(f"{path} extends a {type(base).__name__}, but the name of one file is expected.")
        following = path.parent / base if base is not None else None
        chain.append(data)
    merged: dict[str, Any] = {}
    for data in reversed(chain):
        merged = merge(merged, data)
    return merged


def _text(path: Path) -> tuple[str, Path]:
    """A file's text, and where it lies."""
    called = printable(path, 300)
    try:
        place = path.resolve()
        if not stat.S_ISREG(place.stat().st_mode):  # a device or a pipe may have no end
            raise ValueError(f"{called} is not a plain file; name a recipe file.")
        with place.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{called} cannot be read ({error.strerror}); name a recipe file.") from None
    except RuntimeError:  # links in a circle, before Python 3.13
        raise ValueError(f"{called} cannot be read (links in a circle); name a recipe file.") from None
    except ValueError as error:
        if "plain file" in str(error):
            raise
        raise ValueError(f"{called} cannot be read ({error}); name a recipe file.") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{called} has more than {MOST_BYTES} bytes, which no recipe has; name a recipe file.")
    try:
        return data.decode("utf-8-sig"), place
    except UnicodeDecodeError as error:
        raise ValueError(f"{called} is not text in UTF-8 ({error.reason}); name a recipe file.") from None


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` over it: mappings key by key, all else replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """`["loop.lr=1e-4", "name=mine"]` as nested mappings.

    Raises:
        ValueError: an override without a key or a value that is no YAML.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        names = key.split(".")
        if not equals or not all(names) or len(names) > MOST_KEYS:
            raise ValueError(f"{override[:80]!r} is no override; write key=value, such as loop.lr=1e-4.")
        if len(text) > MOST_BYTES:
            raise ValueError(f"The value of {override[:80]!r} has {len(text)} characters; put it into a recipe file.")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"The value of {override[:80]!r} is not YAML ({error}); quote it.") from None
        for name in reversed(names):
            value = {name: value}
        data = merge(data, value)
    return data
