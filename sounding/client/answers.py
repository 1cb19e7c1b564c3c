"""What a ComfyUI server says, taken for nothing more than it is: every field is looked at before it is used.

Answers may be of any kind, size and depth. Whatever does not fit is left out where the rest has a sense without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..utils.messages import printable
from .graph import Graph, node_name

JSON_BYTES = 32 << 20  # of an answer; a queue holds all its graphs
FILES = 1000  # of one run
SAID = 500  # characters of a message that are shown
NAME = 1000  # characters of a name that are taken back to the server
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff")


@dataclass(frozen=True)
class OutputFile:
    """A file that a node of the graph saved on the server."""

    node: str
    kind: str  # the node's own word: "audio", "images", ...
    filename: str
    subfolder: str
    folder: str  # "output", "temp" or "input"

    @property
    def is_sound(self) -> bool:
        """Whether it is to be heard."""
        return self.kind == "audio" or PurePosixPath(self.filename.lower()).suffix in SOUNDS


def parse(content: bytes | str) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        value = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Any]:
    """A JSON array as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def words(value: Any) -> str:
    """Something that was said, as one short line that only shows; what is no text says nothing."""
    return " ".join(printable(value[: 2 * SAID].replace("\n", " "), SAID).split()) if isinstance(value, str) else ""


def whole(value: Any) -> int:
    """A number of steps; 0 for anything else."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1_000_000
    return int(value) if fits else 0


def name(value: Any) -> str:
    """A name to be given back to the server; empty for what is none."""
    fits = isinstance(value, str) and len(value) <= NAME and not any("\ud800" <= c <= "\udfff" for c in value)
    return value if fits else ""


def output_files(entry: dict[str, Any]) -> list[OutputFile]:
    """All files in a history entry, node by node; at most `FILES`."""
    found: list[OutputFile] = []
    for node, outputs in mapping(entry.get("outputs")).items():
        for kind, files in mapping(outputs).items():
            for file in map(mapping, rows(files)):
                filename = name(file.get("filename"))
                if filename and len(found) < FILES:
                    folder = file.get("type")
                    folder = folder if folder in ("output", "temp", "input") else "output"
                    found.append(OutputFile(node, kind, filename, name(file.get("subfolder")), folder))
    return found


def queued(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The prompts that run, and those that wait, in their order, out of an answer of /queue."""

    def items(key: str) -> list[list[Any]]:
        return [item for item in rows(answer.get(key)) if isinstance(item, list) and len(item) > 1]

    def number(item: list[Any]) -> float:
        return item[0] if isinstance(item[0], (int, float)) else 0

    waiting = sorted(items("queue_pending"), key=number)
    return [str(item[1])[:NAME] for item in items("queue_running")], [str(item[1])[:NAME] for item in waiting]


def input_names(answer: dict[str, Any], class_type: str) -> list[str]:
    """Names of the inputs of a class of nodes, out of an answer of /object_info."""
    inputs = mapping(mapping(answer.get(class_type)).get("input"))
    return [name for group in ("required", "optional") for name in mapping(inputs.get(group))]


def refusal(graph: Graph, body: Any) -> str:
    """Why a graph was refused, in the server's words; empty if it has none."""
    told = mapping(body)
    errors = mapping(told.get("node_errors"))
    if errors:
        return node_errors(graph, errors)
    error = told.get("error")
    said = _joined(mapping(error)) or words(error)
    return f"The server refused the graph: {said}." if said else ""


def node_errors(graph: Graph, errors: dict[str, Any]) -> str:
    """One sentence per node."""
    lines = []
    for node, what in list(errors.items())[:20]:
        said = "; ".join(filter(None, (_joined(mapping(error)) for error in rows(mapping(what).get("errors"))[:20])))
        lines.append(f"Node {node_name(graph, node)}: {said or 'not valid'}.")
    return "\n".join(lines)


def failure(graph: Graph, entry: dict[str, Any]) -> str:
    """Why a run failed or who ended it; empty if it succeeded."""
    status = mapping(entry.get("status"))
    if status.get("status_str", "success") == "success":
        return ""
    for message in rows(status.get("messages")):
        kind, data = message if isinstance(message, list) and len(message) == 2 else ("", {})
        node = node_name(graph, words(str(mapping(data).get("node_id", "?"))))
        if kind == "execution_error":
            said = words(mapping(data).get("exception_message"))
            return f"Node {node} failed: {said or 'it says no more; see the log of the server'}"
        if kind == "execution_interrupted":
            return f"Somebody stopped the run on the server, at node {node}; queue it again."
    return "The run failed on the server, which says no more; see its log."


def _joined(error: dict[str, Any]) -> str:
    message, details = (words(error.get(key)).rstrip(". ") for key in ("message", "details"))
    return f"{message}: {details}" if details and message else message or details
