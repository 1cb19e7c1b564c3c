"""What the host reads and keeps: only the parts that a graph uses, once, and nothing twice for a new seed or mask."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest

pytestmark = pytest.mark.server


def parts_read(server: Any, name: str) -> list[str]:
    """Parts of a checkpoint in the order in which the server read them."""
    return re.findall(rf"Sounding: read (\w+) of \S*{re.escape(name)}", server.log.read_text())


def cached(entry: dict[str, Any]) -> set[str]:
    """Nodes that the host did not run again."""
    return {name for kind, data in entry["status"]["messages"] if kind == "execution_cached" for name in data["nodes"]}


def of_class(graph: dict[str, Any], *classes: str) -> set[str]:
    """Ids of the nodes of some classes."""
    return {name for name, node in graph.items() if node["class_type"] in classes}


@pytest.fixture
def fresh(server: Any) -> str:
    """A checkpoint that no graph has used yet."""
    folder = server.folder / "models" / "sounding"
    name = f"fresh{len(list(folder.iterdir()))}.safetensors"
    shutil.copy(folder / "tiny.safetensors", folder / name)
    return name


def with_checkpoint(graph: dict[str, Any], name: str) -> dict[str, Any]:
    for node in of_class(graph, "SoundingLoadModel"):
        graph[node]["inputs"]["checkpoint"] = name
    return graph


def test_a_graph_reads_the_parts_that_it_uses_once(server, tiny_graph, fresh):
    """A mask needs no query encoder, which at full size is a quarter of the file."""
    for seed in (1, 2):
        server.run(with_checkpoint(tiny_graph("two_objects_tracks_and_mix", seed=seed), fresh))
        assert sorted(parts_read(server, fresh)) == ["grounding", "patches", "unet", "vae", "vocoder"]
    graph = with_checkpoint(tiny_graph("text_grounded", seed=1), fresh)
    server.run(graph)
    assert "query" in parts_read(server, fresh)


def test_the_node_for_everything_reads_no_query_either(server, tiny_graph, fresh):
    graph = with_checkpoint(tiny_graph("one_object", seed=1), fresh)
    server.run(graph)
    assert sorted(parts_read(server, fresh)) == ["grounding", "patches", "unet", "vae", "vocoder"]


def test_another_mask_encodes_no_image_again(server, tiny_graph):
    graph = tiny_graph("two_objects_tracks_and_mix", seed=41)
    server.run(graph)
    loaded = server.log.read_text().count("Sounding: read")
    graph[min(of_class(graph, "LoadImageMask"))]["inputs"]["channel"] = "green"
    again = cached(server.run(graph))
    assert of_class(graph, "SoundingLoadModel", "SoundingEncodeImage", "LoadImage") <= again
    assert len(of_class(graph, "SoundingGroundMask", "SoundingSampler") - again) == 2  # of the changed mask alone
    assert server.log.read_text().count("Sounding: read") == loaded
