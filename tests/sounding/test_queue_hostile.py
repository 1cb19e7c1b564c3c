"""A server that drips, floods, breaks off or is not there: bounded in time, bytes and memory."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from sounding.client import answers, connection
from sounding.client import socket as client_socket
from sounding.client.answers import OutputFile
from sounding.client.connection import RemoteError, Unreachable
from sounding.client.run import run_graph
from sounding.client.server import ComfyServer

from ..conftest import ROOT
from .hostile_comfy import ANSWERS, DEEP, GRAPH, OK, Hostile, client, files_in, hostile, one_sentence, sounding

__all__ = ["hostile", "sounding"]


def drip(*head: bytes) -> Iterator[bytes]:
    yield from head
    for _ in repeat(None):
        time.sleep(0.05)
        yield b"1"


def flood(*head: bytes) -> Iterator[bytes]:
    yield from head
    yield from repeat(b"1" * 65536)


DRIPS: dict[str, tuple[bytes, ...]] = {
    "status line": (),
    "header": (OK + b"X: ",),
    "body of no length": (OK + b"\r\n",),
    "body of a length": (OK + b"Content-Length: 1000\r\n\r\n",),
    "chunk's length": (OK + b"Transfer-Encoding: chunked\r\n\r\n",),
    "chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n",),
    "error": (b"HTTP/1.1 500 No\r\n\r\n",),
    "silence": (OK + b"Content-Length: 5\r\n\r\n",),
}


@pytest.mark.parametrize("where", DRIPS)
@pytest.mark.parametrize("path", ["/system_stats", "/history", "/view"])
def test_what_drips_ends_with_the_timeout(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path, where: str, path: str
) -> None:
    def silent() -> Iterator[bytes]:
        yield from DRIPS[where]
        hostile.stopped.wait(20)

    hostile.raw[path] = silent if where == "silence" else lambda: drip(*DRIPS[where])
    started = time.monotonic()
    said = one_sentence(sounding("--timeout", "1"))
    assert time.monotonic() - started < 15
    assert "--timeout" in said
    assert not list(tmp_path.glob("out/*"))
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize("where", [where for where in DRIPS if where not in ("silence", "body of a length")])
def test_what_never_ends_is_cut_off(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, sounding: Callable[..., Result], tmp_path: Path, where: str
) -> None:
    monkeypatch.setattr(connection, "JSON_BYTES", 1 << 20)
    for path in ("/system_stats", "/view"):
        hostile.raw = {path: lambda: flood(*DRIPS[where])}
        one_sentence(sounding("--timeout", "2", "--max-mb", "1"))
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "graph.json"]


def test_a_file_announced_as_too_long_is_not_begun(hostile: Hostile, sounding: Callable[..., Result]) -> None:
    hostile.raw["/view"] = lambda: iter([OK + b"Content-Length: 99999999999\r\n\r\n"])
    assert "--max-mb" in one_sentence(sounding())


def test_an_answer_cut_short_is_no_sound(hostile: Hostile, tmp_path: Path) -> None:
    hostile.raw["/view"] = lambda: iter([OK + b"Content-Length: 100\r\n\r\nhalf of it"])
    with pytest.raises(Unreachable, match="broke off"):
        client(hostile).save(OutputFile("1", "audio", "a.flac", "", "output"), tmp_path / "out")
    assert files_in(tmp_path) == {}


def frame(text: bytes, kind: int = 0x81) -> bytes:
    return bytes([kind, 127]) + len(text).to_bytes(8, "big") + text


FRAMES: dict[str, Callable[[], Iterator[bytes]]] = {
    "endless": lambda: flood(bytes([0x81, 127]) + (1 << 62).to_bytes(8, "big")),
    "dripping": lambda: drip(bytes([0x81, 127]) + (1 << 20).to_bytes(8, "big")),
    "in endless pieces": lambda: repeat(frame(b"1" * 60000, 0x00)),
    "pings": lambda: repeat(b"\x89\x00" * 100),
    "flood": lambda: repeat(frame(b'{"type": "progress"}')),
    "no frames": lambda: repeat(os.urandom(1000)),
    "deep": lambda: repeat(frame(DEEP)),
    "no text": lambda: repeat(frame(b"\xff\xfe\xfd")),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_websocket_of_any_kind_changes_nothing(
    hostile: Hostile, sounding: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(client_socket, "MESSAGE_BYTES", 1 << 20)
    hostile.frames, hostile.ended = FRAMES[kind], False
    started = time.monotonic()
    assert "Not done after 1 s" in one_sentence(sounding("--timeout", "1"))
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "data", [*ANSWERS, {"node": {}, "value": [], "max": "x"}, {"node": "1", "value": 1e999, "max": -5}]
)
def test_messages_of_any_kind(hostile: Hostile, data: Any) -> None:
    def messages() -> Iterator[bytes]:
        while not hostile.prompt:
            time.sleep(0.01)
        for kind in ("executing", "progress", "executed", None, [], {}):
            told = {**data, "prompt_id": hostile.prompt} if isinstance(data, dict) else data
            yield frame(json.dumps({"type": kind, "data": told}).encode())
            yield frame(json.dumps(told).encode())
        hostile.ended = True

    hostile.frames, hostile.ended = messages, False
    assert run_graph(client(hostile), GRAPH, timeout=20, on_progress=str)["outputs"]


def test_memory_stays_small(hostile: Hostile, tmp_path: Path) -> None:
    """In a process that may have 1.5 GB of addresses: an answer of the most objects that the limit lets through."""
    content = b'{"system": [' + b"[]," * ((answers.JSON_BYTES - 100) // 3) + b"0]}"
    hostile.raw["/system_stats"] = lambda: iter([OK + b"\r\n", content])
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    command = [sys.executable, "-m", "sounding", "queue", str(tmp_path / "graph.json")]
    command += ["--server", hostile.url, "--out", str(tmp_path / "out")]  # type: ignore[attr-defined]
    limit = (3 << 29, 3 << 29)
    ran = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[",
        "http://a:b",
        "http://a:99999",
        "ftp://x",
        "http://a b",
        "http://x/\x1b[2J",
        "http://ü",
        "?",
    ],
)
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(RemoteError, match="is no address"):
        ComfyServer(url)


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "1e300"])
def test_a_timeout_is_a_time(hostile: Hostile, sounding: Callable[..., Result], seconds: str) -> None:
    result = sounding("--timeout", seconds)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert hostile.hits == []


def test_a_port_where_nobody_answers_is_told(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = ComfyServer(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        with pytest.raises(RemoteError, match="--timeout"):
            server.check()
