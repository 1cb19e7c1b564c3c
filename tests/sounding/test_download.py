"""Downloads against a server on this machine that breaks off, lies, and does not resume."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import sounding.weights.download as fetching
import sounding.weights.transfer as transfer
from sounding.cli.app import app
from sounding.weights import catalogue
from sounding.weights.catalogue import CATALOGUE, Entry, File, find, mirrored
from sounding.weights.download import download
from sounding.weights.transfer import FetchError

from .publisher import DATA, SHA, Publisher, publisher

__all__ = ["publisher"]


def test_a_file_arrives_whole_with_progress(publisher: Publisher, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download(File(f"{publisher.url}/a", "deep/a.bin", SHA), tmp_path, lambda *step: seen.append(step))
    assert path == tmp_path / "deep" / "a.bin"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert list(path.parent.iterdir()) == [path]
    download(File(f"{publisher.url}/a", "deep/a.bin", SHA), tmp_path)
    assert len(publisher.asked) == 1  # what is there is not asked for again


def test_broken_off_transfers_go_on(publisher: Publisher, tmp_path: Path) -> None:
    publisher.breaks = 3
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA
    starts = [wanted for _, wanted in publisher.asked]
    expected, have = [None], 0
    for _ in range(3):
        have += (len(DATA) - have) // 2
        expected.append(f"bytes={have}-")
    assert starts == expected


def test_a_later_run_goes_on_where_the_first_gave_up(publisher: Publisher, tmp_path: Path) -> None:
    publisher.breaks = fetching.TRIES
    with pytest.raises(FetchError, match=r"broke off 5 times.*goes on where it stopped"):
        download(File(f"{publisher.url}/a", "a", SHA), tmp_path)
    assert not (tmp_path / "a").exists()
    have = (tmp_path / "a.part").stat().st_size
    publisher.asked.clear()
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA
    assert publisher.asked == [("/a", f"bytes={have}-")]


def test_a_server_that_does_not_resume(publisher: Publisher, tmp_path: Path) -> None:
    publisher.resumes = False
    (tmp_path / "a.part").write_bytes(b"x" * 100)
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("left", [len(DATA), len(DATA) + 5])
def test_a_part_that_is_whole_or_too_long(left: int, publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes((DATA + b"extra")[:left])
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA


def test_busy_servers_are_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.fails = 2
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA


def test_wrong_checksum(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"has SHA-256 {SHA}, but 0000.*try again"):
        download(File(f"{publisher.url}/a", "a", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checksum_that_a_hub_states(publisher: Publisher, tmp_path: Path) -> None:
    publisher.states = SHA
    assert download(File(f"{publisher.url}/hub/a", "a"), tmp_path).read_bytes() == DATA
    publisher.states = "1" * 64
    with pytest.raises(FetchError, match="1111"):
        download(File(f"{publisher.url}/hub/b", "b"), tmp_path)


def test_a_whole_file_of_other_contents_is_replaced(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA


def test_missing_files_and_their_elder_form(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="answers 404"):
        download(File(f"{publisher.url}/missing", "a"), tmp_path)
    both = File(f"{publisher.url}/missing.safetensors", "m.safetensors", instead=(f"{publisher.url}/m.bin", "m.bin"))
    assert download(both, tmp_path) == tmp_path / "m.bin"
    publisher.asked.clear()
    assert download(both, tmp_path) == tmp_path / "m.bin"
    assert publisher.asked == []


def test_nobody_there(tmp_path: Path, publisher: Publisher) -> None:
    url = publisher.url
    publisher.shutdown()
    publisher.server_close()
    with pytest.raises(FetchError, match=r"broke off 5 times.*check the connection"):
        download(File(f"{url}/a", "a"), tmp_path)


def safetensors_of(count: int) -> bytes:
    return safetensors.torch.save({"w": torch.zeros(count)})


LYING: dict[str, tuple[tuple[int, dict[str, str], bytes], str]] = {
    "an error page": (
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>sign in</html>"),
        "answers 200 with text",
    ),
    "an error page without a type": ((200, {}, b"\n <!DOCTYPE html>"), "is a page or a pointer"),
    "a pointer": ((200, {}, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "is a page or a pointer"),
    "nothing": ((204, {}, b""), "answers 204 with nothing"),
    "nothing, called a file": ((200, {"Content-Length": "0"}, b""), "is empty"),
    "a part that nobody asked for": (
        (206, {"Content-Range": "bytes 5-9/99"}, b"x"),
        "broke off 5 times .*other ones came",
    ),
    "a part of unknown place": ((206, {}, b"x"), "broke off 5 times .*other ones came"),
    "a part from the middle": ((206, {"Content-Range": "bytes 0-4/99"}, b"xxxxx"), "a part from the middle"),
    "a packed body": ((200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"), "is sent packed"),
    "a body cut short": ((200, {}, safetensors_of(100)[:-7]), "is not whole"),
    "a longer body": ((200, {}, safetensors_of(100) + b"x"), "is not whole"),
    "another kind": ((200, {}, b"PK\x03\x04" + bytes(99)), "is not whole|not a .safetensors"),
    "an endless length": ((200, {"Content-Length": str(10**15)}, b"x"), "has 1000000000000000 bytes, but at most"),
    "another file": ((200, {"ETag": f'"{"0" * 40}"', "X-Repo-Commit": "x"}, safetensors_of(3)), "has hash .* but 0000"),
    "escape sequences": ((418, {"Content-Type": "\x1b[31m"}, b""), "answers 418"),
    "off to a file": ((302, {"Location": "file:///etc/passwd"}, b""), "answers 302 .*is not allowed"),
    "off to nowhere": ((302, {"Location": "http://[::1"}, b""), "broke off|leads to no address|answers 302"),
    "around and around": ((302, {"Location": "/again"}, b""), "answers 302"),
}


@pytest.mark.parametrize("kind", LYING)
def test_what_is_not_the_file_is_not_kept(kind: str, publisher: Publisher, tmp_path: Path) -> None:
    publisher.says, words = LYING[kind]
    with pytest.raises(FetchError, match=words) as error:
        download(File(f"{publisher.url}/w", "w.safetensors"), tmp_path)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not (tmp_path / "w.safetensors").exists()
    publisher.says = (200, {}, safetensors_of(100))  # and then the file comes after all
    assert download(File(f"{publisher.url}/w", "w.safetensors"), tmp_path).read_bytes() == safetensors_of(100)


@pytest.mark.parametrize("name", ["w.json", "w.txt", "w.pth", "w.safetensors"])
def test_a_page_kept_by_an_earlier_version_is_fetched_again(name: str, publisher: Publisher, tmp_path: Path) -> None:
    import io

    saved = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, saved)
    good = {"w.json": b'{"a": 1}', "w.txt": b"#version: 0.2", "w.pth": saved.getvalue()}.get(name, safetensors_of(3))
    (tmp_path / name).write_bytes(b"<html>Too many requests</html>")
    publisher.says = (200, {}, good)
    assert download(File(f"{publisher.url}/w", name), tmp_path).read_bytes() == good
    publisher.says = (500, {}, b"")
    assert download(File(f"{publisher.url}/w", name), tmp_path).read_bytes() == good  # what is whole stays


def test_known_sizes_are_kept_to(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=rf"has {len(DATA)} bytes, but at most 9 are expected"):
        download(File(f"{publisher.url}/a", "a", size=9), tmp_path)
    with pytest.raises(FetchError, match=rf"has {len(DATA)} bytes, but {len(DATA) + 1} are expected"):
        download(File(f"{publisher.url}/a", "a", size=len(DATA) + 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_drip_are_a_broken_connection(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.05)
    monkeypatch.setattr(transfer, "SLOW", 10**9)  # nothing is fast enough
    monkeypatch.setattr(transfer, "CHUNK", 1000)
    calls: list[int] = []

    def wait(have: int, total: int) -> None:
        calls.append(have)
        time.sleep(0.06)

    with pytest.raises(FetchError, match=r"broke off 5 times \(only \d+ bytes came in 0.05 seconds"):
        download(File(f"{publisher.url}/a", "a"), tmp_path, wait)
    assert len(calls) == fetching.TRIES


def test_a_connection_without_an_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends its headers letter by letter, each in time."""
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    monkeypatch.setattr(fetching, "TRIES", 1)
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not stop.wait(0.05):
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with pytest.raises(FetchError, match=r"no answer began in 0\.4 seconds"):
        download(File(f"http://127.0.0.1:{listening.getsockname()[1]}/a", "a"), tmp_path)
    stop.set()
    thread.join()
    listening.close()


