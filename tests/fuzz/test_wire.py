"""Network input: answers of servers, files of mirrors, points and the click node's state."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sounding.client import run as remote_run
from sounding.client.answers import output_files
from sounding.client.connection import RemoteError
from sounding.client.run import run_graph
from sounding.client.server import ComfyServer
from sounding.segment import Prompt
from sounding.weights import download as fetch
from sounding.weights import transfer
from sounding.weights.catalogue import File
from sounding.weights.download import download
from sounding.weights.transfer import FetchError

from ..nodes.test_click_state import state
from .mutations import as_json, damaged, hostile_value, mutated
from .sandbox import Case, try_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes, and how they are watched")


class Answering:
    """A server that sends `answer` to every connection, byte for byte, and closes it."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.answer = b""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = self.listening.accept()
                with connection:
                    connection.settimeout(1)
                    connection.recv(65536)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)


def answer(draw: random.Random, body: bytes) -> bytes:
    """An HTTP answer with a body, whose head is valid or not."""
    status = draw.choice((200, 200, 200, 200, 200, 206, 204, 302, 400, 404, 416, 500, 503, 999, 100))
    head = {"Content-Type": draw.choice(("application/json", "text/html", "\x01", "application/octet-stream"))}
    length = draw.choice((len(body),) * 6 + (len(body) - 1, len(body) + 1, 0, -1, 10**15, "x", 10**400))
    if draw.random() < 0.9:
        head["Content-Length"] = str(length)
    for _ in range(draw.choice((0, 0, 1, 2))):
        name = draw.choice(
            ("Content-Range", "Location", "ETag", "X-Linked-ETag", "Transfer-Encoding", "Content-Encoding", "X")
        )
        value = draw.choice(("bytes 0-9/10", "bytes 7-9/10", "file:///etc/passwd", "http://[", "//127.0.0.1:1/x",
                             "0" * 64, "chunked", "gzip", "x" * 70_000, "\x1b[31m", "/again"))  # fmt: skip
        head[name] = value
    reason = draw.choice(("OK", "OK", "\x1b[31m", "x" * 1000))
    data = f"HTTP/1.1 {status} {reason}\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in head.items())
    whole = data + b"Connection: close\r\n\r\n" + body
    return whole if draw.random() < 0.9 else damaged(draw, whole)


def test_mirrors(rounds: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    monkeypatch.setattr(fetch, "TRIES", 2)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT", "SOUNDING_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    good = {
        "w.safetensors": safetensors.torch.save({"w": torch.zeros(30)}),
        "w.json": b'{"a": 1}',
        "w.txt": b"#version",
    }
    servers: list[Answering] = []

    def make(draw: random.Random, folder: Path) -> Case:
        if not servers:
            servers.append(Answering())  # its thread lives in the process that tries
        for path in folder.iterdir():
            path.unlink()
        name = draw.choice(list(good))
        body = good[name] if draw.random() < 0.5 else damaged(draw, good[name])
        servers[0].answer = answer(draw, body)
        if draw.random() < 0.3:
            (folder / f"{name}.part").write_bytes(good[name][: draw.randrange(20)])
        file = File(f"{servers[0].address}/{name}", name, size=draw.choice((0, len(good[name]))))

        def fetch_it() -> None:
            try:
                download(file, folder)
            except FetchError:
                assert not (folder / name).exists()
                raise
            assert fetch.trouble(folder / name, file.size) is None

        return fetch_it

    try_inputs("mirrors", rounds, folder, make, (FetchError,))


GRAPH: dict[str, Any] = {
    "1": {"class_type": "SoundingSampler", "inputs": {"seed": 7}, "_meta": {"title": "The sampler"}},
    "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0]}},
}
DONE: dict[str, Any] = {
    "outputs": {
        "2": {"audio": [{"filename": "a_00001_.flac", "subfolder": "audio", "type": "output"}]},
        "3": {"images": [{"filename": "p_00001_.png", "subfolder": "", "type": "temp"}], "text": ["a word"]},
        "/../../x.pth": {"audio": [{"filename": ".", "subfolder": "..", "type": "output"}]},
    },
    "status": {"status_str": "success", "completed": True, "messages": [["execution_error", {"node_id": "1"}]]},
}
INFO = {"SoundingSampler": {"input": {"required": {"seed": ["INT"]}, "optional": {"cfg": ["FLOAT"]}}}}
QUEUE = {"queue_running": [[5, "id", {}, {}, []]], "queue_pending": [[6, "id2", {}, {}, []]]}
ACCEPTED = {"prompt_id": "id", "number": 1, "node_errors": {"1": {"errors": [{"message": "x", "details": "y"}]}}}


def test_server_answers(rounds: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[Answering] = []

    def make(draw: random.Random, folder: Path) -> Case:
        if not servers:
            servers.append(Answering())
        good = draw.choice(({"system": {}}, INFO, QUEUE, ACCEPTED, {"id": DONE}))
        body = as_json(draw, mutated(draw, good)).encode(errors="surrogatepass")
        servers[0].answer = answer(draw, body)
        server = ComfyServer(servers[0].address, patience=0.2, timeout=2.0)
        entry = mutated(draw, DONE)

        def saved() -> None:
            for file in output_files(entry):
                server.save(file, folder / "out")

        calls: list[Case] = [
            server.check,
            lambda: server.inputs_of("SoundingSampler"),
            lambda: server.queue(GRAPH, "client", "id"),
            lambda: server.history("id"),
            lambda: server.place("id"),
            lambda: server.upload("x.png", b"x"),
            lambda: run_graph(server, GRAPH, timeout=1.0),
            saved,
            saved,
        ]
        return draw.choice(calls)

    monkeypatch.setattr(remote_run, "time", time)
    try_inputs("server answers", rounds, folder, make, (RemoteError,))


def test_points(rounds: int, folder: Path) -> None:
    points: Any = [{"x": 10, "y": 20}, {"x": 30, "y": 4.5}]

    def text(draw: random.Random, good: Any) -> str:
        if draw.random() < 0.1:
            return str(hostile_value(draw))
        return as_json(draw, mutated(draw, good))

    def make(draw: random.Random, folder: Path) -> Case:
        forms = (points, [[10, 20], [1, 2]], [{"x": 1, "y": 2, "label": 0}], {"points": points})
        positive, negative = text(draw, draw.choice(forms)), text(draw, points) if draw.random() < 0.3 else ""
        boxes: Any = ([1, 2, 30, 40], {"x": 1, "y": 2, "width": 5, "height": 6}, {"x0": 1, "y0": 2, "x1": 3, "y1": 4})
        box = text(draw, draw.choice(boxes)) if draw.random() < 0.5 else ""
        words = str(hostile_value(draw)) if draw.random() < 0.1 else ""
        return lambda: Prompt.from_strings(positive, negative, box, words).check(
            (64, 48), "SAM", words=draw.random() < 0.5
        )

    try_inputs("points", 3 * rounds, folder, make)


def test_click_states(rounds: int, folder: Path) -> None:
    first = {"name": "dog", "colour": "#E69F00", "on": True, "gain_db": -6, "negative": [], "box": [10, 20, 90, 60]}
    good = {"version": 1, "size": [100, 80], "objects": [{**first, "positive": [{"x": 30, "y": 40.5}]}, first]}

    def make(draw: random.Random, folder: Path) -> Case:
        data = mutated(draw, good)
        text = as_json(draw, data)
        if draw.random() < 0.3:  # as the route has it, parsed
            return lambda: state.read_state(data)
        return lambda: state.parse_state(text)

    try_inputs("click states", 3 * rounds, folder, make)
