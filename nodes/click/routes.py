"""The route that the page asks for masks while someone clicks: `POST /sounding/click`, answered outside the queue.

The models and images that it keeps are bounded. Everything that comes in is checked, and every error is a sentence.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from aiohttp import web
from PIL import Image
from torch import Tensor

from ..host.folders import STARTER_LABEL
from .gate import Busy, QueueGate
from .images import image_path, read_image
from .masks import ObjectMask, segment_objects, sides, working_image
from .names import ClickNames, described
from .request_checks import Refused, error_response, json_body, same_origin
from .segmenters import ClickSegmenters
from .state import ClickState, read_state
from .study_routes import StudyRoutes, study_folder

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

PATH = "/sounding/click"
MAX_BODY = 256 * 1024  # bytes
MAX_WAITING = 16  # requests; pages send one at a time
KEPT_IMAGES = 4
FIELDS = {"picture", "state", "segmenter", "checkpoint"}


class Gone(Exception):
    """The page does not wait for the answer any more."""


@dataclass(frozen=True)
class Asked:
    """A request, checked."""

    image: dict[str, str]  # name, subfolder and type of a file
    state: ClickState
    segmenter: str  # a name out of Sounding Load SAM's list
    checkpoint: str | None  # out of Sounding Load Model's; None where no model of this pack makes the sounds


class ClickRoutes:
    """The route, with its segmenters, its namer and the images that were clicked on last."""

    def __init__(self, gate: QueueGate):
        """`gate`: keeps clicks apart from the host's queue."""
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sounding-click")
        self._segmenters = ClickSegmenters(gate)
        self._names = ClickNames()
        self._timer: asyncio.TimerHandle | None = None
        # (path, time, bytes) of a file -> width and height, and the working image
        self._images: OrderedDict[tuple[str, int, int], tuple[tuple[int, int], Tensor]] = OrderedDict()

    def register(self, routes: web.RouteTableDef) -> None:
        """Add the route, which the host repeats under /api."""
        routes.post(PATH)(self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        """`{"picture": {"name", "subfolder", "type"}, "state": {...}}` -> a mask and a name for each object.

        `"segmenter"` may be a name in Sounding Load SAM's list, `"checkpoint"` one in Sounding Load Model's, or null
        where no model of this pack makes the sounds. The answer is `{"width", "height", "milliseconds", "vocabulary",
        "masks": [{"png", "score", "named"} or null, ...]}`, with each mask as the alpha channel of a PNG of the working
        image's size, `"named"` as in `names.described`, and `"vocabulary"` `{"checkpoint", "names": how many}`, or null
        where a checkpoint lists none. `"milliseconds"` counts all work, `"naming_milliseconds"` the names alone.
        """
        try:
            same_origin(request)
            return web.json_response(await self._in_turn(request, _read_request(await json_body(request, MAX_BODY))))
        except Refused as refused:
            return error_response(refused.status, str(refused))
        except ValueError as error:  # an invalid state, image or segmenter
            return error_response(400, str(error))
        except Busy:
            return error_response(
                503, "A workflow runs and needs the model's memory; the mask follows when it is done."
            )
        except Gone:
            return error_response(499, "The page does not wait for this answer any more.")
        except Exception:
            logger.exception("Sounding: a click could not be answered")
            return error_response(500, "The click could not be answered; the server's log says why.")

    async def _in_turn(self, request: web.Request, asked: Asked) -> dict[str, Any]:
        """Answer one request at a time, and none that its page has given up."""
        if self._waiting >= MAX_WAITING:
            raise Refused(429, f"{MAX_WAITING} clicks wait for an answer already; wait a moment and click again.")
        self._waiting += 1
        try:
            async with self._lock:
                if request.transport is None or request.transport.is_closing():
                    raise Gone
                return await asyncio.get_running_loop().run_in_executor(self._worker, self._masks, asked)
        finally:
            self._waiting -= 1
            self._tidy()

    def _tidy(self) -> None:
        """Release idle models, and plan the next check."""
        if self._timer is not None:
            self._timer.cancel()
        left = self._segmenters.tidy()
        self._timer = None if left is None else asyncio.get_running_loop().call_later(left + 1, self._tidy)

    def _masks(self, asked: Asked) -> dict[str, Any]:
        """The work, in the one worker thread."""
        started = time.perf_counter()
        with torch.inference_mode():
            image = asked.image
            path = image_path(image["name"], image.get("subfolder", ""), image.get("type", "input"))
            size, small = self._image(path)
            objects = asked.state.on_image(*size)
            clicked = [each for each in objects if each.clicked]
            with self._segmenters.on(asked.segmenter, small) as segment:
                made = segment_objects(segment, clicked, size, sides(small))
            segmented = time.perf_counter()
            known = None if asked.checkpoint is None else self._names.known_by(asked.checkpoint)
            named = self._names.of(small, [each.mask for each in made])
            told = [None if each is None else described(each, known) for each in named]
            ended = time.perf_counter()
            shown = iter([{**_shown(mask), "named": names} for mask, names in zip(made, told, strict=True)])
        return {
            "width": size[0],
            "height": size[1],
            "milliseconds": round((time.perf_counter() - started) * 1000, 1),
            "naming_milliseconds": round((ended - segmented) * 1000, 1),
            "vocabulary": known and {"checkpoint": known.checkpoint, "names": len(known.vocabulary.names)},
            "masks": [next(shown) if each.clicked else None for each in objects],
        }

    def _image(self, path: Path) -> tuple[tuple[int, int], Tensor]:
        """A file's width and height, and its working image; kept until the file changes."""
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._images:
            image = read_image(path)
            self._images[key] = (sides(image), working_image(image))
            while len(self._images) > KEPT_IMAGES:
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return self._images[key]


def register_routes() -> None:
    """Add the routes to the host's server, where there is one."""
    import sys

    server = sys.modules.get("server")  # importing it would half start one in tools that only list nodes
    if server is not None and getattr(server.PromptServer, "instance", None) is not None:
        host = server.PromptServer.instance
        ClickRoutes(QueueGate(host.prompt_queue)).register(host.routes)
        StudyRoutes(lambda request: study_folder(request, host.user_manager)).register(host.routes)


def _read_request(data: Any) -> Asked:
    """The request from parsed JSON."""
    if not isinstance(data, dict) or not {"picture", "state"} <= data.keys() <= FIELDS:
        raise Refused(400, "The request has not just the fields picture and state, which are expected; send both.")
    image = data["picture"]
    fine = isinstance(image, dict) and image.keys() <= {"name", "subfolder", "type"} and "name" in image
    if not fine or not all(isinstance(value, str) and len(value) <= 1024 for value in image.values()):
        raise Refused(400, "picture is not a name, a subfolder and a type, but these strings are expected; send them.")
    segmenter, checkpoint = data.get("segmenter", STARTER_LABEL), data.get("checkpoint", STARTER_LABEL)
    if not isinstance(segmenter, str) or len(segmenter) > 1024:
        raise Refused(400, "segmenter is not a name, but one of Sounding Load SAM's list is expected; choose one.")
    if checkpoint is not None and (not isinstance(checkpoint, str) or len(checkpoint) > 1024):
        raise Refused(400, "checkpoint is not a name, but one of Sounding Load Model's list is expected; choose one.")
    return Asked(image, read_state(data["state"]), segmenter, checkpoint)


def _shown(made: ObjectMask) -> dict[str, Any]:
    alpha = Image.fromarray((made.mask * 255).round().to(torch.uint8).numpy())
    file = io.BytesIO()
    Image.merge("LA", (Image.new("L", alpha.size, 255), alpha)).save(file, "PNG", compress_level=1)
    return {"png": base64.b64encode(file.getvalue()).decode(), "score": round(made.score, 4)}