def test_full_disk(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file: Any):
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *what: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        file = real(path, mode, **options)
        return Full(file) if path.suffix == ".part" and "r" not in mode else file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FetchError, match=r"is full; make room.*goes on where it stopped"):
        download(File(f"{publisher.url}/a", "a", SHA), tmp_path)
    assert (tmp_path / "a.part").stat().st_size == 1000
    monkeypatch.undo()
    assert download(File(f"{publisher.url}/a", "a", SHA), tmp_path).read_bytes() == DATA


def test_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "SOUNDING_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    hub, other = "https://huggingface.co/x/y", "https://example.org/z"
    assert (mirrored(hub), mirrored(other)) == (hub, other)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert (mirrored(hub), mirrored(other)) == ("https://mirror.example/x/y", other)
    monkeypatch.setenv("SOUNDING_MIRROR", "http://cache")
    assert mirrored(other) == "http://cache/example.org/z"


def test_catalogue_is_complete() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in CATALOGUE:
        assert entry.licence
        assert entry.size > 0
        for file in entry.files:
            assert file.url.startswith("https://")
            assert not Path(file.path).is_absolute()
            assert ".." not in file.path
    unet = next(file for file in find("audioldm-s").files if "unet/diffusion" in file.path)
    assert unet.path == "unet/diffusion_pytorch_model.safetensors"
    assert unet.instead is not None
    assert unet.instead[1] == "unet/diffusion_pytorch_model.bin"
    text = next(file for file in find("audioldm-s").files if file.path == "text_encoder/model.safetensors")
    assert text.instead is not None
    assert text.instead[1] == "text_encoder/pytorch_model.bin"
    with pytest.raises(FetchError, match="'nothing', but one of audioldm-s, "):
        find("nothing")


def test_command(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("small", "A small thing", "MIT", len(DATA), (File(f"{publisher.url}/a", "a.bin", SHA),))
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    run = CliRunner().invoke
    listed = run(app, ["fetch"])
    assert "small" in listed.output
    assert "MIT" in listed.output
    dry = run(app, ["fetch", "small", "--to", str(tmp_path / "there"), "--dry-run"])
    assert dry.exit_code == 0
    assert f"{publisher.url}/a -> {tmp_path / 'there' / 'a.bin'}" in dry.output
    assert publisher.asked == []
    assert not (tmp_path / "there").exists()
    done = run(app, ["fetch", "small", "--to", str(tmp_path / "there")])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "there") in done.output
    assert (tmp_path / "there" / "a.bin").read_bytes() == DATA
    wrong = run(app, ["fetch", "large"])
    assert wrong.exit_code == 1
    assert "but one of small is expected" in wrong.output
