"""The pack as a guest in ComfyUI: what it asks for, and what its import leaves behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..server.comfyui import find_comfyui

ROOT = Path(__file__).parents[2]
HEAVY = ["diffusers", "transformers", "open_clip", "segment_anything"]
HOST = {"torch", "torchvision", "torchaudio", "numpy", "transformers"}

# Run inside a fresh interpreter, with the host's folder first on its path.
PROBE = """
import asyncio, importlib.util, json, logging, socket, sys
from pathlib import Path

import torch
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.model_management, comfy.model_patcher, comfy.utils, comfy_execution.graph_utils, folder_paths
from comfy_api.latest import ComfyExtension

class NoNetwork(socket.socket):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("the network was used")

def state():
    cuda = torch.backends.cudnn
    root = logging.getLogger()
    return [
        torch.is_grad_enabled(), str(torch.get_default_dtype()), torch.get_float32_matmul_precision(),
        cuda.benchmark, cuda.deterministic, cuda.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        root.level, [id(handler) for handler in root.handlers],
    ]

root, heavy = Path(sys.argv[1]), json.loads(sys.argv[2])
asyncio.new_event_loop().close()  # a loop opens a socket pair of its own
loop = asyncio.new_event_loop()
before, loaded, socket.socket = state(), set(sys.modules), NoNetwork
name = str(root).replace(".", "_x_") + "_under_a_made_up_name"
spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
async def nodes():
    extension = await module.comfy_entrypoint()
    assert isinstance(extension, ComfyExtension)
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]
found = loop.run_until_complete(nodes())
new = set(sys.modules) - loaded
print(json.dumps({
    "nodes": found,
    "same_state": state() == before,
    "heavy": sorted(name for name in heavy if name in new),
    "heavy_before": sorted(name for name in heavy if name in loaded),
    "has_mappings": hasattr(module, "NODE_CLASS_MAPPINGS"),
    "web": module.WEB_DIRECTORY,
    "extensions": sorted(folder_paths.folder_names_and_paths["sounding"][1]),
}))
"""


def declared() -> list[str]:
    """Dependencies in pyproject.toml, without a TOML reader (Python 3.10 has none)."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    return re.findall(r'^\s*"([^"]+)"', block[1], re.MULTILINE)


def test_requirements_repeat_the_dependencies():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == declared()


def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")  # Python 3.10 has none
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_inference_asks_for_no_torchaudio():
    """What a host may have installed in a build that fits is nobody's to bring: only tests compare with it."""
    described = pyproject()
    asked = [*described["project"]["dependencies"], *described["project"]["optional-dependencies"].values()]
    assert "torchaudio" not in str(asked)
    assert "torchaudio" not in (ROOT / "requirements.txt").read_text()
    sources = [*(ROOT / "sounding").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), *(ROOT / "training").rglob("*.py")]
    assert not [path for path in sources if re.search(r"(import|from) torchaudio", path.read_text())]


def test_the_registry_can_read_what_it_wants():
    """docs.comfy.org/registry/specifications: a table for the licence, X.Y.Z, no ComfyUI in the name, a square icon."""
    described = pyproject()
    project, comfy = described["project"], described["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"]
    assert len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    ((kind, licence),) = project["license"].items()
    assert licence if kind == "text" else (ROOT / licence).is_file()
    home = project["urls"]["Repository"]
    assert home.startswith("https://")
    assert all(url.startswith(home) for url in project["urls"].values())
    assert re.fullmatch(r"[a-z0-9-]+", comfy["PublisherId"])
    assert comfy["DisplayName"]
    raw = home.replace("https://github.com", "https://raw.githubusercontent.com") + "/main/"
    assert comfy["Icon"].startswith(raw)
    with Image.open(ROOT / comfy["Icon"].removeprefix(raw)) as icon:
        assert icon.size[0] == icon.size[1] <= 400
    for name in comfy.get("includes", []):
        assert (ROOT / name).exists()


def test_the_address_stands_in_one_place():
    """There is no public home yet: where it will be is said once."""
    home = pyproject()["project"]["urls"]["Repository"]
    texts = [path for ending in ("md", "py", "js", "json", "txt") for path in ROOT.rglob(f"*.{ending}")]
    ours = [path for path in texts if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    assert [str(path) for path in ours if home.removeprefix("https://") in path.read_text(errors="replace")] == []


def test_no_upper_pins():
    assert not [line for line in declared() if re.search(r"<|==|~=|!=", line)]


def test_import_without_comfyui():
    code = f"import importlib.util as u; s = u.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r}); "
    code += "m = u.module_from_spec(s); s.loader.exec_module(m); import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_import_leaves_nothing_behind():
    """No heavy library, no network, no global torch flag, no root logger: other packs are guests too."""
    comfyui = str(find_comfyui())
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT), json.dumps(HEAVY)],
        cwd=comfyui,
        env={**os.environ, "PYTHONPATH": comfyui, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert len(report["nodes"]) == len(set(report["nodes"])) >= 10
    assert all(name.startswith("Sounding") for name in report["nodes"])
    assert report["same_state"]
    assert report["heavy"] == []
    assert not report["has_mappings"]
    assert (ROOT / report["web"]).is_dir()
    assert report["extensions"] == [".safetensors"]


def test_installing_moves_nothing_of_the_host():
    """The resolver, asked for our requirements in an environment that holds the host's, changes none of those."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    command = [uv, "pip", "install", "--dry-run", "--python", sys.executable, "-r", str(ROOT / "requirements.txt")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    changed = set(re.findall(r"^ [-+~] ([A-Za-z0-9_.-]+)==", ran.stderr + ran.stdout, re.MULTILINE))
    assert not changed & HOST


def test_everything_we_bring_accepts_the_hosts_versions():
    """No requirement of ours, nor of theirs, excludes the versions that are installed beside ComfyUI."""
    from packaging.requirements import Requirement

    todo, seen = [Requirement(line) for line in declared()], set()
    while todo:
        requirement = todo.pop()
        name = requirement.name.lower().replace("_", "-")
        version = importlib.metadata.version(name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} excludes {version}"
        # The host's own packages bring their own; only what we add is followed.
        if name in seen or name in HOST:
            continue
        seen.add(name)
        more = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        todo += [item for item in more if item.marker is None or item.marker.evaluate({"extra": ""})]
