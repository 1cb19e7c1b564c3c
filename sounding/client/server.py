"""A ComfyUI server, driven over HTTP: upload, queue, ask, cancel, fetch. `sounding.client.run` waits for a result.

Plain urllib, so that a program that drives a server needs neither torch nor anything beside this package. The server
is not trusted: what it says is bounded in size and time (`remote_wire`), looked at field by field (`remote_answers`),
and its files get names of our own (`remote_files`).
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from ..utils.messages import printable
from .answers import (
    JSON_BYTES,
    OutputFile,
    input_names,
    mapping,
    name,
    node_errors,
    output_files,
    parse,
    queued,
    refusal,
    words,
)
from .files import own_name, store
from .graph import Graph
from .http import ErrorStatus, NoAnswer, Overlong, Wire

__all__ = ["ComfyServer", "OutputFile", "Refused", "RemoteError", "TimeUp", "Unreachable", "output_files"]

Value = TypeVar("Value")
ANSWER_SECONDS = 60.0  # one answer as a whole, however it drips
FILE_SECONDS = 3600.0  # the same for a file, sent or fetched
CANCEL_SECONDS = 10.0  # for telling the server to stop, when all other time is up
PATIENCE_SECONDS = 60.0  # without any answer, once the server has answered before
FILE_BYTES = 512 << 20
UPLOADS = "sounding"  # folder for pictures in the server's input folder


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


class ComfyServer:
    """One server. Every method raises `Unreachable` without an answer and `Refused` for an error status."""

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

    def socket_url(self, client: str) -> str:
        """Where the server tells a client of progress."""
        return f"ws{self.url.removeprefix('http')}/ws?{urlencode({'clientId': client})}"

    def check(self) -> None:
        """Raise a `RemoteError` unless a ComfyUI answers."""
        if "system" not in self._json("/system_stats"):
            raise self._another("/system_stats")

    def inputs_of(self, class_type: str) -> list[str]:
        """Names of the inputs of a class of nodes; none for a class that the server does not have."""
        return input_names(self._json(f"/object_info/{quote(class_type, safe='')}"), class_type)

    def upload(self, file: str, content: bytes) -> str:
        """Put a file into the server's input folder; the name by which nodes find it.

        The name there holds a digest of the content: the same file again changes nothing there, and another's file
        cannot have it.
        """
        path = Path(own_name(file))
        shown = f"{path.stem}-{hashlib.sha256(content).hexdigest()[:20]}{path.suffix}"
        mark = uuid.uuid4().hex
        fields = f'--{mark}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{UPLOADS}\r\n'
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{shown}"\r\n\r\n'
        body = (fields + head).encode() + content + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        answer = self.steadily(lambda: self._json("/upload/image", body, headers, seconds=FILE_SECONDS))
        there = name(answer.get("name"))
        if not there:
            raise self._another("/upload/image")
        return "/".join(part for part in (name(answer.get("subfolder")), there) if part)

    def queue(self, graph: Graph, client: str, prompt_id: str) -> str:
        """Queue a graph under an id of our choice; the id it has.

        Raises:
            RemoteError: the graph is not valid, or a part of it; the message has a sentence for each node.
        """
        body = {"prompt": graph, "client_id": client, "prompt_id": prompt_id}

        def once() -> str:
            try:
                answer = self._post("/prompt", body)
            except Refused as refused:
                raise RemoteError(refusal(graph, refused.body) or str(refused)) from None
            except Unreachable:
                if self.knows(prompt_id):  # it arrived, and only the answer was lost: do not queue it twice
                    return prompt_id
                raise
            given = name(answer.get("prompt_id"))
            if not given:
                raise self._another("/prompt")
            if answer.get("node_errors"):
                # The server runs what is left of the graph; half a result would be taken for the whole.
                self.cancel(given)
                raise RemoteError(
                    node_errors(graph, mapping(answer["node_errors"])) or "The server takes the graph in part only."
                )
            return given

        return self.steadily(once)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What came of a prompt, or None while it has not ended."""
        entry = self._json(f"/history/{quote(prompt_id, safe='')}").get(prompt_id)
        return entry if isinstance(entry, dict) else None

    def place(self, prompt_id: str) -> int | None:
        """How many prompts come before it: 0 while it runs, None if it is not in the queue."""
        running, waiting = queued(self._json("/queue"))
        if prompt_id in running:
            return 0
        return len(running) + waiting.index(prompt_id) if prompt_id in waiting else None

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has ended."""
        # It leaves the queue for the history in one step, so it cannot slip through when asked in this order.
        return self.place(prompt_id) is not None or self.history(prompt_id) is not None

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it runs; others are left alone. Never raises."""
        with self._until(time.monotonic() + CANCEL_SECONDS):
            try:
                self._post("/queue", {"delete": [prompt_id]})
                if self.place(prompt_id) == 0:  # servers that know of no single prompts would stop another's
                    self._post("/interrupt", {"prompt_id": prompt_id})
            except RemoteError:
                pass

    def fetch(self, file: OutputFile) -> bytes:
        """The content of a saved file."""
        return self.steadily(lambda: b"".join(self._content(file)))

    def save(self, file: OutputFile, folder: Path) -> Path:
        """Fetch a file into `folder`, under a name made of the letters of its own; nothing there is overwritten."""
        return self.steadily(
            lambda: store(self._content(file), folder, own_name(file.filename, f"node_{file.node}"[:40]))
        )

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

    def _content(self, file: OutputFile) -> Iterator[bytes]:
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.folder}
        return self._pieces(f"/view?{urlencode(query)}", None, {}, FILE_SECONDS, self.file_bytes)

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
