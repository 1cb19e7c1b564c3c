"""`sounding queue` against servers that lie, flood, drip and never end: one sentence in time, nothing outside --out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.client import answers, connection
from sounding.client import run as running
from sounding.client import server as asking
from sounding.client import socket as client_socket
from sounding.client.answers import OutputFile, output_files
from sounding.client.connection import RemoteError, Unreachable
from sounding.client.files import ENDINGS, own_name
from sounding.client.run import run_graph
from sounding.client.server import ComfyServer

from ..conftest import ROOT

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
KEYS = ("system", "outputs", "status", "node_errors", "error", "prompt_id", "queue_running", "queue_pending", "name")
INNER = ("messages", "status_str", "errors", "message", "details", "subfolder", "input", "required")


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


NAMES = [
    ".",
    "..",
    "/",
    "",
    "../../evil.flac",
    "..\\..\\evil.flac",
    "/etc/cron.d/evil",
    "C:\\evil.flac",
    ".bashrc",
    "evil.flac/..",
    "con.flac",
    "nul",
    "-rf.wav",
    "a" * 900 + ".wav",
    "\u00e9" * 400 + ".flac",
    "a\x00b.wav",
    "a\nb.wav",
    ESCAPE + ".wav",
    "run.py",
    "x.pth",
    "x.desktop",
    "x.flac.exe",
    "a.flac:stream",
    "~",
    "$(touch x).flac",
]


@pytest.mark.parametrize("node", ["/../../../.config/x.pth", "../up", "1", ESCAPE, "\x00", "a" * 5000])
def test_a_server_decides_about_no_path(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path, node: str
) -> None:
    files = [{"filename": name, "subfolder": name, "type": name} for name in NAMES]
    hostile.entry = {"outputs": {node: {"audio": files}}, "status": SUCCESS}
    for number, name in enumerate(NAMES):
        hostile.files[name] = b"content %d" % number
    before = files_in(tmp_path)
    result = sounding("--all")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    made = {name: content for name, content in files_in(tmp_path).items() if name not in before}
    assert len(made) == len([name for name in NAMES if name])
    for name in made:
        folder, _, file = name.partition("/")
        assert folder == "out"
        assert Path(file).name == file
        assert file[0] not in ".-"
        assert Path(file).suffix in (*ENDINGS, ".bin")
        assert len(file.encode()) < 143


@pytest.mark.parametrize("name", NAMES)
def test_own_names_are_made_of_letters(name: str) -> None:
    made = own_name(name, "../x")
    assert made == Path(made).name
    assert made.isprintable()
    assert own_name(made) == made  # nothing is left to mend
    assert not set(made) & set('/\\:*?"<>|$~')


def test_what_lies_in_the_folder_is_neither_overwritten_nor_followed(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    out, secret = tmp_path / "out", tmp_path / "secret"
    out.mkdir()
    secret.write_bytes(b"mine")
    (out / "a.flac").symlink_to(secret)
    (out / "a (1).flac").symlink_to(tmp_path / "nothing")
    (out / "a (2).flac").mkdir()
    (out / "a (3).flac").write_bytes(b"older")
    os.mkfifo(out / "a (4).flac")
    result = sounding("--json")
    assert json.loads(result.stdout)["files"] == [str(out / "a (5).flac")]
    assert (out / "a (5).flac").read_bytes() == b"sound"
    assert secret.read_bytes() == b"mine"
    assert (out / "a.flac").is_symlink()
    assert not (tmp_path / "nothing").exists()
    assert (out / "a (3).flac").read_bytes() == b"older"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["out", "there"])
def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_asked(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("a file")
    said = one_sentence(sounding(*([] if name == "out" else ["--out", str(tmp_path / "there" / "below")])))
    assert "a folder is expected" in said
    assert hostile.hits == []


def wrong_answers() -> Iterator[Any]:
    yield from ANSWERS
    for key in KEYS:
        for value in ANSWERS:
            yield {key: value}
            for inner in INNER:
                yield {key: {inner: value}}
                yield {key: {"1": {inner: value}}}


def test_answers_of_any_kind_are_one_sentence_each(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    """Each place in turn gets things of other kinds; where the rest has a sense without it, the sound comes home."""
    for place in ("/system_stats", "/object_info", "/prompt", "/history", "/queue", "/upload"):
        for answer in ANSWERS:
            hostile.answers = {place: answer}
            server = client(hostile, timeout=0.1)
            with suppress(RemoteError):  # anything else is a fault
                server.check()
                server.inputs_of("SaveAudio")
                server.upload("a.png", b"x")
                output_files(run_graph(server, GRAPH, timeout=0.1))
    for answer in wrong_answers():
        for entry in (answer, {"outputs": answer}, {"status": answer}, {"status": {"messages": [answer]}}):
            if isinstance(entry, dict):
                assert all(isinstance(file, OutputFile) for file in output_files(entry))
                assert isinstance(answers.failure(GRAPH, entry), str)
                assert isinstance(answers.refusal(GRAPH, entry), str)
                assert isinstance(answers.node_errors(GRAPH, entry), str)
                assert isinstance(answers.queued(entry), tuple)
                assert isinstance(answers.input_names(entry, "1"), list)
    hostile.answers = {}
    hostile.entry = {"outputs": {"3": None, "4": [], "1": {"audio": [SOUND, None]}}, "status": SUCCESS}
    result = sounding("--set", "1.seed=3", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [str(tmp_path / "out" / "a.flac")]


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"", b"null", b'{"system": ' + DEEP + b"}", b"9" * 5000, b'"\\ud800"', b"NaN", b"[1, 2]"],
)
def test_what_is_no_json_is_told(hostile: Hostile, sounding: Callable[..., Result], body: bytes) -> None:
    hostile.raw["/system_stats"] = lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body])
    assert "not as ComfyUI does" in one_sentence(sounding())


def test_escape_sequences_do_not_reach_the_terminal(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    titled = {"1": {**GRAPH["1"], "_meta": {"title": ESCAPE}}}
    (tmp_path / "graph.json").write_text(json.dumps(titled))
    error = ["execution_error", {"node_id": ESCAPE, "exception_message": ESCAPE, "node_type": ESCAPE}]
    hostile.entry = {"outputs": {}, "status": {"status_str": "error", "messages": [error]}}
    assert "\\x1b[2J" in one_sentence(sounding())
    hostile.answers["/prompt"] = {
        "prompt_id": ESCAPE,
        "node_errors": {"1": {"errors": [{"message": ESCAPE}]}, ESCAPE: {"errors": [{"details": ESCAPE}]}},
    }
    assert "\\x1b[2J" in one_sentence(sounding())
    reason = ESCAPE.replace("\r\n", "").encode()
    hostile.raw["/prompt"] = lambda: iter([b"HTTP/1.1 400 " + reason + b"\r\nContent-Length: 0\r\n\r\n"])
    one_sentence(sounding())
    hostile.raw["/prompt"] = lambda: iter([b"\x1b[2J\x9b not HTTP\r\n\r\n"])
    one_sentence(sounding("--timeout", "1"))
    one_sentence(sounding("--set", f"{ESCAPE}.x=3"))
    one_sentence(sounding("--image", ESCAPE))


def test_a_server_does_not_send_its_client_elsewhere(hostile: Hostile, sounding: Callable[..., Result]) -> None:
    elsewhere = f"HTTP/1.1 302 Found\r\nLocation: {hostile.url}/secret\r\nContent-Length: 0\r\n\r\n"  # type: ignore[attr-defined]
    hostile.raw["/view"] = lambda: iter([elsewhere.encode()])
    assert "sends on to" in one_sentence(sounding())
    assert "/secret" not in hostile.hits


def drip(*head: bytes) -> Iterator[bytes]:
    yield from head
    for _ in repeat(None):
        time.sleep(0.05)
        yield b"1"


def flood(*head: bytes) -> Iterator[bytes]:
    yield from head
    yield from repeat(b"1" * 65536)


OK = b"HTTP/1.1 200 OK\r\n"
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
