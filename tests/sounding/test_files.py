"""Files appear whole or not at all, whoever else writes, is killed or has no room."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from sounding.client.files import store
from sounding.utils.files import FullDiskError, is_full, remove_abandoned, replacing, write_atomic

ROOT = Path(__file__).parents[2]
HALF = """
import os, sys
from sounding.utils.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


def half_written(target: Path) -> tuple[subprocess.Popen, Path]:
    """A process in the middle of writing."""
    writer = subprocess.Popen(
        [sys.executable, "-c", HALF, str(target)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    return writer, Path(writer.stdout.readline().strip())


@pytest.mark.skipif(os.name == "nt", reason="kills a process")
def test_what_killed_writers_left_goes_at_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    killed, gone = half_written(target)
    living, there = half_written(target)
    (tmp_path / ".model.safetensors.abc").touch()  # somebody else's
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert gone.exists()
    (gone.parent / ".tmpBh6sce").touch()  # of the library that wrote
    write_atomic(target, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".model.safetensors.abc", there.parent.name, "model.safetensors"]
    )
    assert there.read_bytes() == b"half"
    living.communicate("")
    assert target.read_bytes() == b"half"
    assert not there.parent.exists()


STORING = """
import sys
from pathlib import Path
from sounding.client.files import store
def pieces():
    yield b"half"
    print("here", flush=True)
    sys.stdin.read()
store(pieces(), Path(sys.argv[1]), "sound.flac")
"""


@pytest.mark.skipif(os.name == "nt", reason="kills a process")
@pytest.mark.parametrize("later", ["a download", "a write", "a start"])
def test_what_killed_downloads_left_goes(tmp_path: Path, later: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", STORING, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline()
    remove_abandoned(tmp_path)
    assert len(os.listdir(tmp_path)) == 1  # it is still being written
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    if later == "a download":
        store([b"whole"], tmp_path, "other.flac")
    elif later == "a write":
        write_atomic(tmp_path / "other.flac", b"whole")
    else:
        remove_abandoned(tmp_path)
    assert os.listdir(tmp_path) == ([] if later == "a start" else ["other.flac"])


def test_threads_do_not_take_each_others_for_left_behind(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            write_atomic(tmp_path / f"{number}", b"x" * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        real = os.umask
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the whole process's umask was changed"))
        write_atomic(tmp_path / "new", b"")
        (tmp_path / "private").touch(0o600)
        write_atomic(tmp_path / "private", b"again")
        with replacing(tmp_path / "weights") as temporary:  # the library's own file is private
            safetensors.torch.save_file({"a": torch.zeros(9)}, temporary)
        monkeypatch.setattr(os, "umask", real)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["x" * 251 + ".wav", "é" * 125 + ".wav", "a." + "b" * 250, "." + "c" * 254])
def test_names_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    write_atomic(tmp_path / name, b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for text in (b"first", b"second"):
        write_atomic(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").read_bytes() == text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk without room")
def test_a_full_disk_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sound.wav"

    def to_full(path: Path, data: bytes) -> None:
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_bytes", to_full)
    with pytest.raises(FullDiskError) as error:
        write_atomic(target, b"x")
    assert str(error.value) == f"{target} cannot be written, the disk is full; make room, or name another folder."
    assert error.value.errno == errno.ENOSPC
    assert is_full(error.value)
    with pytest.raises(FullDiskError), replacing(target):  # safetensors' own words
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []
