"""A ComfyUI server, driven over HTTP: upload, queue, ask, cancel, fetch. `sounding.remote_run` waits for a result.

Plain urllib, so that a program that drives a server needs neither torch nor anything beside this package.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from .api_graph import Graph, node_name
from .files import write_atomic

Value = TypeVar("Value")
ANSWER_SECONDS = 30.0  # one request; servers answer late while they load a model
PATIENCE_SECONDS = 60.0  # without any answer, once the server has answered before
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus")


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


@dataclass(frozen=True)
class OutputFile:
    """A file that a node of the graph saved on the server."""

    node: str
    kind: str  # the node's own word: "audio", "images", ...
    filename: str
    subfolder: str
    folder: str  # "output", "temp" or "input"

    @property
    def is_sound(self) -> bool:
        """Whether it is to be heard."""
        return self.kind == "audio" or self.filename.lower().endswith(SOUNDS)


class ComfyServer:
    """One server. Every method raises `Unreachable` without an answer and `Refused` for an error status."""

    def __init__(self, url: str, *, patience: float = PATIENCE_SECONDS):
        """Note the address; nothing is asked yet.

        Args:
            url: such as http://127.0.0.1:8188; "http://" may be left out.
            patience: seconds that `steadily` goes on without an answer.

        Raises:
            RemoteError: the address is none.
        """
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.patience = patience
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RemoteError(f"--server {url} is no address; give one such as http://127.0.0.1:8188.")
        # A proxy for the outer world does not know the way to this machine.
        local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self._open = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else [])).open

    def socket_url(self, client: str) -> str:
        """Where the server tells a client of progress."""
        return f"ws{self.url.removeprefix('http')}/ws?{urlencode({'clientId': client})}"

    def check(self) -> None:
        """Raise a `RemoteError` unless a ComfyUI answers."""
        if "system" not in self._json("/system_stats"):
            raise RemoteError(f"{self.url} answers, but not as ComfyUI does; give the address of its page.")

    def inputs_of(self, class_type: str) -> list[str]:
        """Names of the inputs of a class of nodes; none for a class that the server does not have."""
        info = self._json(f"/object_info/{quote(class_type)}").get(class_type, {})
        return [name for group in ("required", "optional") for name in info.get("input", {}).get(group, {})]

    def upload(self, name: str, content: bytes) -> str:
        """Put a file into the server's input folder; the name there, which differs where `name` was taken."""
        mark = uuid.uuid4().hex
        shown = name.replace("\\", "_").replace('"', "%22").replace("\r", "").replace("\n", "")
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{shown}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        answer = self.steadily(lambda: self._json("/upload/image", body, headers))
        return "/".join(part for part in (answer.get("subfolder", ""), answer["name"]) if part)

    def queue(self, graph: Graph, client: str, prompt_id: str) -> str:
        """Queue a graph under an id of our choice; the id it has.

        Raises:
            RemoteError: the graph is not valid, or a part of it; the message has a sentence for each node.
        """
        body = {"prompt": graph, "client_id": client, "prompt_id": prompt_id}

        def once() -> str:
            try:
                answer = self._post("/prompt", body)
            except Refused as refusal:
                raise RemoteError(_refusal(graph, refusal)) from None
            except Unreachable:
                if self.knows(prompt_id):  # it arrived, and only the answer was lost: do not queue it twice
                    return prompt_id
                raise
            if answer.get("node_errors"):
                # The server runs what is left of the graph; half a result would be taken for the whole.
                self.cancel(answer["prompt_id"])
                raise RemoteError(_node_errors(graph, answer["node_errors"]))
            return str(answer["prompt_id"])

        return self.steadily(once)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What came of a prompt, or None while it has not ended."""
        entry = self._json(f"/history/{prompt_id}").get(prompt_id)
        return dict(entry) if entry is not None else None

    def place(self, prompt_id: str) -> int | None:
        """How many prompts come before it: 0 while it runs, None if it is not in the queue."""
        queue = self._json("/queue")
        running = [item[1] for item in queue["queue_running"]]
        waiting = [item[1] for item in sorted(queue["queue_pending"], key=lambda item: item[0])]
        if prompt_id in running:
            return 0
        return len(running) + waiting.index(prompt_id) if prompt_id in waiting else None

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has ended."""
        # It leaves the queue for the history in one step, so it cannot slip through when asked in this order.
        return self.place(prompt_id) is not None or self.history(prompt_id) is not None

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it runs; others are left alone. Never raises."""
        try:
            self._post("/queue", {"delete": [prompt_id]})
            if self.place(prompt_id) == 0:  # servers that know of no single prompts would stop another's
                self._post("/interrupt", {"prompt_id": prompt_id})
        except RemoteError:
            pass

    def fetch(self, file: OutputFile) -> bytes:
        """The content of a saved file."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.folder}
        return self.steadily(lambda: self._request(f"/view?{urlencode(query)}"))

    def save(self, file: OutputFile, folder: Path) -> Path:
        """Fetch a file into `folder` under its own name; a name that other content has gets a number."""
        content = self.fetch(file)
        # The name comes from elsewhere: no part of it may lead out of the folder.
        name = PureWindowsPath(file.filename).name or f"node_{file.node}"
        path, number = folder / name, 1
        while path.exists() and (not path.is_file() or path.read_bytes() != content):
            path = folder / f"{Path(name).stem} ({number}){Path(name).suffix}"
            number += 1
        if not path.exists():
            write_atomic(path, content)
        return path

    def steadily(self, call: Callable[[], Value]) -> Value:
        """Repeat a call that gets no answer, until patience ends."""
        end = time.monotonic() + self.patience
        while True:
            try:
                return call()
            except Unreachable:
                if time.monotonic() >= end:
                    raise
                time.sleep(min(1.0, self.patience / 4))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._json(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _json(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        content = self._request(path, body, headers)
        try:
            answer = json.loads(content) if content else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RemoteError(f"{self.url}{path} answers, but not as ComfyUI does; give the address of its page.")
        return answer

    def _request(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {})
        try:
            with self._open(request, timeout=ANSWER_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (502, 503, 504):  # a proxy in front of a server that is just not there
                raise Unreachable(f"No ComfyUI answers behind {self.url} ({error.code} {error.reason}).") from None
            content = error.read()
            try:
                told = json.loads(content)
            except ValueError:
                told = None
            short = path.partition("?")[0]
            raise Refused(f"{self.url}{short} refused: {error.code} {error.reason}.", error.code, told) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(
                f"No ComfyUI answers at {self.url} ({reason}); start it, or give its address with --server."
            ) from None


def output_files(entry: dict[str, Any]) -> list[OutputFile]:
    """All files in a history entry, node by node."""
    return [
        OutputFile(node, kind, file["filename"], file.get("subfolder", ""), file.get("type", "output"))
        for node, outputs in entry.get("outputs", {}).items()
        for kind, files in outputs.items()
        if isinstance(files, list)
        for file in files
        if isinstance(file, dict) and isinstance(file.get("filename"), str)
    ]


def _refusal(graph: Graph, refusal: Refused) -> str:
    body = refusal.body if isinstance(refusal.body, dict) else {}
    if body.get("node_errors"):
        return _node_errors(graph, body["node_errors"])
    error = body.get("error")
    if isinstance(error, dict):
        return f"The server refused the graph: {_joined(error)}."
    return str(refusal)


def _node_errors(graph: Graph, errors: dict[str, Any]) -> str:
    """One sentence a node."""
    lines = []
    for node, what in errors.items():
        said = "; ".join(_joined(error) for error in what.get("errors", [])) or "not valid"
        lines.append(f"Node {node_name(graph, node)}: {said}.")
    return "\n".join(lines)


def _joined(error: dict[str, Any]) -> str:
    message, details = str(error.get("message", "")).rstrip(". "), str(error.get("details", "")).strip().rstrip(".")
    return f"{message}: {details}" if details else message
