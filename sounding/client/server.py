"""What can be asked of a ComfyUI server: upload, queue, history, cancel, fetch; `run` waits for a result.

Plain urllib, so that a program that drives a server needs neither torch nor anything beside this package. The server
is not trusted: what it sends is bounded in size and time (`http`), looked at field by field (`answers`), and its files
get names of our own (`files`).
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .answers import OutputFile, input_names, mapping, name, node_errors, queued, refusal
from .connection import Connection, Refused, RemoteError, Unreachable
from .files import own_name, store
from .graph import Graph

FILE_SECONDS = 3600.0  # for one file, sent or fetched
CANCEL_SECONDS = 10.0  # for telling the server to stop, when all other time is up
UPLOADS = "sounding"  # folder for images in the server's input folder


class ComfyServer(Connection):
    """One server. Every method raises `Unreachable` without an answer and `Refused` for an error status."""

    def socket_url(self, client: str) -> str:
        """Address of the websocket on which the server reports progress to a client."""
        return f"ws{self.url.removeprefix('http')}/ws?{urlencode({'clientId': client})}"

    def check(self) -> None:
        """Raise a `RemoteError` unless a ComfyUI answers."""
        if "system" not in self._json("/system_stats"):
            raise self._another("/system_stats")

    def inputs_of(self, class_type: str) -> list[str]:
        """Names of the inputs of a class of nodes; none for a class that the server does not have."""
        return input_names(self._json(f"/object_info/{quote(class_type, safe='')}"), class_type)

    def upload(self, file: str, content: bytes) -> str:
        """Put a file into the server's input folder; returns the name by which nodes find it.

        The name there contains a digest of the content, so uploading the same file again changes nothing, and no other
        file can have the name.
        """
        path = Path(own_name(file))
        upload_name = f"{path.stem}-{hashlib.sha256(content).hexdigest()[:20]}{path.suffix}"
        boundary = uuid.uuid4().hex
        fields = f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{UPLOADS}\r\n'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{upload_name}"\r\n\r\n'
        body = (fields + head).encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self.steadily(lambda: self._json("/upload/image", body, headers, seconds=FILE_SECONDS))
        stored = name(answer.get("name"))
        if not stored:
            raise self._another("/upload/image")
        return "/".join(part for part in (name(answer.get("subfolder")), stored) if part)

    def queue(self, graph: Graph, client: str, prompt_id: str) -> str:
        """Queue a graph under an id of our choice; returns the id that the server gave it.

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
        """The history entry of a prompt, or None while it has not ended."""
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
                if self.place(prompt_id) == 0:  # older servers ignore the id and stop whatever runs
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

    def _content(self, file: OutputFile) -> Iterator[bytes]:
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.folder}
        return self._pieces(f"/view?{urlencode(query)}", None, {}, FILE_SECONDS, self.file_bytes)
