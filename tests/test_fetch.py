"""Downloads against a server on this machine that breaks off, lies, and does not resume."""

from __future__ import annotations

import errno
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sounding.fetch as fetching
from sounding.cli import app
from sounding.fetch import CATALOGUE, Entry, FetchError, File, download, find, mirrored

DATA = bytes(range(256)) * 4096  # 1 MiB
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
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
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
    half = len(DATA) // 2
    assert starts == [None, f"bytes={half}-", f"bytes={half + half // 2}-", f"bytes={half + half // 2 + half // 4}-"]


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
    monkeypatch.setattr(fetching, "CATALOGUE", (entry,))
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
