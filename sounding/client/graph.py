"""A ComfyUI graph in its API form: reading it, and putting images and values into it.

The API form is what `POST /prompt` takes: node id -> {"class_type", "inputs", "_meta": {"title"}}. An input is a
value, or a link [node id, output number].
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..images.decoding import open_image, open_mask
from ..utils.messages import printable

Graph = dict[str, dict[str, Any]]
Upload = Callable[[str, bytes], str]  # (file name, content) -> the name by which nodes find it
# Classes that read a file, and the input that names it.
IMAGES = {"LoadImage": "image", "SoundingClick": "picture"}
MASKS = {"LoadImageMask": "image"}
GRAPH_BYTES = 64 << 20
DEPTH = 50  # of lists and mappings in each other
TITLE = 80  # characters of a node's name that are shown


class GraphError(ValueError):
    """The graph is not what was asked for; the message says what to do."""


def read_graph(path: Path) -> Graph:
    """Read an API graph.

    Raises:
        GraphError: the file is not JSON, is a workflow in the page's own form, or is no graph.
    """
    try:
        with path.open("rb") as file:
            content = file.read(GRAPH_BYTES + 1)
    except OSError as error:
        raise GraphError(f"{path} cannot be read ({error.strerror or error}); give a graph in the API form.") from None
    if len(content) > GRAPH_BYTES:
        raise GraphError(f"{path} has more than {GRAPH_BYTES >> 20} MiB, but a graph is expected; give a smaller one.")
    try:
        graph = json.loads(content)
    except RecursionError:
        raise GraphError(f"{path} nests values too deep to be a graph; export it anew.") from None
    except ValueError as error:
        raise GraphError(f"{path} is not JSON ({error}); give a workflow that ComfyUI exported as API.") from None
    check_depth(graph, str(path))
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise GraphError(
            f"{path} is a workflow in the page's form, but the API form is expected; open it in ComfyUI and choose "
            "Workflow > Export (API), or take the file of the same name from example_workflows/api."
        )
    if not isinstance(graph, dict) or not graph or not all(_is_node(node) for node in graph.values()):
        raise GraphError(
            f"{path} holds no graph of nodes with class_type and inputs; export one by Workflow > Export (API)."
        )
    return graph


def check_depth(value: Any, what: str) -> None:
    """Raise GraphError for lists and mappings that lie more than `DEPTH` deep in each other."""
    level = [value]
    for _ in range(DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [one for values in inner for one in values if isinstance(one, (dict, list))]
        if not level:
            return
    raise GraphError(f"{what} nests values more than {DEPTH} deep, but a graph is expected; export it anew.")


def node_name(graph: Graph, node: str) -> str:
    """What people call a node: "7 (Sounding Sampler)"; a node made while running is called by its maker's name."""
    known = node if node in graph else node.partition(".")[0]
    if known not in graph:
        return printable(node, TITLE)
    return printable(f"{known[:TITLE]} ({_title(graph[known])})", 2 * TITLE)


def find_node(graph: Graph, name: str) -> str | None:
    """The id of the node with this id, else with this title, else of this class; None if there is none.

    Raises:
        GraphError: several nodes have the title, or are of the class.
    """
    if name in graph:
        return name
    for matches in (
        [node for node, what in graph.items() if _title(what) == name],
        [node for node, what in graph.items() if what["class_type"] == name],
    ):
        if len(matches) > 1:
            raise GraphError(f"{name!r} may be any of {_listed(graph, matches)}; name the node by its number.")
        if matches:
            return matches[0]
    return None


def set_input(graph: Graph, assignment: str, known_inputs: Callable[[str], Iterable[str]] = lambda _: ()) -> None:
    """Carry out `node.input=value`; the node by id, title or class, the value as JSON or else as text.

    Args:
        graph: is changed.
        assignment: such as "7.seed=3" or "Sounding Sampler.scheduler=ddim". Where the graph has a text so far, the
            value is taken as it stands, so that "4.text=1" remains a text.
        known_inputs: class -> the inputs it has beside those in the graph (graphs may leave out optional ones).

    Raises:
        GraphError: no such node or input (the message lists those there are), or a value of another kind.
    """
    left, equals, value = assignment.partition("=")
    if not equals or "." not in left:
        raise GraphError(f"--set {assignment} came, but node.input=value is expected, such as --set 7.seed=3.")
    # Titles may have dots, and so may inputs: the first division that fits the graph is meant.
    places = [i for i, letter in enumerate(left) if letter == "."]
    nodes = [(find_node(graph, left[:i]), left[i + 1 :]) for i in places]
    found = [(node, key) for node, key in nodes if node is not None]
    if not found:
        raise GraphError(f"--set {assignment}: no node {left[: places[-1]]!r}; there are {_listed(graph, graph)}.")
    for node, key in found:
        inputs = graph[node]["inputs"]
        if key in inputs or key in set(known_inputs(graph[node]["class_type"])):
            inputs[key] = _value(assignment, value, inputs.get(key))
            return
    node, key = found[0]
    there = sorted({*graph[node]["inputs"], *known_inputs(graph[node]["class_type"])})
    raise GraphError(
        f"--set {assignment}: node {node_name(graph, node)} has no input {key!r}; it has {', '.join(there) or 'none'}."
    )


