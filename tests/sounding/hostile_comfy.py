"""A server that answers as it likes, and `sounding queue` asking it."""

from __future__ import annotations

import base64
import hashlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.client import run as running
from sounding.client import server as asking
from sounding.client.server import ComfyServer

GRAPH: dict[str, Any] = {"1": {"class_type": "SaveAudio", "inputs": {"seed": 7}, "_meta": {"title": "The sampler"}}}
SUCCESS = {"status_str": "success", "completed": True, "messages": []}
SOUND = {"filename": "a.flac", "subfolder": "", "type": "output"}
ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\n\u202eevil\x9b31m"
ANSWERS: list[Any] = [
    None,
    True,
    7,
    -1e400,
    "text",
    [],
    {},
    [[]],
    [None],
    [[None, None]],
    [["a", 5], [3, "x"]],
    {"3": None},
    {"3": []},
    {"3": {"audio": None}},
    {"3": {"audio": [None, 5, "x", {"filename": None}, {"filename": 5}, {"filename": ""}, {"filename": []}]}},
    {"x": {"y": {"z": {}}}},
    {"": {"": [{"filename": "\ud800", "subfolder": 5, "type": []}]}},
]


class Hostile:
    """A server of raw bytes: path -> what is sent for it, piece by piece for ever if need be."""

    def __init__(self) -> None:
        self.prompt = ""
        self.entry: Any = {"outputs": {"1": {"audio": [SOUND]}}, "status": SUCCESS}
        self.files: dict[str, bytes] = {"a.flac": b"sound"}
        self.raw: dict[str, Callable[[], Iterator[bytes]]] = {}  # instead of the answer, at paths that begin so
        self.answers: dict[str, Any] = {}
        self.frames: Callable[[], Iterator[bytes]] | None = None
        self.hits: list[str] = []
        self.stopped = threading.Event()
        self.ended = True

    def answer(self, method: str, target: str, body: bytes) -> Any:
        path = urlsplit(target).path
        for begin, answer in self.answers.items():
            if path.startswith(begin):
                return answer
        if path == "/prompt":
            self.prompt = json.loads(body)["prompt_id"]
            return {"prompt_id": self.prompt, "node_errors": {}}
        if path.startswith("/history/"):
            return {self.prompt: self.entry} if self.ended else {}
        if path == "/queue":
            return {"queue_running": [] if self.ended else [[1, self.prompt]], "queue_pending": []}
        if path == "/upload/image":
            return {"name": "there.png", "subfolder": "sub"}
        return {"system": {}}

    def pieces(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Iterator[bytes]:
        path = urlsplit(target).path
        self.hits.append(path)
        for begin, raw in self.raw.items():
            if path.startswith(begin):
                yield from raw()
                return
        if path == "/ws":
            if self.frames is None:
                yield b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                return
            key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
            yield b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            yield accept + b"\r\n\r\n"
            yield from self.frames()
            return
        if path == "/view":
            content = self.files.get(parse_qs(urlsplit(target).query)["filename"][0], b"anything")
        else:
            content = json.dumps(self.answer(method, target, body)).encode()
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setattr(running, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(running, "ASK_SELDOM_SECONDS", 0.1)
    monkeypatch.setattr(running, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(asking, "CANCEL_SECONDS", 1.0)
    made = Hostile()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            stream = self.request.makefile("rb")
            try:
                first = stream.readline().decode().split()
                headers = {}
                while line := stream.readline().strip():
                    key, _, value = line.decode().partition(":")
                    headers[key.strip().lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                for piece in made.pieces(first[0], first[1], headers, body):
                    self.request.sendall(piece)
                    if made.stopped.is_set():
                        break
            except (OSError, IndexError, ValueError):
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.stopped.set()
        server.shutdown()
        thread.join(10)


def client(hostile: Hostile, **settings: Any) -> ComfyServer:
    return ComfyServer(hostile.url, patience=0.2, **settings)  # type: ignore[attr-defined]


@pytest.fixture
def sounding(hostile: Hostile, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command in a folder of its own, with the graph in it."""
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))

    def run(*arguments: str) -> Result:
        command = ["queue", str(tmp_path / "graph.json"), "--server", hostile.url]  # type: ignore[attr-defined]
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), *arguments])

    return run


def one_sentence(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.count("\n") == 1 or "sounding: " in result.stderr
    assert "Traceback" not in result.output
    assert not set(result.output) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}
    return result.stderr


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


DEEP = b"[" * 100_000 + b"]" * 100_000


OK = b"HTTP/1.1 200 OK\r\n"
