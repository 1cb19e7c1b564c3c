"""The click node's routes, called by foreign pages."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from aiohttp import web
from PIL import Image

from .mutations import as_json, damaged, hostile_value, mutated
from .sandbox import SECONDS, Case, try_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes, and how they are watched")

ROOT = Path(__file__).parent.parent.parent
REFUSALS = (400, 403, 413, 415, 429, 503, 507)
SAM = "sams/sam_vit_b_bad.pth"


class Queue:
    """The host's queue, which is empty."""

    def get(self) -> None:
        """No workflow waits."""

    def get_tasks_remaining(self) -> int:
        """No workflow runs or waits."""
        return 0


@pytest.fixture
def routes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`nodes/click/routes.py` in a pack under a made-up name, with the parts of a host that it uses."""
    places = {kind: str(folder / kind) for kind in ("input", "output", "temp")}
    made: dict[str, dict[str, Any]] = {
        "routepack": {"__path__": [str(ROOT)]},
        "routepack.nodes": {"__path__": [str(ROOT / "nodes")]},
        "comfy": {"__path__": []},
        "comfy.cli_args": {"args": type("Arguments", (), {"enable_cors_header": None})},
        "folder_paths": {
            "get_directory_by_type": places.get,
            "get_input_directory": lambda: places["input"],
            "folder_names_and_paths": {"sams": ([str(folder / "sams")], {".pth"})},
            "get_filename_list": lambda kind: [Path(SAM).name],
            "get_full_path": lambda kind, name: str(folder / kind / name),
        },
    }
    for name, values in made.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    sam_files = importlib.import_module("routepack.nodes.host.sam_folders")
    segment = importlib.import_module("routepack.sounding.segment")
    nodes = ModuleType("routepack.nodes.segment")  # opens what the real one opens, without the host's memory
    nodes.__dict__["open_segmenter"] = lambda name: segment.load_segmenter(sam_files.sam_path(name))
    monkeypatch.setitem(sys.modules, nodes.__name__, nodes)
    small = segment.load_segmenter("starter")  # what torch imports with its first use is no part of an input's time
    small.segment(small.prepare(torch.rand(1, 70, 90, 3)), segment.Prompt(positive=((3.0, 4.0),)))
    yield importlib.import_module("routepack.nodes.click.routes")
    for name in [name for name in sys.modules if name.startswith("routepack.")]:
        del sys.modules[name]


class Server:
    """The routes on a local port, in an event loop of this process."""

    def __init__(self, routes: ModuleType, logs: Path):
        table = web.RouteTableDef()
        routes.ClickRoutes(routes.QueueGate(Queue())).register(table)
        routes.StudyRoutes(lambda request: logs).register(table)
        app = web.Application()
        app.add_routes(table)
        self.loop = asyncio.new_event_loop()
        runner = web.AppRunner(app)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]

    def ask(self, request: bytes, patience: float) -> bytes:
        """Send bytes and return what arrives within `patience` seconds."""
        return self.loop.run_until_complete(self._ask(request, patience))

    async def _ask(self, request: bytes, patience: float) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), patience)
        except (ConnectionError, asyncio.TimeoutError):  # refused before all of it was sent, or more is waited for
            return b""
        finally:
            writer.close()


def head(draw: random.Random, body: bytes, path: str = "/sounding/click") -> tuple[bytes, bool]:
    """The head of a request, and whether it is as a page sends it."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    fields["Connection"] = "close"
    odd = draw.random() < 0.15
    if odd:
        name = draw.choice(("Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Sec-Fetch-Site",
                            "Origin", "Expect", "Upgrade"))  # fmt: skip
        fields[name] = draw.choice(("text/plain", "application/json; charset=x", "0", "-1", "9" * 400, "gzip",
                                    "deflate", "br", "chunked", "cross-site", "null", "100-continue", "websocket",
                                    "\x01"))  # fmt: skip
    method = draw.choice(("GET", "PUT", "OPTIONS", "X")) if draw.random() < 0.02 else "POST"
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode(), not odd and method == "POST"


def check(answer: bytes, whole: bool) -> None:
    """Our answer is masks or one sentence; what no page would send may be answered by the server itself."""
    top, _, body = answer.partition(b"\r\n\r\n")
    if not whole and b"application/json" not in top:
        assert not top or int(top.split()[1]) < 500, answer[:300]
        return
    assert b"application/json" in top, answer[:300]
    status, said = int(top.split()[1]), json.loads(body)
    if status == 200:
        assert "kept" in said or all(mask is None or 0 <= mask["score"] <= 1 for mask in said["masks"])
        return
    assert status in REFUSALS, answer[:500]
    assert set(said) == {"error"}
    assert said["error"].isprintable()
    assert 0 < len(said["error"]) < 1200


