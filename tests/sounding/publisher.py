"""A publisher of weights on this machine that breaks off, lies, and does not resume."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

DATA = b"\x80" + bytes(range(256)) * 4096  # 1 MiB that begins as PyTorch's files do
SHA = hashlib.sha256(DATA).hexdigest()


class Publisher(http.server.ThreadingHTTPServer):
    """Serves DATA under any path but /missing*, as its attributes say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.breaks = 0  # how many answers stop in the middle
        self.resumes = True
        self.fails = 0  # how many answers are 503
        self.states = ""  # checksum in the headers of a redirect
        self.says: tuple[int, dict[str, str], bytes] | None = None  # one answer to everything
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.says is not None:
            status, headers, body = self.server.says
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            return None
        if "missing" in self.path:
            return self.send_error(404)
        if self.server.fails:
            self.server.fails -= 1
            return self.send_error(503)
        if self.path.startswith("/hub/"):
            self.send_response(302)
            self.send_header("Location", "/storage")
            self.send_header("X-Linked-ETag", f'"{self.server.states}"')
            self.end_headers()
            return None
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.resumes else 0
        if start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.end_headers()
            return None
        body = DATA[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        return None

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for name in ("HF_ENDPOINT", "SOUNDING_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
