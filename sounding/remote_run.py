"""Run a graph on a ComfyUI server and wait for it, whatever happens to the connection meanwhile.

The server's history says what came of a prompt, so that is asked again and again; the websocket only adds the
progress of single steps. Hence a lost websocket costs nothing but detail, and one is not needed at all: the
library for it (websocket-client, in the extra "queue") is used where it is installed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .api_graph import Graph, node_name
from .remote import ComfyServer, RemoteError, Unreachable

ENDED = ("execution_success", "execution_error", "execution_interrupted")
ASK_SECONDS = 1.0  # between questions without a websocket
ASK_SELDOM_SECONDS = 5.0  # with one
TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """Where a prompt is: `what` for people, and the steps of the node that runs (0 of 0 where it has none)."""

    what: str
    step: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.what}, step {self.step} of {self.steps}" if self.steps else self.what


OnProgress = Callable[[Progress], None]


class Failed(RemoteError):
    """The graph ran and failed, or somebody stopped it."""


def run_graph(
    server: ComfyServer, graph: Graph, *, timeout: float = 600.0, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Queue a graph and wait until it has run.

    Whatever ends the waiting early (a timeout, Ctrl-C, an exception in `on_progress`) cancels the prompt.

    Args:
        server: where.
        graph: in the API form.
        timeout: seconds from queueing to the end.
        on_progress: told of each change.

    Returns:
        The prompt's entry in the history; `sounding.remote.output_files` lists its files.

    Raises:
        Failed: a node failed (its message is in this one's), or the run was stopped.
        RemoteError: the graph is not valid, time is up, or the server is gone or has forgotten the prompt.
    """
    client, prompt_id = uuid.uuid4().hex, str(uuid.uuid4())
    listener = Listener(server.socket_url(client))
    try:
        prompt_id = server.queue(graph, client, prompt_id)
        entry = _Watch(server, graph, prompt_id, listener, on_progress or (lambda _: None)).wait(timeout)
    except BaseException as error:
        if not isinstance(error, Unreachable):
            server.cancel(prompt_id)
        raise
    finally:
        listener.close()
    _raise_failure(graph, entry)
    return {**entry, "prompt_id": prompt_id}


class Listener:
    """The server's messages, as long as there is a websocket; it is opened again when it breaks."""

    def __init__(self, url: str):
        """Try to connect, so that no message of a prompt queued afterwards is missed."""
        self.url = url
        self.socket: Any = None
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
        if self.socket is None and not self._connect():
            time.sleep(seconds)
            return None
        try:
            self.socket.settimeout(seconds)
            text = self.socket.recv()
            message = json.loads(text) if isinstance(text, str) and text else None  # previews are binary
        except self._library.WebSocketTimeoutException:
            return None
        except (self._library.WebSocketException, OSError, ValueError):
            self.close()
            self._next_try = time.monotonic() + self._pause
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Let go of the websocket."""
        if self.socket is not None:
            with suppress(Exception):
                self.socket.close(timeout=1)
            self.socket = None

    def _connect(self) -> bool:
        if self._library is None or time.monotonic() < self._next_try:
            return False
        try:
            # Without an origin: ComfyUI compares it with its own address, which a proxy in between may change.
            self.socket = self._library.create_connection(self.url, timeout=5, suppress_origin=True)
            self._pause = 0.5
        except (self._library.WebSocketException, OSError, ValueError):
            self._pause = min(2 * self._pause, 10.0)
            self._next_try = time.monotonic() + self._pause
        return self.socket is not None


class _Watch:
    """Waits for one prompt."""

    def __init__(self, server: ComfyServer, graph: Graph, prompt_id: str, listener: Listener, on_progress: OnProgress):
        self.server, self.graph, self.prompt_id = server, graph, prompt_id
        self.listener, self.on_progress = listener, on_progress
        self.last: Progress | None = None
        self.running = self.ended = False
        self.silent_since: float | None = None
        self.silence = ""

    def wait(self, timeout: float) -> dict[str, Any]:
        """The history entry, as soon as there is one."""
        end = time.monotonic() + timeout
        ask_at = 0.0
        while True:
            now = time.monotonic()
            if now >= ask_at:
                entry = self._ask()
                if entry is not None:
                    return entry
                now = time.monotonic()
                seldom = self.listener.connected and self.running
                ask_at = now + (TICK_SECONDS if self.ended else ASK_SELDOM_SECONDS if seldom else ASK_SECONDS)
            if now >= end:
                raise RemoteError(
                    f"Not done after {timeout:g} s ({self._reason()}); it was cancelled. Allow more time "
                    "with --timeout, or see the server's log."
                )
            message = self.listener.next(min(TICK_SECONDS, max(0.01, end - now)))
            if message is not None and self._heard(message):
                self.ended, ask_at = True, 0.0  # the history has it in a moment

    def _heard(self, message: dict[str, Any]) -> bool:
        """Note a message; whether it says that the prompt has ended."""
        kind, data = message.get("type"), message.get("data")
        if not isinstance(data, dict) or data.get("prompt_id") != self.prompt_id:
            return False
        self.running = True
        node = data.get("node")
        if kind == "executing" and node is not None:
            self._tell(Progress(node_name(self.graph, str(data.get("display_node") or node))))
        elif kind == "progress" and node is not None:
            self._tell(Progress(node_name(self.graph, str(node)), int(data["value"]), int(data["max"])))
        return kind in ENDED or (kind == "executing" and node is None)

    def _ask(self) -> dict[str, Any] | None:
        """The history entry if there is one; otherwise find out where the prompt is."""
        try:
            entry = self.server.history(self.prompt_id)
            if entry is None:
                place = self.server.place(self.prompt_id)
                if place is None:
                    entry = self.server.history(self.prompt_id)  # it may have ended between the two questions
                    if entry is None:
                        raise Failed(
                            "The server no longer knows the prompt: it was taken out of the queue, or the server was "
                            "started anew; queue it again."
                        )
                elif place > 0:
                    self._tell(Progress(f"waiting for {place} other{'s' if place > 1 else ''}"))
                elif not self.running:
                    self.running = True
                    self._tell(Progress("running"))
        except Unreachable as error:
            now = time.monotonic()
            self.silent_since, self.silence = self.silent_since or now, str(error)
            if now - self.silent_since >= self.server.patience:
                raise Unreachable(
                    f"The server went away in the middle of the run ({self._reason()}); start it again and queue anew."
                ) from None
            return None
        self.silent_since = None
        return entry

    def _reason(self) -> str:
        if self.silent_since is not None:
            return f"no answer for {time.monotonic() - self.silent_since:.0f} s: {self.silence.rstrip('.')}"
        return f"last seen: {self.last}" if self.last is not None else "nothing was heard of it"

    def _tell(self, progress: Progress) -> None:
        if progress != self.last:
            self.last = progress
            self.on_progress(progress)


def _raise_failure(graph: Graph, entry: dict[str, Any]) -> None:
    status = entry.get("status") or {}
    if status.get("status_str", "success") == "success":
        return
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            message = str(data.get("exception_message", "")).strip().replace("\n", " ")
            raise Failed(f"Node {node_name(graph, str(data.get('node_id')))} failed: {message}")
        if kind == "execution_interrupted":
            node = node_name(graph, str(data.get("node_id")))
            raise Failed(f"Somebody stopped the run on the server, at node {node}; queue it again.")
    raise Failed("The run failed on the server, which says no more; see its log.")
