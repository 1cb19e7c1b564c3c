"""What a fresh installation gets today: the main job on the newest of everything, as `.ci/newest` installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..sounding.test_libraries import MISMATCH, ROOT, main_job, put_stub, run

pytestmark = pytest.mark.newest


def test_the_environment_is_a_fresh_installation() -> None:
    """requirements.txt is there, and brought no torchaudio."""
    assert importlib.util.find_spec("torchaudio") is None
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert importlib.metadata.version(re.split(r"[<>=]", line)[0])


@pytest.fixture(scope="module")
def usual() -> list[float]:
    """What the main job makes without torchaudio."""
    samples, loaded = main_job()
    assert not loaded
    return samples


def test_the_main_job_beside_no_torchaudio_and_a_broken_one(usual: list[float], tmp_path: Path) -> None:
    broken, loaded = main_job(first=put_stub(tmp_path, "torchaudio", f"raise RuntimeError({MISMATCH!r})"))
    assert not loaded
    assert broken == usual


def test_the_main_job_beside_the_newest_torchaudio(usual: list[float], tmp_path: Path) -> None:
    """Whether it fits the newest torch or not: `pip install torch torchaudio` gives the two."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    folder = tmp_path / "site-packages"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "torchaudio"]
    subprocess.run([*command, "--python", sys.executable], check=True)
    fits = run("import torchaudio", first=folder).returncode == 0
    samples, loaded = main_job(first=folder)
    assert loaded == fits
    assert samples == usual


def test_a_server_makes_a_sound(server) -> None:
    """This host's own nodes of sounds need torchaudio; the pack's do not. The sound is seen in its spectrogram."""
    graph = json.loads((ROOT / "example_workflows" / "api" / "one_object.json").read_text())
    ((sounding, node),) = [item for item in graph.items() if item[1]["class_type"] == "SoundingThisObject"]
    node["inputs"] |= {"seconds": 1.0, "steps": 4}
    graph = {key: other for key, other in graph.items() if "Audio" not in other["class_type"]}
    graph["seen"] = {"class_type": "SaveImage", "inputs": {"images": [sounding, 1], "filename_prefix": "mel"}}
    entry = server.run(graph)
    (file,) = entry["outputs"]["seen"]["images"]
    image = Image.open(io.BytesIO(server.get("/view", **file).content))
    assert np.asarray(image.convert("L")).std() > 5
