"""The web server of a listening test: a page of our own, and five addresses that it asks.

Raters are known by a random token in a cookie. They never see a system's name, a file's name, or a sample before its
turn. Whatever a browser sends is bounded and checked; every refusal is one sentence of JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from sounding.utils.fields import parse_json
from sounding.utils.messages import shown

from .database import AlreadyRated, Database, Refused, Trial
from .material import Material, prepare
from .plan import MOST_TRIALS, PREFERENCE, SCALES, Settings, control_items, draw, scales_of
from .samples import Item, read_samples, systems_of

log = logging.getLogger("training")
PAGE = Path(__file__).parent / "page"
MOST_BODY = 4096  # bytes
BODY_SECONDS = 20.0  # for a body to arrive
RATER = re.compile(r"[\w .@+-]{1,64}")
TOKEN = re.compile(r"[\w-]{32}", re.ASCII)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
Result = TypeVar("Result")


class Server:
    """Answers raters; the database is used from one thread of its own, so that raters never wait for the page."""

    def __init__(self, database: Database, material: Material, *, only_loopback: bool = True):
        self.database, self.material, self.only_loopback = database, material, only_loopback
        self.items: dict[str, Item] = {item.name: item for item in database.items}
        self._thread = ThreadPoolExecutor(1, "study database")
        self.cookie = "study-" + hashlib.sha256(str(database.path.resolve()).encode()).hexdigest()[:8]

    def application(self) -> web.Application:
        """The application for aiohttp to run."""
        application = web.Application(client_max_size=MOST_BODY, middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/{file:study\\.(?:js|css)}", self._page),
                web.get("/api/trial", self._trial),
                web.get("/api/image/{position:\\d{1,4}}", self._image),
                web.get("/api/sound/{position:\\d{1,4}}/{side:[01]}", self._sound),
                web.post("/api/start", self._start),
                web.post("/api/rate", self._rate),
            ]
        )
        application.on_cleanup.append(self._close)
        return application

    async def _close(self, _: web.Application) -> None:
        await self._ask(self.database.close)
        self._thread.shutdown()

    async def _ask(self, question: Callable[..., Result], *arguments: Any) -> Result:
        """Call the database in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, *arguments)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Turn errors into sentences, and refuse pages of other sites whose name leads here."""
        try:
            if self.only_loopback and request.url.host not in LOOPBACK:
                raise web.HTTPForbidden(text="This address is not the one that the study is served at.")
            response = await handler(request)
        except web.HTTPException as error:
            response = _refusal(error.status, _SAID.get(error.status, error.text or error.reason))
        except AlreadyRated as error:
            response = _refusal(410, str(error))
        except Refused as error:
            response = _refusal(409, str(error))
        except ValueError as error:
            response = _refusal(400, str(error))
        except sqlite3.Error:
            log.exception("The database of the study could not be used")
            response = _refusal(503, "This could not be saved; please try again in a moment.")
        response.headers.update(HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / request.match_info.get("file", "index.html"))

    async def _start(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, {"name"})
        name = body["name"].strip() if isinstance(body["name"], str) else ""
        if not RATER.fullmatch(name):
            raise ValueError("A name of 1 to 64 letters, digits, spaces and . @ + - _ is expected.")
        token = await self._ask(self.database.start, name)
        response = web.json_response({})
        response.set_cookie(self.cookie, token, max_age=90 * 86400, httponly=True, samesite="Strict")
        return response

    async def _known(self, request: web.Request) -> int | None:
        token = request.cookies.get(self.cookie, "")
        return await self._ask(self.database.rater, token) if TOKEN.fullmatch(token) else None

    async def _rater(self, request: web.Request) -> int:
        rater = await self._known(request)
        if rater is None:
            raise web.HTTPUnauthorized(text="You are not known here yet; reload the page to begin.")
        return rater

    async def _shown(self, request: web.Request) -> Trial:
        """The sample that an address names, if its turn has come."""
        trial = await self._ask(self.database.trial, await self._rater(request), int(request.match_info["position"]))
        if trial is None or trial.shown is None:
            raise web.HTTPNotFound
        return trial

    async def _trial(self, request: web.Request) -> web.StreamResponse:
        """What the page shows now; the same after a reload."""
        rater = await self._known(request)
        if rater is None:
            return web.json_response({"state": "start"})
        done, every = await self._ask(self.database.progress, rater)
        trial = await self._ask(self.database.show_next, rater)
        if trial is None:
            return web.json_response({"state": "end", "samples": every})
        item, protocol = self.items[trial.item], self.database.settings.protocol
        scales = scales_of(item, protocol)
        return web.json_response(
            {
                "state": protocol,
                "position": trial.position,
                "done": done,
                "samples": every,
                "text": item.text,
                "object": item.object if item.mask else "",
                "scales": [{"name": scale, "title": SCALES.get(scale, "")} for scale in scales],
                "wait": self.database.remaining(trial),
            }
        )

    async def _image(self, request: web.Request) -> web.StreamResponse:
        trial = await self._shown(request)
        return web.FileResponse(self.material.images[trial.item])

    async def _sound(self, request: web.Request) -> web.StreamResponse:
        trial = await self._shown(request)
        system = trial.other if request.match_info["side"] == "1" else trial.system
        if not system:
            raise web.HTTPNotFound
        return web.FileResponse(self.material.sounds[trial.item, system])

    async def _rate(self, request: web.Request) -> web.StreamResponse:
        rater = await self._rater(request)
        body = await _body(request, {"position", "values"})
        position, values = body["position"], body["values"]
        if type(position) is not int or not 0 <= position < MOST_TRIALS:
            raise ValueError(f"The position is {shown(position)}, but that of a sample is expected.")
        trial = await self._ask(self.database.trial, rater, position)
        if trial is None:
            raise web.HTTPNotFound
        scales = scales_of(self.items[trial.item], self.database.settings.protocol)
        if not isinstance(values, dict) or values.keys() != set(scales):
            raise ValueError(f"Answers to {', '.join(scales)} are expected, all of them and no others.")
        for scale, value in values.items():
            low, high = (-1, 1) if scale == PREFERENCE else (1, 5)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{scale} is {shown(value)}, but a whole number from {low} to {high} is expected.")
        await self._ask(self.database.rate, rater, position, values)
        return web.json_response({})


_SAID = {
    404: "There is nothing here.",
    405: "This address does not take such requests.",
    413: f"This is too long; at most {MOST_BODY} bytes are expected.",
}


def _refusal(status: int, said: str) -> web.Response:
    return web.json_response({"error": said}, status=status)


async def _body(request: web.Request, keys: set[str]) -> dict[str, Any]:
    """The JSON object that a request brings, with exactly these keys."""
    if request.content_type != "application/json":  # which other sites' forms cannot send
        raise web.HTTPUnsupportedMediaType(text="JSON is expected.")
    try:
        text = (await asyncio.wait_for(request.read(), BODY_SECONDS)).decode()
        body = parse_json(text, most=MOST_BODY)
    except (TimeoutError, asyncio.TimeoutError):
        raise web.HTTPRequestTimeout(text="The request did not arrive whole.") from None
    except ValueError:
        raise ValueError("This is not JSON as it is expected.") from None
    if not isinstance(body, dict) or body.keys() != keys:
        raise ValueError(f"A JSON object with {' and '.join(sorted(keys))} is expected.")
    return body


def serve(
    samples: Path, database: Path, settings: Settings, host: str, port: int, *, announce: Callable[[str], None] = print
) -> None:
    """Serve a study until the process is interrupted.

    Args:
        samples: folder, see `samples`.
        database: file; one that exists is continued.
        settings: of the study.
        host: address to listen on.
        port: 0 takes a free one.
        announce: is given a line with the address once raters can come.

    Raises:
        ValueError: bad samples, settings or database, or an address that cannot be listened on.
    """
    items = read_samples(samples)
    systems = systems_of(items)
    if settings.against and settings.against not in systems:
        raise ValueError(f"--against is {shown(settings.against)}, but one of {', '.join(systems)} is expected.")
    draw(items, settings, 0, Counter())  # finds what cannot be asked before anyone is
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}); name another --port.") from None
    with closing(listener), tempfile.TemporaryDirectory(prefix="study-") as folder:
        material = prepare(items, control_items(items, settings), Path(folder), settings.seed)
        server = Server(Database(database, items, settings), material, only_loopback=host in LOOPBACK)
        announce(
            f"{len(items)} images, {len(systems)} systems, ratings in {database}: "
            f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]} (Ctrl-C stops)"
        )
        web.run_app(server.application(), sock=listener, print=None, access_log=None, shutdown_timeout=2)
