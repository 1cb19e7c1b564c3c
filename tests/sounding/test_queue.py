"""`sounding queue` against a small server that answers as ComfyUI does, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.client import run as running
from sounding.client.answers import OutputFile
from sounding.client.connection import RemoteError, Unreachable
from sounding.client.run import Progress, run_graph
from sounding.client.server import ComfyServer

GRAPH: dict[str, Any] = {
    "1": {"class_type": "SoundingSampler", "inputs": {"seed": 7}, "_meta": {"title": "The sampler"}},
    "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0]}},
}
SOUND = {"filename": "a_00001_.flac", "subfolder": "audio", "type": "output"}
PICTURE = {"filename": "p_00001_.png", "subfolder": "", "type": "temp"}
DONE = {
    "outputs": {"2": {"audio": [SOUND]}, "3": {"images": [PICTURE], "text": ["a word"]}},
    "status": {"status_str": "success", "completed": True, "messages": []},
}


class Fake:
    """The parts of ComfyUI's API that are used; the attributes say what goes wrong."""

    def __init__(self) -> None:
        self.ends = True  # prompts come to an end, rather than run for ever
        self.asked_before_end = 3  # questions for the history until then
        self.entry: dict[str, Any] = DONE
        self.refusal: dict[str, Any] | None = None  # answer to /prompt, with status 400
        self.node_errors: dict[str, Any] = {}  # beside an accepted prompt
        self.lose_answers = 0  # prompts that are accepted but not answered
        self.gone: list[bool] = []  # one question for the history each: break off the connection
        self.forget_after: int | None = None  # questions until the prompt is unknown
        self.sockets = True
        self.steps_per_socket = 100  # progress messages until a websocket breaks
        self.waiting = 0  # prompts of others before ours
        self.queued: list[str] = []
        self.posted: list[tuple[str, Any]] = []
        self.connections = 0
        self.asked = 0
        self.step = 0
        self.files = {"a_00001_.flac": b"sound", "p_00001_.png": b"picture"}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/system_stats", self.stats),
            web.get("/object_info/{name}", self.info),
            web.post("/upload/image", self.upload),
            web.post("/prompt", self.prompt),
            web.get("/history/{id}", self.history),
            web.get("/queue", self.queue),
            web.post("/queue", self.note),
            web.post("/interrupt", self.note),
            web.get("/view", self.view),
            web.get("/ws", self.socket),
        ]

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    async def info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: {"input": {"required": {"seed": ["INT"]}, "optional": {"cfg": ["FLOAT"]}}}})

    async def upload(self, request: web.Request) -> web.Response:
        field = (await request.post())["image"]
        assert isinstance(field, web.FileField)
        self.files[field.filename] = field.file.read()
        return web.json_response({"name": field.filename, "subfolder": "sub", "type": "input"})

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.refusal is not None:
            return web.json_response(self.refusal, status=400)
        self.queued.append(body["prompt_id"])
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": self.node_errors})

    def ended(self) -> bool:
        return self.ends and self.asked > self.asked_before_end

    def forgotten(self) -> bool:
        return self.forget_after is not None and self.asked > self.forget_after

    async def history(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.gone and self.gone.pop(0):
            assert request.transport is not None
            request.transport.abort()
        known = self.ended() and not self.forgotten() and request.match_info["id"] in self.queued
        return web.json_response({request.match_info["id"]: self.entry} if known else {})

    async def queue(self, request: web.Request) -> web.Response:
        ours = [[5, name, {}, {}, []] for name in self.queued if not self.ended() and not self.forgotten()]
        others = [[i, f"other{i}", {}, {}, []] for i in range(self.waiting)]
        if self.waiting:
            return web.json_response({"queue_running": others[:1], "queue_pending": [*ours, *others[1:]]})
        return web.json_response({"queue_running": ours, "queue_pending": []})

    async def note(self, request: web.Request) -> web.Response:
        self.posted.append((request.path, await request.json()))
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        name = request.query["filename"]
        return web.Response(body=self.files[name]) if name in self.files else web.Response(status=404)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        if not self.sockets:
            return web.Response(status=404)
        self.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_bytes(b"\x00\x00\x00\x01a preview")
        await socket.send_json(
            {"type": "progress", "data": {"prompt_id": "another's", "node": "1", "value": 9, "max": 9}}
        )
        sent = 0
        while not socket.closed and not self.ended():
            if self.queued:
                data = {"prompt_id": self.queued[-1], "node": "1", "value": self.step, "max": 50}
                await socket.send_json({"type": "progress", "data": data})
                self.step += 1
                sent += 1
                if sent >= self.steps_per_socket:
                    assert request.transport is not None
                    request.transport.abort()
                    break
            with_timeout = socket.receive(timeout=0.02)
            try:
                if (await with_timeout).type == WSMsgType.CLOSE:
                    break
            except asyncio.TimeoutError:
                pass
        return socket


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A fake server in a thread of its own; its address is `fake.url`."""
    monkeypatch.setattr(running, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(running, "ASK_SELDOM_SECONDS", 0.1)
    monkeypatch.setattr(running, "TICK_SECONDS", 0.05)
    made, loop, ready = Fake(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        application = web.Application()
        application.add_routes(made.routes())
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
        made.runner = runner  # type: ignore[attr-defined]
        ready.set()

    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert ready.wait(10)
    yield made
    asyncio.run_coroutine_threadsafe(made.runner.cleanup(), loop).result(10)  # type: ignore[attr-defined]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def server(fake: Fake) -> ComfyServer:
    return ComfyServer(fake.url, patience=1.0)  # type: ignore[attr-defined]


@pytest.fixture
def sounding(fake: Fake, tmp_path: Path) -> Callable[..., Result]:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))

    def run(*arguments: str) -> Result:
        command = ["queue", str(tmp_path / "graph.json"), "--server", fake.url]  # type: ignore[attr-defined]
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), *arguments])

    return run


def cancelled(fake: Fake) -> bool:
    return ("/queue", {"delete": fake.queued[-1:]}) in fake.posted


def test_sounds_come_home_and_standard_output_names_them(
    fake: Fake, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    result = sounding("--set", "1.seed=9")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "out" / "a_00001_.flac")]
    assert (tmp_path / "out" / "a_00001_.flac").read_bytes() == b"sound"
    assert "1 (The sampler)" in result.stderr
    assert not (tmp_path / "out" / "p_00001_.png").exists()


def test_one_line_for_programs_and_all_files(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    result = sounding("--json", "--all")
    report = json.loads(result.stdout)
    out = tmp_path / "out"
    assert report["files"] == [str(out / "a_00001_.flac")]
    assert report["nodes"] == {"2": [str(out / "a_00001_.flac")], "3": [str(out / "p_00001_.png")]}
    assert report["prompt_id"] == fake.queued[0]
    assert result.stderr == ""
    assert (out / "p_00001_.png").read_bytes() == b"picture"


def test_previews_come_where_nothing_is_saved(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    preview = {"filename": "heard.flac", "subfolder": "", "type": "temp"}
    fake.files["heard.flac"] = b"preview"
    fake.entry = {**DONE, "outputs": {**DONE["outputs"], "4": {"sounds": [preview]}}}
    assert list(json.loads(sounding("--json").stdout)["nodes"]) == ["2"]
    fake.entry = {**DONE, "outputs": {"4": {"sounds": [preview]}}}
    assert json.loads(sounding("--json").stdout)["files"] == [str(tmp_path / "out" / "heard.flac")]


def test_nothing_is_overwritten(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    sounding()
    assert sounding("--json").exit_code == 0  # the same content: nothing to write
    fake.files["a_00001_.flac"] = b"another sound"
    again = json.loads(sounding("--json").stdout)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"a_00001_.flac": b"sound", "a_00001_ (1).flac": b"another sound"}
    assert again["files"] == [str(tmp_path / "out" / "a_00001_ (1).flac")]


@pytest.mark.parametrize("name", ["../../evil.flac", "..\\evil.flac", "/tmp/evil.flac", "C:\\evil.flac"])
def test_a_file_name_cannot_lead_out_of_the_folder(fake: Fake, server: ComfyServer, tmp_path: Path, name: str) -> None:
    fake.files[name] = b"sound"
    out = tmp_path / "deep" / "out"
    assert server.save(OutputFile("2", "audio", name, "", "output"), out) == out / "evil.flac"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["evil.flac"]


def test_a_dropped_websocket_is_opened_again(fake: Fake, server: ComfyServer) -> None:
    fake.steps_per_socket, fake.asked_before_end = 3, 10**9
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        if progress.step >= 7:  # more than one websocket, or two, could tell
            fake.asked_before_end = 0

    entry = run_graph(server, GRAPH, timeout=30, on_progress=on_progress)
    assert entry["outputs"] == DONE["outputs"]
    assert fake.connections >= 3
    assert [p.step for p in seen if p.steps] == sorted({p.step for p in seen if p.steps})
    assert {p.what for p in seen if p.steps} == {"1 (The sampler)"}
    assert len(fake.queued) == 1


@pytest.mark.parametrize("why", ["refused", "no library"])
def test_without_a_websocket_asking_is_enough(
    fake: Fake, server: ComfyServer, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "refused":
        fake.sockets = False
    else:
        monkeypatch.setitem(__import__("sys").modules, "websocket", None)
    seen: list[Progress] = []
    assert run_graph(server, GRAPH, timeout=30, on_progress=seen.append)["outputs"] == DONE["outputs"]
    assert [p.what for p in seen] == ["running"]
    assert fake.connections == 0


def test_a_lost_connection_in_the_middle_is_survived(fake: Fake, server: ComfyServer) -> None:
    fake.sockets, fake.gone, fake.asked_before_end = False, [False, True, True, True, False], 7
    assert run_graph(server, GRAPH, timeout=30)["outputs"] == DONE["outputs"]
    assert not cancelled(fake)


def test_a_lost_answer_does_not_queue_twice(fake: Fake, server: ComfyServer) -> None:
    fake.lose_answers = 1
    assert run_graph(server, GRAPH, timeout=30)["prompt_id"] == fake.queued[0]
    assert len(fake.queued) == 1


def test_a_server_that_stays_away_is_named(fake: Fake, server: ComfyServer) -> None:
    fake.sockets, fake.gone = False, [False] + [True] * 1000
    with pytest.raises(Unreachable, match="went away in the middle of the run"):
        run_graph(server, GRAPH, timeout=30)


def test_a_server_started_anew_has_forgotten(fake: Fake, server: ComfyServer) -> None:
    fake.ends, fake.forget_after = False, 3
    with pytest.raises(RemoteError, match="no longer knows the prompt"):
        run_graph(server, GRAPH, timeout=30)


@pytest.mark.parametrize(
    ("waiting", "words"), [(3, "last seen: waiting for 3 others"), (0, r"last seen: 1 \(The sampler\), step \d+ of 50")]
)
def test_a_timeout_says_where_it_was_and_cancels(fake: Fake, server: ComfyServer, waiting: int, words: str) -> None:
    fake.ends, fake.waiting, fake.sockets = False, waiting, not waiting
    with pytest.raises(RemoteError, match=rf"Not done after 1 s \({words}\)"):
        run_graph(server, GRAPH, timeout=1)
    assert cancelled(fake)
    interrupted = ("/interrupt", {"prompt_id": fake.queued[0]}) in fake.posted
    assert interrupted == (not waiting)  # another's prompt is never stopped


def test_ctrl_c_cancels(fake: Fake, sounding: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    fake.ends = False

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running._Watch, "_heard", press)
    result = sounding()
    assert result.exit_code == 130
    assert "the server was told to cancel" in result.stderr
    assert cancelled(fake)
    assert ("/interrupt", {"prompt_id": fake.queued[0]}) in fake.posted


NODE_ERRORS = {
    "1": {
        "class_type": "SoundingSampler",
        "errors": [
            {"message": "Value 0 smaller than min of 1", "details": "steps"},
            {"message": "Required input is missing", "details": "latent"},
        ],
    },
    "2": {"class_type": "SaveAudio", "errors": [{"message": "Return type mismatch", "details": "audio"}]},
}
SENTENCES = [
    "Node 1 (The sampler): Value 0 smaller than min of 1: steps; Required input is missing: latent.",
    "Node 2 (SaveAudio): Return type mismatch: audio.",
]


def test_validation_errors_are_one_sentence_a_node(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.refusal = {"error": {"message": "Prompt outputs failed validation", "details": ""}, "node_errors": NODE_ERRORS}
    result = sounding()
    assert result.exit_code == 1
    assert result.stderr.removeprefix("sounding: ").splitlines() == SENTENCES


def test_a_graph_that_is_valid_in_part_does_not_run(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.node_errors = NODE_ERRORS
    result = sounding()
    assert result.stderr.removeprefix("sounding: ").splitlines() == SENTENCES
    assert cancelled(fake)


def test_a_graph_with_an_unknown_node_is_told_in_the_servers_words(fake: Fake, sounding: Callable[..., Result]) -> None:
    error = {"message": "Cannot execute because node X does not exist.", "details": "Node ID '#1'"}
    fake.refusal = {"error": error, "node_errors": {}}
    said = sounding().stderr
    assert (
        said == "sounding: The server refused the graph: Cannot execute because node X does not exist: Node ID '#1'.\n"
    )


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [["execution_error", {"node_id": "1.0.3", "exception_message": "The mask is empty;\npaint one."}]],
            "Node 1 (The sampler) failed: The mask is empty; paint one.",
        ),
        ([["execution_interrupted", {"node_id": "1"}]], "Somebody stopped the run on the server, at node 1"),
        ([], "which says no more"),
    ],
)
def test_a_failed_run_says_why(
    fake: Fake, sounding: Callable[..., Result], messages: list[Any], words: str, tmp_path: Path
) -> None:
    fake.entry = {"outputs": {}, "status": {"status_str": "error", "completed": False, "messages": messages}}
    result = sounding()
    assert result.exit_code == 1
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_graph_without_a_sound_is_told(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.entry = {**DONE, "outputs": {"3": {"images": [PICTURE]}}}
    result = sounding()
    assert result.exit_code == 1
    assert "saved no sound" in result.stderr


def test_uploads_arrive_as_they_are(fake: Fake, server: ComfyServer) -> None:
    content = bytes(range(256)) * 300
    there = server.upload('a "b".png', content)
    digest = hashlib.sha256(content).hexdigest()
    assert re.fullmatch(r"sub/a _b_-(\w{20})\.png", there)
    assert digest.startswith(there[-24:-4])
    assert fake.files[there.removeprefix("sub/")] == content
    assert server.upload("another.png", content) != there
    assert server.upload('a "b".png', content[1:]) != there


@pytest.mark.parametrize(
    ("url", "words"), [("http://127.0.0.1:9", "No ComfyUI answers at"), ("ftp://x", "is no address")]
)
def test_a_wrong_address_is_told_at_once(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    result = CliRunner().invoke(app, ["queue", str(tmp_path / "graph.json"), "--server", url])
    assert result.exit_code == 1
    assert words in result.stderr


def test_driving_a_server_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    code = "import sounding.cli, sounding.client.run, sounding.client.graph, sys; "
    code += "assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
