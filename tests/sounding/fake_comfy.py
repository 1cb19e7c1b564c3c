"""A ComfyUI server as far as `sounding queue` asks it, whose connections can be made to fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.client import run as running
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
