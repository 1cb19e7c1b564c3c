"""One HTTP transfer, appended to the part of the file that is there already; no header is taken on trust."""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any

OnBytes = Callable[[int, int], None]
CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte, or until an answer begins
SLOW = 64 * 2**10  # bytes that must come in TIMEOUT seconds
# What a connection fails with, so that another try may succeed.
BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)


class FetchError(ValueError):
    """A download that did not succeed; the message says what to do."""


class _Remembering(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeping the checksum that hubs state before they send a client to their storage."""

    stated = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://", f"{req.type}://")):  # never from https to anything less
            raise FetchError(
                f"{req.full_url} sends on to {said(newurl)}, but an https address is expected; try a mirror."
            )
        self.stated = self.stated or _stated(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _stated(headers: Any) -> str:
    """A SHA-256 in the headers by which Hugging Face states one, or Git's hash of a small file, or ""."""
    linked = str(headers.get("X-Linked-ETag") or "").strip('W/"')
    if re.fullmatch(r"[0-9a-f]{64}", linked):
        return linked
    tag = str(headers.get("ETag") or "").strip('W/"')
    return tag if headers.get("X-Repo-Commit") and re.fullmatch(r"[0-9a-f]{40}", tag) else ""


def go_on(url: str, part: Path, most: int, on_bytes: OnBytes | None) -> str:
    """Append what is missing of `url` to `part`, which gets no more than `most` bytes.

    Returns:
        The checksum that the server states, or "".

    Raises:
        FetchError: an answer that is not the file.
        OSError, http.client.HTTPException: the connection broke, or the disk is full.
    """
    if not url.startswith(("https://", "http://")):
        raise FetchError(
            f"{said(url)} is no address that files come from, but https://... is expected; check the mirror."
        )
    have = part.stat().st_size if part.exists() else 0
    if have > most:
        part.unlink()
        have = 0
    remember = _Remembering()
    try:
        response = _in_time(lambda: urllib.request.build_opener(remember).open(_request(url, have), timeout=TIMEOUT))
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is whole already, or longer than the file: the checksum tells
            if str(error.headers.get("Content-Range", "")).rpartition("/")[2] == str(have):
                return _stated(error.headers)
            part.unlink()
            raise ConnectionError("the part did not fit") from None
        raise
    except (ValueError, UnicodeError) as error:  # an address that a server made up
        if isinstance(error, FetchError):
            raise
        raise FetchError(
            f"{url} leads to no address ({said(error)}); check it, or set a mirror (HF_ENDPOINT)."
        ) from None
    with response:
        try:
            have = _begins_at(response, have, url)
        except ConnectionError:
            part.unlink(missing_ok=True)  # the next try asks for all of it
            raise
        length = response.length
        total = have + (length or 0)
        if total > most:
            raise FetchError(f"{url} has {total} bytes, but at most {most} are expected; try another mirror.")
        with part.open("ab" if have else "wb") as file:
            since, came = time.monotonic(), 0
            while data := response.read1(CHUNK):
                have, came = have + len(data), came + len(data)
                if have > most:
                    file.truncate(0)
                    raise FetchError(
                        f"{url} sends more than {most} bytes, which no file of it has; try another mirror."
                    )
                file.write(data)
                if on_bytes is not None:
                    on_bytes(have, max(total, have))
                if time.monotonic() - since > TIMEOUT:
                    if came < SLOW:
                        raise ConnectionError(f"only {came} bytes came in {TIMEOUT} seconds")
                    since, came = time.monotonic(), 0
        if have < total:
            raise ConnectionError(f"{have} of {total} bytes came")
        return remember.stated or _stated(response.headers)


def _request(url: str, have: int) -> urllib.request.Request:
    request = urllib.request.Request(url, headers={"User-Agent": "sounding-objects", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    return request


def _begins_at(response: Any, have: int, url: str) -> int:
    """Where the bytes of an answer belong: after the `have` that are there, or at the beginning.

    Raises:
        FetchError: it is no answer with a file in it.
        ConnectionError: it is another part of the file than was asked for.
    """
    kind = str(response.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if response.status not in (200, 206) or kind in ("text/html", "application/xhtml+xml"):
        raise FetchError(
            f"{url} answers {response.status} with {said(kind) or 'nothing'}, but a file is expected; it may want a "
            "sign-in on the way: check the address in a browser, or set a mirror (HF_ENDPOINT)."
        )
    if str(response.headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise FetchError(f"{url} is sent packed, but the file as it is was asked for; try another mirror.")
    if response.status == 200:  # the server does not resume: from the beginning
        return 0
    found = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", str(response.headers.get("Content-Range") or "").strip()
    )
    if found is None or int(found[1]) != have:
        raise ConnectionError(f"bytes from {have} on were asked for, other ones came")
    if found[3] != "*" and int(found[2]) + 1 != int(found[3]):
        raise ConnectionError("a part from the middle came")
    return have


def _in_time(work: Callable[[], Any]) -> Any:
    """What `work` gives within the time that an answer may take to begin: a server can drip its headers for days."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:
            done.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if not done:
        raise TimeoutError(f"no answer began in {2 * TIMEOUT} seconds")
    answer, error = done[0]
    if error is not None:
        raise error
    return answer


def said(what: object) -> str:
    """What a server said, short and without anything that a terminal obeys."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(str(what).split()))[:200]
