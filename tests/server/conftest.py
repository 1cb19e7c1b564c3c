"""Servers and pages that the tests share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from .browser import PATIENCE, browser
from .click_page import Page
from .comfyui import ROOT, Graph, Server, find_comfyui, make_folder

API = ROOT / "example_workflows" / "api"
# The browser and the servers of this folder's tests. They end with its last test: the servers, which take a gigabyte
# each, are of no use to what comes after, and Playwright's loop would be in the way of other tests' own.
OPEN = ExitStack()


@pytest.fixture(scope="session")
def start_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers with the tiny checkpoint and the example images; they stop after the last test of this folder."""

    def start(*flags: str) -> Server:
        folder = tmp_path_factory.mktemp("comfyui")
        make_folder(folder)
        models = folder / "models" / "sounding"
        shutil.copy(tiny_checkpoint, models / "tiny.safetensors")
        (models / "text.safetensors").write_text("not a checkpoint")
        (models / "linked.safetensors").symlink_to(tiny_checkpoint)
        _foreign(models / "foreign.safetensors")
        server = Server(folder, flags)
        OPEN.callback(server.stop)
        server.wait_until_up()
        return server

    yield start
    OPEN.close()  # where the run ends early


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    try:
        return (yield)
    finally:
        if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
            OPEN.close()


def _foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, path)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return find_comfyui()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    return start_server("--cpu")


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, Any]:
    return dict(server.get("/object_info").json())


@pytest.fixture(autouse=True)
def nothing_queued(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails half-way leaves no work to the tests after it."""
    yield
    server = (request.node.funcargs or {}).get("server")
    if isinstance(server, Server):
        server.clear()


@pytest.fixture
def tiny_graph() -> Callable[..., Graph]:
    """An example's API graph with the tiny model, short and with few steps; `seed` replaces all seeds."""

    def make(name: str, *, seed: int | None = None, seconds: float = 0.5, steps: int = 3) -> Graph:
        graph: Graph = json.loads((API / f"{name}.json").read_text())
        loader = {"class_type": "SoundingLoadModel", "inputs": {"checkpoint": "tiny.safetensors", "dtype": "auto"}}
        for node in list(graph.values()):
            inputs = node["inputs"]
            for key, value in (("checkpoint", "tiny.safetensors"), ("seconds", seconds), ("steps", steps)):
                if key in inputs:
                    inputs[key] = value
            if seed is not None and "seed" in inputs:
                inputs["seed"] = seed
            if node["class_type"] in ("SoundingThisObject", "SoundingVideo"):
                graph["loader"] = loader
                inputs["model"] = ["loader", 0]
        return graph

    return make


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the end of the server's log."""
    outcome: Any = yield
    report = outcome.get_result()
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(server, Server):
        report.sections.append(("server log", server.log.read_text(errors="replace")[-6000:]))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    yield OPEN.enter_context(browser())
    OPEN.close()


@pytest.fixture(scope="session")
def context(chromium: Any) -> Any:
    context = chromium.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(PATIENCE)
    return context


@pytest.fixture(scope="session")
def tab(context: Any, server: Any) -> Page:
    """The page of the shared server, which takes seconds to open; each test loads the graph that it needs."""
    return Page(context, server)


@pytest.fixture(params=["classic", "nodes 2.0"])
def page(request: pytest.FixtureRequest, tab: Page) -> Iterator[Page]:
    """The tab with the example loaded and nothing clicked."""
    tab.settings(Comfy__VueNodes__Enabled=request.param == "nodes 2.0")
    tab.load()
    tab.button("Remove all objects").click()
    tab.errors.clear()
    yield tab
    assert tab.errors == []


@pytest.fixture
def plain_tab(tab: Page) -> Page:
    tab.settings(Comfy__VueNodes__Enabled=False)
    tab.load()
    return tab


@pytest.fixture(scope="module")
def odd_files(server: Any) -> Iterator[None]:
    """Inputs that are no images of the input folder."""
    folder = server.folder / "input"
    (folder / "text.png").write_text("no picture")
    (server.folder / "secret.png").write_bytes((ROOT / "example_workflows" / "input" / "farm.png").read_bytes())
    (folder / "link.png").symlink_to(server.folder / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    yield
    (folder / "loop.png").unlink()
    (folder / "pipe.png").unlink()
    (folder / "link.png").unlink()
    (folder / "text.png").unlink()
