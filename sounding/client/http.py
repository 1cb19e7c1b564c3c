"""HTTP with a server that is not trusted: every answer has an end in bytes and in time, and no redirect is followed.

urllib's own timeout counts from byte to byte, so that a server which sends one now and then is waited for for ever.
Here a clock runs over the whole exchange, from connecting to the last byte, and hangs up when it is over.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

SILENT_SECONDS = 30.0  # between two bytes; servers answer late while they load a model
PIECE = 1 << 16


class NoAnswer(Exception):
    """Nothing, or not all of an answer, came; the same may succeed later."""


class Overlong(Exception):
    """The answer passed its limit of bytes."""


class ErrorStatus(Exception):
    """An answer with an error status; `wait` are the seconds after which to ask again, if the server says so."""

    def __init__(self, status: int, reason: str, body: bytes, location: str, wait: float = 0.0):
        super().__init__(f"{status} {reason}")
        self.status, self.reason, self.body, self.location, self.wait = status, reason, body, location, wait


class Wire:
    """Exchanges with one server."""

    def __init__(self, proxies: bool):
        """Without `proxies`, those of the environment are not used."""
        handlers: list[Any] = [_Plain, _Secure, _NoRedirects]
        if not proxies:
            handlers.append(urllib.request.ProxyHandler({}))
        self._open = urllib.request.build_opener(*handlers).open

    def exchange(
        self, url: str, body: bytes | None, headers: dict[str, str], *, seconds: float, limit: int
    ) -> Iterator[bytes]:
        """The answer's body, piece by piece.

        Args:
            seconds: for everything, from connecting to the end of the body.
            limit: bytes of the body.

        Raises:
            NoAnswer: no connection, an answer cut short, or not all of it within `seconds`.
            Overlong: more bytes than `limit`.
            ErrorStatus: 300 or above; its body is cut at `limit`.
        """
        request = _Request(url, data=body, headers=headers)
        request.clock = clock = _Clock(seconds)
        late = NoAnswer(f"its answer was not complete after {seconds:.3g} s")
        try:
            with self._open(request, timeout=min(SILENT_SECONDS, seconds)) as answer:
                left = limit
                announced = answer.headers.get("Content-Length", "")
                if announced.isdecimal() and (len(announced) > 15 or int(announced) > limit):
                    raise Overlong(announced[:30])
                while piece := answer.read1(PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise Overlong("more")
                    yield piece
                if getattr(answer, "length", None):  # read1 takes a connection that breaks off for the end
                    raise NoAnswer("the connection broke off in the middle of an answer")
        except urllib.error.HTTPError as error:
            with error:
                said = b""
                with suppress(OSError, http.client.HTTPException, ValueError):
                    while len(said) < limit and (piece := error.read1(PIECE)):
                        said += piece
            if clock.over:
                raise late from None
            location, wait = (
                str(error.headers.get(name, "")) if error.headers else "" for name in ("Location", "Retry-After")
            )
            seconds_asked = float(wait) if wait.isascii() and wait.isdecimal() and len(wait) < 10 else 0.0
            raise ErrorStatus(error.code, str(error.reason), said[:limit], location, seconds_asked) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", None) or error
            # The socket's own timeout may ring a moment before the clock.
            if clock.over or (isinstance(cause, TimeoutError) and seconds <= SILENT_SECONDS):
                raise late from None
            if isinstance(cause, (http.client.HTTPException, ValueError)):  # whose texts quote what the server wrote
                raise NoAnswer(f"its answer is no HTTP or breaks off ({type(cause).__name__})") from None
            raise NoAnswer(str(cause) or type(cause).__name__) from None
        finally:
            clock.stop()
        if clock.over:  # hanging up looks like the end of an answer of unknown length
            raise late


class _Clock:
    """Hangs up connections when time is over."""

    def __init__(self, seconds: float):
        self.over = False
        self._watched: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(max(0.0, seconds), self._ring)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connection: socket.socket) -> None:
        """Hang this one up as well; by a handle of its own, since TLS takes the connection over."""
        with self._lock:
            self._watched.append(connection.dup())
        if self.over:
            self._hang_up()

    def stop(self) -> None:
        """Let go of everything."""
        self._timer.cancel()
        with self._lock:
            for connection in self._watched:
                connection.close()
            self._watched.clear()

    def _ring(self) -> None:
        self.over = True
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            for connection in self._watched:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Request(urllib.request.Request):
    clock: _Clock


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, clock: _Clock, **settings: Any):
        super().__init__(*args, **settings)
        self._clock = clock

    def connect(self) -> None:
        super().connect()
        self._clock.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """In this order the plain connection is watched before TLS is negotiated over it."""


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(partial(_Connection, clock=request.clock), request)  # type: ignore[arg-type]


class _Secure(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        connection = partial(_SecureConnection, clock=request.clock)
        return self.do_open(connection, request, context=ssl.create_default_context())  # type: ignore[arg-type]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server that is asked must answer itself, and not send its client elsewhere."""

    def redirect_request(self, *args: Any, **settings: Any) -> None:
        """No other request: the redirect comes out as an error status."""
        return
