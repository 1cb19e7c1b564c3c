"""Answers of any kind, size and depth from a server: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from sounding.client import answers
from sounding.client.answers import OutputFile, output_files
from sounding.client.connection import RemoteError
from sounding.client.run import run_graph

from .hostile_comfy import (
    ANSWERS,
    DEEP,
    ESCAPE,
    GRAPH,
    SOUND,
    SUCCESS,
    Hostile,
    client,
    hostile,
    one_sentence,
    sounding,
)

__all__ = ["hostile", "sounding"]


KEYS = ("system", "outputs", "status", "node_errors", "error", "prompt_id", "queue_running", "queue_pending", "name")
INNER = ("messages", "status_str", "errors", "message", "details", "subfolder", "input", "required")


def wrong_answers() -> Iterator[Any]:
    yield from ANSWERS
    for key in KEYS:
        for value in ANSWERS:
            yield {key: value}
            for inner in INNER:
                yield {key: {inner: value}}
                yield {key: {"1": {inner: value}}}


def test_answers_of_any_kind_are_one_sentence_each(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    """Each place in turn gets things of other kinds; where the rest has a sense without it, the sound comes home."""
    for place in ("/system_stats", "/object_info", "/prompt", "/history", "/queue", "/upload"):
        for answer in ANSWERS:
            hostile.answers = {place: answer}
            server = client(hostile, timeout=0.1)
            with suppress(RemoteError):  # anything else is a fault
                server.check()
                server.inputs_of("SaveAudio")
                server.upload("a.png", b"x")
                output_files(run_graph(server, GRAPH, timeout=0.1))
    for answer in wrong_answers():
        for entry in (answer, {"outputs": answer}, {"status": answer}, {"status": {"messages": [answer]}}):
            if isinstance(entry, dict):
                assert all(isinstance(file, OutputFile) for file in output_files(entry))
                assert isinstance(answers.failure(GRAPH, entry), str)
                assert isinstance(answers.refusal(GRAPH, entry), str)
                assert isinstance(answers.node_errors(GRAPH, entry), str)
                assert isinstance(answers.queued(entry), tuple)
                assert isinstance(answers.input_names(entry, "1"), list)
    hostile.answers = {}
    hostile.entry = {"outputs": {"3": None, "4": [], "1": {"audio": [SOUND, None]}}, "status": SUCCESS}
    result = sounding("--set", "1.seed=3", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [str(tmp_path / "out" / "a.flac")]


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"", b"null", b'{"system": ' + DEEP + b"}", b"9" * 5000, b'"\\ud800"', b"NaN", b"[1, 2]"],
)
def test_what_is_no_json_is_told(hostile: Hostile, sounding: Callable[..., Result], body: bytes) -> None:
    hostile.raw["/system_stats"] = lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body])
    assert "not as ComfyUI does" in one_sentence(sounding())


def test_escape_sequences_do_not_reach_the_terminal(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    titled = {"1": {**GRAPH["1"], "_meta": {"title": ESCAPE}}}
    (tmp_path / "graph.json").write_text(json.dumps(titled))
    error = ["execution_error", {"node_id": ESCAPE, "exception_message": ESCAPE, "node_type": ESCAPE}]
    hostile.entry = {"outputs": {}, "status": {"status_str": "error", "messages": [error]}}
    assert "\\x1b[2J" in one_sentence(sounding())
    hostile.answers["/prompt"] = {
        "prompt_id": ESCAPE,
        "node_errors": {"1": {"errors": [{"message": ESCAPE}]}, ESCAPE: {"errors": [{"details": ESCAPE}]}},
    }
    assert "\\x1b[2J" in one_sentence(sounding())
    reason = ESCAPE.replace("\r\n", "").encode()
    hostile.raw["/prompt"] = lambda: iter([b"HTTP/1.1 400 " + reason + b"\r\nContent-Length: 0\r\n\r\n"])
    one_sentence(sounding())
    hostile.raw["/prompt"] = lambda: iter([b"\x1b[2J\x9b not HTTP\r\n\r\n"])
    one_sentence(sounding("--timeout", "1"))
    one_sentence(sounding("--set", f"{ESCAPE}.x=3"))
    one_sentence(sounding("--image", ESCAPE))


def test_a_server_does_not_send_its_client_elsewhere(hostile: Hostile, sounding: Callable[..., Result]) -> None:
    elsewhere = f"HTTP/1.1 302 Found\r\nLocation: {hostile.url}/secret\r\nContent-Length: 0\r\n\r\n"  # type: ignore[attr-defined]
    hostile.raw["/view"] = lambda: iter([elsewhere.encode()])
    assert "sends on to" in one_sentence(sounding())
    assert "/secret" not in hostile.hits
