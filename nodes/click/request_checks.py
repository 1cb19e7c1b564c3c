"""What the pack's routes have in common: foreign pages are kept out, bodies are bounded, refusals are sentences."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from comfy.cli_args import args


class Refused(Exception):
    """A request that is answered with an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def same_origin(request: web.Request) -> None:
    """Refuse what a page of another origin can make a browser send, unless the host was told to allow such pages.

    The host itself compares Origin and Host, but only where the latter is this machine. Browsers also say where a
    request comes from (Sec-Fetch-Site), and ask before they send JSON across origins: both are required here.
    """
    if request.content_type != "application/json":
        raise Refused(415, f"The request is {request.content_type[:60]}, but application/json is expected; send JSON.")
    if args.enable_cors_header is None and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Refused(403, "The request comes from a page of another origin; open ComfyUI itself, or allow it to by "
                           "its option --enable-cors-header.")  # fmt: skip


async def json_body(request: web.Request, most: int) -> Any:
    """The request's JSON, parsed, of at most `most` bytes."""
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > most:
                raise Refused(413, f"The request has more than {most} bytes, but fewer are expected; send less.")
    except (ClientPayloadError, HttpProcessingError, web.RequestPayloadError) as error:
        raise Refused(400, "The request's body is damaged, but JSON is expected; send it again.") from error
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The request is not JSON, but JSON is expected; send JSON.") from error


def error_response(status: int, sentence: str) -> web.Response:
    """The answer to what was refused."""
    return web.json_response({"error": sentence}, status=status)
