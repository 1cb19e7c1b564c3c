"""`sounding queue` against a small server that answers as ComfyUI does, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sounding.cli.app import app
from sounding.client import run as running
from sounding.client.answers import OutputFile
from sounding.client.connection import RemoteError, Unreachable
from sounding.client.run import Progress, run_graph
from sounding.client.server import ComfyServer

from .fake_comfy import DONE, GRAPH, PICTURE, Fake, cancelled, fake, server, sounding

__all__ = ["fake", "server", "sounding"]


def test_sounds_come_home_and_standard_output_names_them(
    fake: Fake, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    result = sounding("--set", "1.seed=9")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "out" / "a_00001_.flac")]
    assert (tmp_path / "out" / "a_00001_.flac").read_bytes() == b"sound"
    assert "1 (The sampler)" in result.stderr
    assert not (tmp_path / "out" / "p_00001_.png").exists()


def test_one_line_for_programs_and_all_files(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    result = sounding("--json", "--all")
    report = json.loads(result.stdout)
    out = tmp_path / "out"
    assert report["files"] == [str(out / "a_00001_.flac")]
    assert report["nodes"] == {"2": [str(out / "a_00001_.flac")], "3": [str(out / "p_00001_.png")]}
    assert report["prompt_id"] == fake.queued[0]
    assert result.stderr == ""
    assert (out / "p_00001_.png").read_bytes() == b"picture"


def test_previews_come_where_nothing_is_saved(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    preview = {"filename": "heard.flac", "subfolder": "", "type": "temp"}
    fake.files["heard.flac"] = b"preview"
    fake.entry = {**DONE, "outputs": {**DONE["outputs"], "4": {"sounds": [preview]}}}
    assert list(json.loads(sounding("--json").stdout)["nodes"]) == ["2"]
    fake.entry = {**DONE, "outputs": {"4": {"sounds": [preview]}}}
    assert json.loads(sounding("--json").stdout)["files"] == [str(tmp_path / "out" / "heard.flac")]


def test_nothing_is_overwritten(fake: Fake, sounding: Callable[..., Result], tmp_path: Path) -> None:
    sounding()
    assert sounding("--json").exit_code == 0  # the same content: nothing to write
    fake.files["a_00001_.flac"] = b"another sound"
    again = json.loads(sounding("--json").stdout)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"a_00001_.flac": b"sound", "a_00001_ (1).flac": b"another sound"}
    assert again["files"] == [str(tmp_path / "out" / "a_00001_ (1).flac")]


@pytest.mark.parametrize("name", ["../../evil.flac", "..\\evil.flac", "/tmp/evil.flac", "C:\\evil.flac"])
def test_a_file_name_cannot_lead_out_of_the_folder(fake: Fake, server: ComfyServer, tmp_path: Path, name: str) -> None:
    fake.files[name] = b"sound"
    out = tmp_path / "deep" / "out"
    assert server.save(OutputFile("2", "audio", name, "", "output"), out) == out / "evil.flac"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["evil.flac"]


def test_a_dropped_websocket_is_opened_again(fake: Fake, server: ComfyServer) -> None:
    fake.steps_per_socket, fake.asked_before_end = 3, 10**9
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        if progress.step >= 7:  # more than one websocket, or two, could tell
            fake.asked_before_end = 0

    entry = run_graph(server, GRAPH, timeout=30, on_progress=on_progress)
    assert entry["outputs"] == DONE["outputs"]
    assert fake.connections >= 3
    assert [p.step for p in seen if p.steps] == sorted({p.step for p in seen if p.steps})
    assert {p.what for p in seen if p.steps} == {"1 (The sampler)"}
    assert len(fake.queued) == 1


@pytest.mark.parametrize("why", ["refused", "no library"])
def test_without_a_websocket_asking_is_enough(
    fake: Fake, server: ComfyServer, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "refused":
        fake.sockets = False
    else:
        monkeypatch.setitem(__import__("sys").modules, "websocket", None)
    seen: list[Progress] = []
    assert run_graph(server, GRAPH, timeout=30, on_progress=seen.append)["outputs"] == DONE["outputs"]
    assert [p.what for p in seen] == ["running"]
    assert fake.connections == 0


def test_a_lost_connection_in_the_middle_is_survived(fake: Fake, server: ComfyServer) -> None:
    fake.sockets, fake.gone, fake.asked_before_end = False, [False, True, True, True, False], 7
    assert run_graph(server, GRAPH, timeout=30)["outputs"] == DONE["outputs"]
    assert not cancelled(fake)


def test_a_lost_answer_does_not_queue_twice(fake: Fake, server: ComfyServer) -> None:
    fake.lose_answers = 1
    assert run_graph(server, GRAPH, timeout=30)["prompt_id"] == fake.queued[0]
    assert len(fake.queued) == 1


def test_a_server_that_stays_away_is_named(fake: Fake, server: ComfyServer) -> None:
    fake.sockets, fake.gone = False, [False] + [True] * 1000
    with pytest.raises(Unreachable, match="went away in the middle of the run"):
        run_graph(server, GRAPH, timeout=30)


def test_a_server_started_anew_has_forgotten(fake: Fake, server: ComfyServer) -> None:
    fake.ends, fake.forget_after = False, 3
    with pytest.raises(RemoteError, match="no longer knows the prompt"):
        run_graph(server, GRAPH, timeout=30)


@pytest.mark.parametrize(
    ("waiting", "words"), [(3, "last seen: waiting for 3 others"), (0, r"last seen: 1 \(The sampler\), step \d+ of 50")]
)
def test_a_timeout_says_where_it_was_and_cancels(fake: Fake, server: ComfyServer, waiting: int, words: str) -> None:
    fake.ends, fake.waiting, fake.sockets = False, waiting, not waiting
    with pytest.raises(RemoteError, match=rf"Not done after 1 s \({words}\)"):
        run_graph(server, GRAPH, timeout=1)
    assert cancelled(fake)
    interrupted = ("/interrupt", {"prompt_id": fake.queued[0]}) in fake.posted
    assert interrupted == (not waiting)  # another's prompt is never stopped


def test_ctrl_c_cancels(fake: Fake, sounding: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    fake.ends = False

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running._Watch, "_heard", press)
    result = sounding()
    assert result.exit_code == 130
    assert "the server was told to cancel" in result.stderr
    assert cancelled(fake)
    assert ("/interrupt", {"prompt_id": fake.queued[0]}) in fake.posted


NODE_ERRORS = {
    "1": {
        "class_type": "SoundingSampler",
        "errors": [
            {"message": "Value 0 smaller than min of 1", "details": "steps"},
            {"message": "Required input is missing", "details": "latent"},
        ],
    },
    "2": {"class_type": "SaveAudio", "errors": [{"message": "Return type mismatch", "details": "audio"}]},
}
SENTENCES = [
    "Node 1 (The sampler): Value 0 smaller than min of 1: steps; Required input is missing: latent.",
    "Node 2 (SaveAudio): Return type mismatch: audio.",
]


def test_validation_errors_are_one_sentence_a_node(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.refusal = {"error": {"message": "Prompt outputs failed validation", "details": ""}, "node_errors": NODE_ERRORS}
    result = sounding()
    assert result.exit_code == 1
    assert result.stderr.removeprefix("sounding: ").splitlines() == SENTENCES


def test_a_graph_that_is_valid_in_part_does_not_run(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.node_errors = NODE_ERRORS
    result = sounding()
    assert result.stderr.removeprefix("sounding: ").splitlines() == SENTENCES
    assert cancelled(fake)


def test_a_graph_with_an_unknown_node_is_told_in_the_servers_words(fake: Fake, sounding: Callable[..., Result]) -> None:
    error = {"message": "Cannot execute because node X does not exist.", "details": "Node ID '#1'"}
    fake.refusal = {"error": error, "node_errors": {}}
    said = sounding().stderr
    assert (
        said == "sounding: The server refused the graph: Cannot execute because node X does not exist: Node ID '#1'.\n"
    )


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [["execution_error", {"node_id": "1.0.3", "exception_message": "The mask is empty;\npaint one."}]],
            "Node 1 (The sampler) failed: The mask is empty; paint one.",
        ),
        ([["execution_interrupted", {"node_id": "1"}]], "Somebody stopped the run on the server, at node 1"),
        ([], "which says no more"),
    ],
)
def test_a_failed_run_says_why(
    fake: Fake, sounding: Callable[..., Result], messages: list[Any], words: str, tmp_path: Path
) -> None:
    fake.entry = {"outputs": {}, "status": {"status_str": "error", "completed": False, "messages": messages}}
    result = sounding()
    assert result.exit_code == 1
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_graph_without_a_sound_is_told(fake: Fake, sounding: Callable[..., Result]) -> None:
    fake.entry = {**DONE, "outputs": {"3": {"images": [PICTURE]}}}
    result = sounding()
    assert result.exit_code == 1
    assert "saved no sound" in result.stderr


def test_uploads_arrive_as_they_are(fake: Fake, server: ComfyServer) -> None:
    content = bytes(range(256)) * 300
    there = server.upload('a "b".png', content)
    digest = hashlib.sha256(content).hexdigest()
    assert re.fullmatch(r"sub/a _b_-(\w{20})\.png", there)
    assert digest.startswith(there[-24:-4])
    assert fake.files[there.removeprefix("sub/")] == content
    assert server.upload("another.png", content) != there
    assert server.upload('a "b".png', content[1:]) != there


@pytest.mark.parametrize(
    ("url", "words"), [("http://127.0.0.1:9", "No ComfyUI answers at"), ("ftp://x", "is no address")]
)
def test_a_wrong_address_is_told_at_once(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    result = CliRunner().invoke(app, ["queue", str(tmp_path / "graph.json"), "--server", url])
    assert result.exit_code == 1
    assert words in result.stderr


def test_driving_a_server_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    code = "import sounding.cli, sounding.client.run, sounding.client.graph, sys; "
    code += "assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
