"""The route that a page sends a study's events to: `POST /sounding/study`. Off unless a setting of the host is on.

The page has the same setting, and sends nothing while it is off; the server looks at it too, so that nobody else can
have anything recorded. The log is in the folder of the host's user, from where the host's own route for such files
gives it to the page and deletes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from .images import image_path
from .request_checks import Refused, error_response, json_body, same_origin
from .study_log import LogFull, append, as_lines, read_events

logger = logging.getLogger(__name__)

PATH = "/sounding/study"
SETTING = "Sounding.Study.Record"  # as in web/sounding_study.js
FOLDER, LOG = "sounding_study", "log.jsonl"  # in the user's folder, as in web/study/files.js
MAX_BODY = 64 * 1024  # bytes
MAX_WAITING = 64  # requests
OFF = "Recording is off; switch on 'Record how I work' in ComfyUI's settings under Sounding Objects."


class Users(Protocol):
    """What is used here of the host's `UserManager`."""

    settings: Any

    def get_request_user_filepath(self, request: web.Request, file: str) -> str | None:
        """The path of a file in the folder of the user who asks."""
        ...


def study_folder(request: web.Request, users: Users) -> Path:
    """The folder for a user's log.

    Raises:
        Refused: this user has not switched recording on.
    """
    try:
        settings = users.settings.get_settings(request)
    except web.HTTPException:
        raise Refused(401, "The request comes from no user of this host; log in.") from None
    if not isinstance(settings, dict) or settings.get(SETTING) is not True:
        raise Refused(403, OFF)
    path = users.get_request_user_filepath(request, FOLDER)
    if path is None:
        raise Refused(401, "The request comes from no user of this host; log in.")
    return Path(path)


class StudyRoutes:
    """The route, which adds to one log per user, one request at a time."""

    def __init__(self, folder_of: Callable[[web.Request], Path]):
        """`folder_of`: where a request's user has the log; raises `Refused` where nothing may be recorded."""
        self._folder_of = folder_of
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sounding-study")

    def register(self, routes: web.RouteTableDef) -> None:
        """Add the route, which the host repeats under /api."""
        routes.post(PATH)(self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        """`{"trial", "events": [...]}`, as in `study_log`, -> `{"kept": events, "bytes": size of the log}`.

        The `picture` of a `start` event, `{"name", "subfolder", "type"}`, becomes the file's digest. What is answered
        is on the disk.
        """
        try:
            same_origin(request)
            path = self._folder_of(request) / LOG
            trial, events = read_events(await json_body(request, MAX_BODY))
            if self._waiting >= MAX_WAITING:
                raise Refused(429, f"{MAX_WAITING} requests wait already; they are sent again in a moment.")
            self._waiting += 1
            try:
                size = await asyncio.get_running_loop().run_in_executor(self._worker, _keep, path, trial, events)
            finally:
                self._waiting -= 1
            return web.json_response({"kept": len(events), "bytes": size})
        except Refused as refused:
            return error_response(refused.status, str(refused))
        except ValueError as error:  # an invalid event or image
            return error_response(400, str(error))
        except LogFull:
            return error_response(507, "The study's log is full; download it, then delete it.")
        except OSError as error:
            logger.exception("Sounding: the study's log could not be written")
            return error_response(
                507, f"The study's log could not be written ({error.strerror}); see the server's log."
            )
        except Exception:
            logger.exception("Sounding: a study's events could not be kept")
            return error_response(500, "The events could not be kept; the server's log says why.")


def _keep(path: Path, trial: str, events: list[dict[str, Any]]) -> int:
    """The work, in the one worker thread: digests instead of images, and the lines on the disk."""
    kept = []
    for event in events:
        own = dict(event)
        if image := own.pop("picture", None):
            found = image_path(image["name"], image.get("subfolder", ""), image.get("type", "input"))
            digest = hashlib.sha256()
            with found.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            own["image"] = digest.hexdigest()
        kept.append(own)
    return append(path, as_lines(trial, kept, time.time()))
