"""The messages of a ComfyUI server over its websocket, with a limit for each message and for each wait."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from .answers import parse

MESSAGE_BYTES = 16 << 20  # previews of images come this way too
CONNECT_SECONDS = 5.0


class Listener:
    """The server's messages, as long as there is a websocket; it is opened again when it breaks.

    websocket-client reads a message to its end, however long it is and however slowly it comes, so it is given a
    socket that stops it.
    """

    def __init__(self, url: str):
        """Try to connect, so that no message of a prompt queued afterwards is missed."""
        self.url = url
        self.socket: Any = None
        self._wire: _Bounded | None = None
        self._next_try = 0.0
        self._pause = 0.5
        try:
            import websocket

            # Another library, for other things, is imported by the same name.
            self._library: Any = websocket if hasattr(websocket, "create_connection") else None
        except ImportError:
            self._library = None
        self._connect()

    @property
    def connected(self) -> bool:
        """Whether messages can come at the moment."""
        return self.socket is not None

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None if none comes within `seconds`."""
        if self._wire is None and not self._connect():
            time.sleep(seconds)
            return None
        assert self._wire is not None
        try:
            self._wire.wait_until(time.monotonic() + seconds)
            text = self.socket.recv()
        except (self._library.WebSocketTimeoutException, TimeoutError):
            return None  # what came of a message so far is kept
        except Exception:  # whatever a broken stream makes the library stumble over
            self.close()
            self._next_try = time.monotonic() + self._pause
            return None
        self._wire.spent = 0
        return parse(text) if isinstance(text, str) and text else None  # previews are binary

    def close(self) -> None:
        """Let go of the websocket."""
        if self.socket is not None and self._wire is not None:
            with suppress(Exception):
                self._wire.wait_until(time.monotonic() + 1)
                self.socket.close(timeout=1)
        if self._wire is not None:
            self._wire.close()
        self.socket = self._wire = None

    def _connect(self) -> bool:
        if self._library is None or time.monotonic() < self._next_try:
            return False
        try:
            self._wire = _dial(self.url)
            # Without an origin: ComfyUI compares it with its own address, which a proxy in between may change.
            self.socket = self._library.create_connection(
                self.url,
                timeout=CONNECT_SECONDS,
                suppress_origin=True,
                socket=self._wire,
                redirect_limit=0,
                skip_utf8_validation=True,  # decoding validates as well, and does not take seconds for it
            )
            self._wire.spent = 0
            self._pause = 0.5
        except Exception:  # no websocket, for whatever reason: asking is enough
            self.close()
            self._pause = min(2 * self._pause, 10.0)
            self._next_try = time.monotonic() + self._pause
        return self.socket is not None


class _Bounded:
    """A connected socket that gives up at a moment rather than after a silence, and beyond a message's bytes."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.spent = 0
        self._end = time.monotonic() + CONNECT_SECONDS

    def wait_until(self, end: float) -> None:
        """Let reads and writes fail from then on."""
        self._end = end

    def recv(self, size: int) -> bytes:
        """What has come, at most `size` bytes of it."""
        self._mind_the_time()
        data = self.connection.recv(size)
        self.spent += len(data)
        if self.spent > MESSAGE_BYTES:
            raise ConnectionAbortedError("The message is too long.")
        return data

    def send(self, data: bytes) -> int:
        """Send some of it; how much."""
        self._mind_the_time()
        return self.connection.send(data)

    def _mind_the_time(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.connection.settimeout(left)

    def settimeout(self, seconds: float | None) -> None:
        """The library's own times do not count."""

    def gettimeout(self) -> float:
        """Not 0, which would mean that nothing is waited for."""
        return CONNECT_SECONDS

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def _dial(url: str) -> _Bounded:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    connection = socket.create_connection((parts.hostname, port), CONNECT_SECONDS)
    try:
        if parts.scheme == "wss":
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
    except BaseException:
        connection.close()
        raise
    return _Bounded(connection)
