"""A server with OpenAI's chat interface that answers as it is told, on a free port of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        number = len(self.server.requests) - 1
        self.server.answers[min(number, len(self.server.answers) - 1)](self, body)

    def log_message(self, *args: Any) -> None:
        pass


class FakeEndpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: list[Answer]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def serving(*answers: Answer) -> Iterator[FakeEndpoint]:
    """A server that gives these answers in turn, and the last one from then on."""
    server = FakeEndpoint(list(answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def raw(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Headers have underscores for hyphens."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def bytes_alone(data: bytes) -> Answer:
    """Without a status line and headers of ours; then the connection closes."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.wfile.write(data)

    return answer


def says(text: str, finish: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return raw(json.dumps({"choices": [choice]}).encode())


def hangs(handler: Handler, body: dict[str, Any]) -> None:
    """The connection stays open, and nothing comes."""
    handler.server.over.wait(30)


def drips(handler: Handler, body: dict[str, Any]) -> None:
    """A byte now and then, without end: no pause is ever long."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass


def floods(handler: Handler, body: dict[str, Any]) -> None:
    """Bytes as fast as they go, without end."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)
    except OSError:
        pass


class Together:
    """Answers only once `count` requests are there at a time, the last one first; and knows how many there were."""

    def __init__(self, count: int, text: str):
        self.count, self.text = count, text
        self.change = threading.Condition()
        self.waiting = self.most = 0

    def __call__(self, handler: Handler, body: dict[str, Any]) -> None:
        with self.change:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            place = self.waiting
            self.change.notify_all()
            self.change.wait_for(lambda: self.most >= self.count and self.waiting == place, timeout=30)
        said = self.text.format(**json.loads(body["messages"][1]["content"]))
        says(said)(handler, body)
        with self.change:
            self.waiting -= 1
            self.change.notify_all()
