"""Run a graph on a ComfyUI server and wait for it, whatever happens to the connection meanwhile.

The server's history says what came of a prompt, so that is asked again and again; the websocket only adds the
progress of single steps. Hence a lost websocket costs nothing but detail, and one is not needed at all: the
library for it (websocket-client) is used where it is installed.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .answers import failure, whole
from .connection import RemoteError, TimeUp, Unreachable
from .graph import Graph, node_name
from .server import ComfyServer
from .socket import Listener

ENDED = ("execution_success", "execution_error", "execution_interrupted")
ASK_SECONDS = 1.0  # between questions without a websocket
ASK_SELDOM_SECONDS = 5.0  # with one
TICK_SECONDS = 0.25
LONGEST_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Progress:
    """Where a prompt is: `what` for people, and the steps of the node that runs (0 of 0 where it has none)."""

    what: str
    step: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.what}, step {self.step} of {self.steps}" if self.steps else self.what


OnProgress = Callable[[Progress], None]


def check_timeout(seconds: float) -> None:
    """Raise ValueError unless one can wait that long."""
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_SECONDS):
        raise ValueError(f"timeout is {seconds}, but more than 0 and at most {LONGEST_SECONDS:g} seconds is expected.")


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
        timeout: seconds from queueing to the end; where the server has a time for everything, the shorter counts.
        on_progress: told of each change.

    Returns:
        The prompt's entry in the history; `sounding.client.answers.output_files` lists its files.

    Raises:
        Failed: a node failed (its message is in this one's), or the run was stopped.
        RemoteError: the graph is not valid, time is up, or the server is gone or has forgotten the prompt.
    """
    check_timeout(timeout)
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
    if why := failure(graph, entry):
        raise Failed(why)
    return {**entry, "prompt_id": prompt_id}


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
        try:
            with self.server.within(timeout):
                return self._watch()
        except TimeUp:
            raise RemoteError(
                f"Not done after {self.server.timeout or timeout:g} s ({self._reason()}); it was cancelled. Allow more "
                "time with --timeout, or see the server's log."
            ) from None

    def _watch(self) -> dict[str, Any]:
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
            message = self.listener.next(self.server.left(TICK_SECONDS))
            if message is not None and self._heard(message) and not self.ended:
                self.ended, ask_at = True, 0.0  # the history has it in a moment

    def _heard(self, message: dict[str, Any]) -> bool:
        """Note a message; whether it says that the prompt has ended."""
        kind, data = message.get("type"), message.get("data")
        if not isinstance(data, dict) or data.get("prompt_id") != self.prompt_id:
            return False
        self.running = True
        node = data.get("display_node") if kind == "executing" else None
        node = data.get("node") if node is None else node
        # Nodes that are made while running are called after one of the graph's; others are not ours.
        if isinstance(node, str) and (node in self.graph or node.partition(".")[0] in self.graph):
            if kind == "executing":
                self._tell(Progress(node_name(self.graph, node)))
            elif kind == "progress":
                self._tell(Progress(node_name(self.graph, node), whole(data.get("value")), whole(data.get("max"))))
        return kind in ENDED or (kind == "executing" and data.get("node") is None)

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
