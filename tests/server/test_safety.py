"""Files that want to run code, and names that lead out of the models folder: no node takes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..malicious_files import FORMS, SUFFIXES

pytestmark = pytest.mark.server


def load(name: str) -> dict[str, Any]:
    """A graph that uses a checkpoint."""
    return {
        "1": {"class_type": "SoundingLoadModel", "inputs": {"checkpoint": name, "dtype": "auto"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "farm.png"}},
        "3": {"class_type": "SoundingEncodeImage", "inputs": {"model": ["1", 0], "image": ["2", 0]}},
        "4": {"class_type": "SoundingGroundText", "inputs": {"patches": ["3", 0], "image": ["2", 0], "text": "a dog"}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 2]}},
    }


@pytest.mark.parametrize("form", FORMS)
def test_no_node_runs_what_is_in_a_file(server, form: str, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        marker, name = tmp_path / "marker", f"bait-{form}{suffix}"
        FORMS[form](server.folder / "models" / "sounding" / name, marker)
        said = server.error(load(name))
        assert name in said
        wanted = "download or export it again" if suffix == ".safetensors" else "choose one from the list"
        assert wanted in said or "not in list" in said  # some hosts check dropdowns themselves
        assert "Traceback" not in said
        assert not marker.exists(), name


@pytest.fixture(scope="module")
def secret(server) -> Iterator[None]:
    """A checkpoint outside of the models folder, with links to it and to its folder inside."""
    models, outside = server.folder / "models" / "sounding", server.folder / "outside"
    # A folder of its own: the host follows links when it lists models, here and in all that runs after it. A link
    # to the server's folder would be a circle through everything, this repository included.
    outside.mkdir()
    for folder in (outside, server.folder):
        shutil.copy(models / "tiny.safetensors", folder / "secret.safetensors")
    (models / "linked").symlink_to(outside, target_is_directory=True)
    (models / "sub").mkdir()
    (models / "sub" / "secret.safetensors").symlink_to(outside / "secret.safetensors")
    yield
    (models / "linked").unlink()
    shutil.rmtree(models / "sub")


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.safetensors",
        "sub/../../../secret.safetensors",
        "..\\..\\secret.safetensors",
        "{folder}/secret.safetensors",
        "linked/secret.safetensors",
        "sub/secret.safetensors",
        "tiny.safetensors/../tiny.safetensors",
        "tiny.safetensors\0.txt",
        "",
        ".",
    ],
)
def test_names_that_lead_out_of_the_folder(server, secret: None, name: str) -> None:
    before = server.log.read_text().count("Sounding: read")
    said = server.error(load(name.format(folder=server.folder)))
    assert any(words in said for words in ("choose", "is a link to a place outside", "not in list")), said
    assert server.log.read_text().count("Sounding: read") == before
