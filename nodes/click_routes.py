"""What the page asks while someone clicks: masks for clicks, at once and beside the queue.

One route, `POST /sounding/click`. It holds the small segmenter of the box, on the CPU, so that no rule of the host's
memory is touched; what it keeps of pictures is bounded. All that comes in is checked, and every error is a sentence.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from aiohttp import web
from comfy.cli_args import args
from PIL import Image
from torch import Tensor

from .click_masks import ObjectMask, segment_objects, working_picture
from .click_picture import PictureError, picture_path, read_picture
from .click_state import ClickState, StateError, read_state

if TYPE_CHECKING:
    from pathlib import Path

    from ..sounding.segment import Segmenter

logger = logging.getLogger(__name__)

PATH = "/sounding/click"
MAX_BODY = 256 * 1024  # bytes
MAX_WAITING = 16  # requests; pages send one at a time
KEPT_PICTURES = 4


class Refused(Exception):
    """A request that is answered with an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Gone(Exception):
    """The page no longer waits for the answer."""


class ClickRoutes:
    """The route with its segmenter, loaded at the first click."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sounding-click")
        self._segmenter: Segmenter | None = None
        # (path, time, bytes) of a file -> width and height, and the prepared working picture
        self._pictures: OrderedDict[tuple[str, int, int], tuple[tuple[int, int], tuple[int, int], Any]] = OrderedDict()

    def register(self, routes: web.RouteTableDef) -> None:
        """Add the route; the host repeats it under /api."""
        routes.post(PATH)(self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        """`{"picture": {"name", "subfolder", "type"}, "state": {...}}` -> a mask for each object of the state.

        The answer: `{"width", "height", "milliseconds", "masks": [{"png", "score"} or null, ...]}`, with the mask as
        the alpha channel of a PNG of the working picture's size.
        """
        try:
            _same_origin(request)
            path, state = _read_request(await _body(request))
            return web.json_response(await self._in_turn(request, path, state))
        except Refused as refused:
            return _error(refused.status, str(refused))
        except (StateError, PictureError) as error:
            return _error(400, str(error))
        except Gone:
            return _error(499, "The page no longer waits for this answer.")
        except Exception:
            logger.exception("Sounding: a click could not be answered")
            return _error(500, "The click could not be answered; the server's log says why.")

    async def _in_turn(self, request: web.Request, path: Path, state: ClickState) -> dict[str, Any]:
        """One request at a time, and none for a page that has gone on."""
        if self._waiting >= MAX_WAITING:
            raise Refused(429, f"{MAX_WAITING} clicks wait for an answer already; wait a moment and click again.")
        self._waiting += 1
        try:
            async with self._lock:
                if request.transport is None or request.transport.is_closing():
                    raise Gone
                return await asyncio.get_running_loop().run_in_executor(self._worker, self._masks, path, state)
        finally:
            self._waiting -= 1

    def _masks(self, path: Path, state: ClickState) -> dict[str, Any]:
        """The work, in the one worker thread."""
        started = time.perf_counter()
        with torch.inference_mode():
            segmenter = self._loaded()
            size, small, prepared = self._prepared(segmenter, path)
            objects = state.on_picture(*size)
            clicked = [each for each in objects if each.clicked]
            made = iter(segment_objects(segmenter, prepared, clicked, size, small))
            masks = [_shown(next(made)) if each.clicked else None for each in objects]
        spent = round((time.perf_counter() - started) * 1000, 1)
        return {"width": size[0], "height": size[1], "milliseconds": spent, "masks": masks}

    def _loaded(self) -> Segmenter:
        if self._segmenter is None:
            from ..sounding.segment import load_segmenter

            self._segmenter = load_segmenter("starter")
        return self._segmenter

    def _prepared(self, segmenter: Segmenter, path: Path) -> tuple[tuple[int, int], tuple[int, int], Any]:
        """A file's size, the working picture's, and the latter prepared; kept until the file changes."""
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._pictures:
            picture = read_picture(path)
            small = working_picture(picture)
            self._pictures[key] = (_sides(picture), _sides(small), segmenter.prepare(small))
            while len(self._pictures) > KEPT_PICTURES:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(key)
        return self._pictures[key]


def register_routes() -> None:
    """Add the route to the host's, where the host runs as a server."""
    import sys

    server = sys.modules.get("server")  # importing it here would start half of one in tools that only list nodes
    if server is not None and getattr(server.PromptServer, "instance", None) is not None:
        ClickRoutes().register(server.PromptServer.instance.routes)


def _same_origin(request: web.Request) -> None:
    """Refuse what a page from elsewhere could make a browser send, unless the host was told to allow such pages.

    The host itself compares Origin and Host where the latter is this machine. Browsers also say where a request
    comes from, and ask before they send JSON across origins: both are required here wherever the server is.
    """
    if request.content_type != "application/json":
        raise Refused(415, f"The request is {request.content_type[:60]}, but application/json is expected; send JSON.")
    if args.enable_cors_header is None and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Refused(403, "The request comes from a page of another origin; open ComfyUI itself, or allow it to by "
                           "its option --enable-cors-header.")  # fmt: skip


async def _body(request: web.Request) -> Any:
    """Parsed JSON out of no more than `MAX_BODY` bytes."""
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > MAX_BODY:
            raise Refused(
                413, f"The request has more than {MAX_BODY} bytes, but fewer are expected; send fewer points."
            )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The request is not JSON, but JSON is expected; send picture and state.") from error


def _read_request(data: Any) -> tuple[Path, ClickState]:
    if not isinstance(data, dict) or data.keys() != {"picture", "state"}:
        raise Refused(
            400, "The request has other fields than picture and state, but just these are expected; send them."
        )
    picture = data["picture"]
    fine = isinstance(picture, dict) and picture.keys() <= {"name", "subfolder", "type"} and "name" in picture
    if not fine or not all(isinstance(value, str) and len(value) <= 1024 for value in picture.values()):
        raise Refused(400, "picture is not a name, a subfolder and a type, but these strings are expected; send them.")
    path = picture_path(picture["name"], picture.get("subfolder", ""), picture.get("type", "input"))
    return path, read_state(data["state"])


def _sides(picture: Tensor) -> tuple[int, int]:
    """Width and height of [1, H, W, 3]."""
    return picture.shape[2], picture.shape[1]


def _shown(made: ObjectMask) -> dict[str, Any]:
    alpha = Image.fromarray((made.mask * 255).round().to(torch.uint8).numpy())
    file = io.BytesIO()
    Image.merge("LA", (Image.new("L", alpha.size, 255), alpha)).save(file, "PNG", compress_level=1)
    return {"png": base64.b64encode(file.getvalue()).decode(), "score": round(made.score, 4)}


def _error(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