def assign_files(graph: Graph, readers: Mapping[str, str], given: Sequence[str], option: str) -> dict[str, Path]:
    """Which file goes into which node, out of those of the classes `readers` (class -> the input for the file's name).

    NODE=FILE names the node, by id or title. Files without a node go into the others of these classes, in the graph's
    order; there have to be as many as nodes, so that none is filled by mistake.

    Returns:
        Node id -> file.

    Raises:
        GraphError: a file or node that does not exist, two files for one node, or other numbers of files and nodes.
    """
    chosen: dict[str, Path] = {}
    unnamed: list[Path] = []
    for text in given:
        left, equals, right = text.partition("=")
        node = find_node(graph, left) if equals else None
        file = Path(text if node is None else right)
        if not file.is_file():
            missing = f"; there is no node {left!r} either" if equals and node is None else ""
            raise GraphError(f"{option} {text}: {file} is not a file{missing}; give FILE or NODE=FILE.")
        if node is None:
            unnamed.append(file)
        elif node in chosen:
            raise GraphError(f"{option}: two files came for node {node_name(graph, node)}; give one.")
        elif not _reads_file(graph[node], readers):
            raise GraphError(f"{option} {text}: node {node_name(graph, node)} reads no such file; name another.")
        else:
            chosen[node] = file
    free = [node for node, what in graph.items() if _reads_file(what, readers) and node not in chosen]
    if unnamed and len(unnamed) != len(free):
        there = f"{len(free)} ({_listed(graph, free)})" if free else "none"
        raise GraphError(
            f"{option}: files without a node: {len(unnamed)}, {' or '.join(readers)} nodes to fill: {there}; give one "
            f"file for each, in this order, or name nodes as {option} NODE=FILE."
        )
    return chosen | dict(zip(free, unnamed, strict=False))


def fill(graph: Graph, images: Sequence[str], masks: Sequence[str], upload: Upload) -> None:
    """Upload images and masks and name them in the graph, after `assign_files`.

    A graph without any LoadImageMask takes its mask from its image's transparency: there a single image and a
    single mask become one file, with the mask as the mask editor saves it.

    Raises:
        GraphError: see `assign_files`.
        ValueError: a file that is no image.
    """
    pictures = assign_files(graph, IMAGES, images, "--image")
    if masks and not any(node["class_type"] in MASKS for node in graph.values()):
        if len(masks) != 1 or len(pictures) != 1 or not Path(masks[0]).is_file():
            raise GraphError(
                "--mask: the graph has no LoadImageMask node; give one --image with one --mask FILE, to put the mask "
                "into the image's transparency, or a graph with such nodes."
            )
        ((node, picture),) = pictures.items()
        if not any([node, 1] == value for what in graph.values() for value in what["inputs"].values()):
            raise GraphError(
                f"--mask: node {node_name(graph, node)} alone could take a mask, but its mask output goes nowhere; "
                "leave --mask out, or connect that output."
            )
        name = upload(f"{picture.stem}_masked.png", painted(picture, Path(masks[0])))
        graph[node]["inputs"][IMAGES[graph[node]["class_type"]]] = name
        return
    selected = assign_files(graph, MASKS, masks, "--mask")
    for file in pictures.values():
        open_image(file)
    # Grey in all channels, so that it selects what it selects elsewhere here: white, or what is opaque.
    greys = {node: _png(open_mask(file)) for node, file in selected.items()}
    # Nothing is sent before everything has been looked at.
    for node, file in pictures.items():
        graph[node]["inputs"][IMAGES[graph[node]["class_type"]]] = upload(file.name, file.read_bytes())
    for node, grey in greys.items():
        graph[node]["inputs"] |= {"image": upload(f"{selected[node].stem}.png", grey), "channel": "red"}


def painted(picture: Path, mask: Path) -> bytes:
    """A PNG of the image with the selection cut out of its opacity, as ComfyUI's mask editor saves it."""
    from PIL import ImageChops

    image = open_image(picture).convert("RGB")
    image.putalpha(ImageChops.invert(open_mask(mask).resize(image.size)))
    return _png(image)


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _reads_file(node: dict[str, Any], readers: Mapping[str, str]) -> bool:
    """Whether a node reads a file, rather than nothing or what another node gives."""
    name = readers.get(node["class_type"])
    # An image that is connected to SoundingClick takes precedence over its file.
    return isinstance(node["inputs"].get(name), str) and not isinstance(node["inputs"].get("image"), list)


def _title(node: dict[str, Any]) -> str:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if title and isinstance(title, str) else str(node["class_type"])


def _listed(graph: Graph, nodes: Iterable[str]) -> str:
    return ", ".join(node_name(graph, node) for node in nodes)


def _value(assignment: str, text: str, before: Any) -> Any:
    """The value, of the kind that the input had before where that is known."""
    try:
        value = json.loads(text)
        check_depth(value, f"--set {printable(assignment, TITLE)}")
    except RecursionError:
        raise GraphError(f"--set {printable(assignment, TITLE)} nests values too deep; give a simpler one.") from None
    except GraphError:
        raise
    except ValueError:
        value = text
    if isinstance(before, str):
        return value if isinstance(value, str) else text
    if isinstance(before, bool) and not isinstance(value, bool):
        raise GraphError(f"--set {assignment}: the value is {text!r}, but true or false is expected there.")
    number = isinstance(before, (int, float)) and not isinstance(before, bool)
    if number and (isinstance(value, bool) or not isinstance(value, (int, float, list))):
        raise GraphError(f"--set {assignment}: the value is {text!r}, but a number is expected there.")
    return value
