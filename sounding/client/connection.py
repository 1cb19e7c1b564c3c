"""A connection to a ComfyUI server: questions and answers as JSON, within limits of bytes and time, and repeated.

`sounding.client.server` says what is asked. What goes wrong on the way is one sentence of a `RemoteError`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..utils.messages import printable
from .answers import JSON_BYTES, parse, words
from .http import ErrorStatus, NoAnswer, Overlong, Wire

Value = TypeVar("Value")
ANSWER_SECONDS = 60.0  # one answer as a whole, however it drips
PATIENCE_SECONDS = 60.0  # without any answer, once the server has answered before
FILE_BYTES = 512 << 20


class RemoteError(ValueError):
    """The server did not do what was asked; the message says why."""


class Unreachable(RemoteError):
    """No answer; the same may succeed later."""


class Refused(RemoteError):
    """An answer with an error status."""

    def __init__(self, message: str, status: int, body: Any):
        super().__init__(message)
        self.status = status
        self.body = body


class TimeUp(RemoteError):
    """The time for everything is over."""


class Connection:
    """One server's address, and the time that is left for it."""

    def __init__(
        self,
        url: str,
        *,
        patience: float = PATIENCE_SECONDS,
        timeout: float | None = None,
        file_bytes: int = FILE_BYTES,
    ):
        """Note the address; nothing is asked yet.

        Args:
            url: such as http://127.0.0.1:8188; "http://" may be left out.
            patience: seconds that `steadily` goes on without an answer.
            timeout: seconds from now on for everything that is asked of the server; without it only single answers
                have limits.
            file_bytes: that any one file from the server may have.

        Raises:
            RemoteError: the address is none.
        """
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.patience, self.file_bytes, self.timeout = patience, file_bytes, timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        wrong = RemoteError(f"--server {url} is no address; give one such as http://127.0.0.1:8188.")
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            raise wrong from None
        if not known or parts.query or parts.fragment or not self.url.isascii() or not self.url.isprintable():
            raise wrong
        if " " in self.url or parts.username is not None:
            raise wrong
        # A proxy for the outer world does not know the way to this machine.
        host = str(parts.hostname)
        self._wire = Wire(proxies=not (host in ("localhost", "::1") or host.startswith("127.")))

    def left(self, seconds: float) -> float:
        """`seconds`, or what is left of the time for everything.

        Raises:
            TimeUp: nothing is left.
        """
        if self._end is None:
            return seconds
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeUp(
                f"{self.url} did not get everything done in time"
                + (f" ({self.timeout:g} s)" if self.timeout else "")
                + "; allow more with --timeout."
            )
        return min(left, seconds)

    def steadily(self, call: Callable[[], Value]) -> Value:
        """Repeat a call that gets no answer, until patience ends."""
        end = time.monotonic() + self.patience
        while True:
            try:
                return call()
            except Unreachable:
                if time.monotonic() >= end:
                    raise
                time.sleep(self.left(min(1.0, self.patience / 4)))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is asked meanwhile has `seconds`, and what is left of the time for everything if that is less."""
        end = time.monotonic() + seconds
        with self._until(end if self._end is None else min(end, self._end)):
            yield

    @contextmanager
    def _until(self, end: float) -> Iterator[None]:
        before, self._end = self._end, end
        try:
            yield
        finally:
            self._end = before

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._json(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _json(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        answer = parse(b"".join(self._pieces(path, body, headers or {}, seconds, JSON_BYTES)))
        if answer is None:
            raise self._another(path)
        return answer

    def _pieces(
        self, path: str, body: bytes | None, headers: dict[str, str], seconds: float, limit: int
    ) -> Iterator[bytes]:
        short = printable(path.partition("?")[0], 200)
        try:
            yield from self._wire.exchange(self.url + path, body, headers, seconds=self.left(seconds), limit=limit)
        except ErrorStatus as error:
            reason = f"{error.status} {words(error.reason)}".strip()
            if error.status in (502, 503, 504):  # a proxy in front of a server that is just not there
                raise Unreachable(f"No ComfyUI answers behind {self.url} ({reason}).") from None
            if error.location and 300 <= error.status < 400:
                where = words(error.location)
                raise Refused(
                    f"{self.url}{short} sends on to {where} ({reason}); if that is where ComfyUI is, give it as "
                    "--server.",
                    error.status,
                    None,
                ) from None
            raise Refused(f"{self.url}{short} refused: {reason}.", error.status, parse(error.body)) from None
        except Overlong as error:
            more = ", or allow more with --max-mb" if path.startswith("/view?") else ""
            raise RemoteError(
                f"{self.url}{short} answers with {error}, but {limit} bytes are the limit; see what it sends{more}."
            ) from None
        except NoAnswer as error:
            self.left(1.0)  # says so if it was the time for everything that was over
            raise Unreachable(
                f"No ComfyUI answers at {self.url} ({words(str(error))}); start it, or give its address with --server."
            ) from None

    def _another(self, path: str) -> RemoteError:
        return RemoteError(
            f"{self.url}{printable(path, 200)} answers, but not as ComfyUI does; give the address of its page."
        )