def test_click_routes(rounds: int, folder: Path, routes: ModuleType) -> None:
    for kind in ("input", "output", "temp", "sams"):
        (folder / kind).mkdir()
    picture = io.BytesIO()
    Image.effect_noise((90, 70), 60).convert("RGB").save(picture, "PNG")
    (folder / "input" / "good.png").write_bytes(picture.getvalue())
    (folder / "input" / "link.png").symlink_to("/etc/hostname")
    (folder / "input" / "loop.png").symlink_to("loop.png")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 4)}, folder / SAM)
    archive = (folder / SAM).read_bytes()
    first = {"name": "dog", "colour": "#E69F00", "on": True, "gain_db": -6, "negative": [], "box": [10, 20, 80, 60]}
    objects = [{**first, "positive": [{"x": 30, "y": 40.5}]}, first, {"name": "cow"}]
    good = {
        "picture": {"name": "good.png", "subfolder": "", "type": "input"},
        "state": {"version": 1, "size": [90, 70], "objects": objects},
        "segmenter": "starter (in the box)",
    }
    servers: list[Server] = []

    def make(draw: random.Random, folder: Path) -> Case:
        if not servers:
            servers.append(Server(routes, folder))  # its threads live in the process that tries
        how, asked = draw.random(), {key: good[key] for key in draw.sample(list(good), 3)}
        if how < 0.15:  # what is on disk is bad
            (folder / "input" / "bad.png").write_bytes(damaged(draw, picture.getvalue()))
            asked = {**good, "picture": {"name": "bad.png"}}
        elif how < 0.25:
            (folder / SAM).write_bytes(damaged(draw, archive))
            asked = {**good, "segmenter": SAM}
        elif how < 0.35:
            names = ("../good.png", "link.png", "loop.png", "/etc/hostname", "x" * 1024, "good.png/", "./good.png", ".")
            asked = {**good, "picture": {"name": draw.choice(names), "subfolder": draw.choice(("", "..", "~", "\0"))}}
        elif how < 0.4:
            asked = {**good, draw.choice(list(good)): hostile_value(draw)}
        elif how < 0.95:
            asked = mutated(draw, good)
        body = as_json(draw, asked).encode(errors="surrogatepass")
        if draw.random() < 0.05:
            body = gzip.compress(body)
        start, whole = head(draw, body)
        request = start + body
        if draw.random() < 0.1:
            request, whole = damaged(draw, request), False
        return lambda: check(servers[0].ask(request, SECONDS if whole else 0.3), whole)

    try_inputs("click routes", rounds, folder, make, ())


def test_study_route(rounds: int, folder: Path, routes: ModuleType) -> None:
    """Whatever comes, the log stays whole lines of events that were checked."""
    (folder / "input").mkdir()
    (folder / "input" / "good.png").write_bytes(b"any bytes")
    (folder / "input" / "link.png").symlink_to("/etc/hostname")
    start = {"study": "yard", "participant": "P01", "task": "dog", "condition": "mask", "sentence": "Make it bark."}
    events = [
        {"event": "start", "seq": 0, "at": 0, "picture": {"name": "good.png"}, **start},
        {"event": "edit", "seq": 1, "at": 1.5, "act": "box", "object": 0},
        {"event": "queue", "seq": 2, "at": 2, "run": 1, "by": "page", "fresh": True},
        {"event": "rated", "seq": 3, "at": 20.5, "satisfaction": 5},
    ]
    good = {"trial": "0123456789abcdef" * 2, "events": events}
    servers: list[Server] = []
    log = folder / "log.jsonl"

    def attempt(request: bytes, whole: bool) -> None:
        check(servers[0].ask(request, SECONDS if whole else 0.3), whole)
        for line in log.read_bytes().splitlines() if log.exists() else ():
            event = json.loads(line)
            assert event["version"] == 1
            assert "picture" not in event
        log.unlink(missing_ok=True)

    def make(draw: random.Random, folder: Path) -> Case:
        if not servers:
            servers.append(Server(routes, folder))
        how, asked = draw.random(), good
        if how < 0.1:
            picture = {"name": draw.choice(("../log.jsonl", "link.png", "/etc/hostname", ".", "none.png", "\0"))}
            asked = {**good, "events": [{**events[0], "picture": picture}]}
        elif how < 0.9:
            asked = mutated(draw, good)
        body = as_json(draw, asked).encode(errors="surrogatepass")
        start, whole = head(draw, body, "/sounding/study")
        request = start + body
        if draw.random() < 0.1:
            request, whole = damaged(draw, request), False
        return lambda: attempt(request, whole)

    try_inputs("study route", rounds, folder, make, ())
