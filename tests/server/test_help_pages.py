"""Help pages: one for each node, complete, with images that the help panel finds."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from PIL import Image

pytestmark = pytest.mark.server

PAGES = Path(__file__).parent.parent.parent / "web" / "docs"
NODES = sorted(path.stem for path in PAGES.glob("*.md"))
WORKFLOWS = {path.stem for path in (PAGES.parent.parent / "example_workflows").glob("*.json")}


def section(page: str, title: str) -> str:
    """A part of a page, by its heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def rows(table: str) -> list[str]:
    """First cells of a table's rows, as they are named in backticks."""
    return re.findall(r"^\| `([^`]+)` \| \S", table, re.MULTILINE)


def test_every_node_has_a_page_and_every_page_a_node(object_info):
    ours = {name for name, info in object_info.items() if info["python_module"] == "custom_nodes.sounding-objects"}
    assert set(NODES) == ours


@pytest.mark.parametrize("name", NODES)
def test_page_names_what_the_schema_has(server, object_info, name):
    info = object_info[name]
    page = server.get(f"/extensions/sounding-objects/docs/{name}.md").text  # where the panel looks for it
    assert page.startswith(f"# {info['display_name']}\n")
    inputs = [key for group in ("required", "optional") for key in info["input"].get(group, {})]
    assert sorted(rows(section(page, "Inputs"))) == sorted(inputs)
    assert rows(section(page, "Outputs")) == info["output_name"]


@pytest.mark.parametrize("name", NODES)
def test_page_has_a_chain_and_an_image(server, object_info, name):
    """The panel puts the folder of the pages before addresses that are relative (see its renderMarkdownToHtml)."""
    base = f"{server.url}/extensions/sounding-objects/docs/"
    page = server.get(f"/extensions/sounding-objects/docs/{name}.md").text
    chain = section(page, "Typical chain")
    assert f"**{object_info[name]['display_name']}**" in chain
    mentioned = set(re.findall(r"`(\w+)`", chain))
    assert mentioned
    assert mentioned <= WORKFLOWS
    images = re.findall(r"!\[([^\]]+)\]\(([^)\s]+)\)", page)
    assert images
    for _, address in images:
        content = server.get(urljoin(base, address).removeprefix(server.url)).content
        assert min(Image.open(io.BytesIO(content)).size) > 100


def test_the_images_are_small_and_all_used():
    files = {path.name: path.stat().st_size for path in (PAGES / "images").iterdir()}
    assert sum(files.values()) <= 600_000
    used = {address for page in PAGES.glob("*.md") for address in re.findall(r"\(images/([^)]+)\)", page.read_text())}
    assert used == set(files)
