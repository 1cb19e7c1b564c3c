"""A refinement from and to object storage, an S3 server in this process, is the one from and to folders."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from training.cluster.rows import Row
from training.cluster.stage import StopRun
from training.data import storage
from training.data.shards import Shards
from training.data.storage import contents, files_below, location, write_atomic
from training.refine import media
from training.refine.lists import list_clips
from training.refine.manifest import read_manifest
from training.refine.outcome import parts_of
from training.refine.pipeline import refine
from training.refine.settings import RefineSettings, read_settings
from training.refine.steps import steps_of

from .material import settings_of, settings_text

if TYPE_CHECKING:
    from training.data.storage import Location

SECRETS = {"AWS_ACCESS_KEY_ID": "KEYIDNOBODYMAYSEE", "AWS_SECRET_ACCESS_KEY": "SECRETNOBODYMAYSEE"}
ENDINGS = ("", ".csv", ".html", ".jpg", ".json", ".mp3", ".mp4", ".parquet", ".tar", ".txt")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """What the environment has, so that s3:// is a server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    given = {**SECRETS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in given.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem().mkdir("bucket")
        yield given
        s3fs.S3FileSystem.clear_instance_cache()
        started.stop()


@pytest.fixture(scope="module")
def stored(server: dict[str, str], material: Path) -> str:
    """The address of the material."""
    for file in (file for file in material.rglob("*") if file.is_file()):
        write_atomic(location(f"s3://bucket/material/{file.relative_to(material).as_posix()}"), file.read_bytes())
    return "s3://bucket/material"


def settings_at(stored: str, out: str, folder: Path, *changes: str) -> RefineSettings:
    (folder / "settings.yaml").write_text(settings_text(stored, out))
    return read_settings(folder / "settings.yaml", list(changes))


@pytest.fixture(scope="module")
def done(stored: str, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """An unbroken run from and to the server."""
    refine(settings_at(stored, "s3://bucket/done", tmp_path_factory.mktemp("settings")))
    return location("s3://bucket/done")


def told(rows: list[Row], material: str = "s3://bucket/material") -> list[Row]:
    """Rows without the state of a file, and with its place below the material."""
    texts = [{name: value for name, value in row.items() if name != "version"} for row in rows]
    return [
        {name: value.replace(material, "") if isinstance(value, str) else value for name, value in row.items()}
        for row in texts
    ]


def everything(below: str) -> dict[str, bytes]:
    found = contents(list(files_below(location(below), ENDINGS)))
    return {str(file): data for file, data in found if isinstance(data, bytes)}


def test_all_is_as_in_a_folder(material: Path, done: Location, tmp_path: Path) -> None:
    refine(settings_of(material, tmp_path / "out"))
    assert told(read_manifest(done)) == told(read_manifest(tmp_path / "out"), str(material))
    there = {name.removeprefix("s3://bucket/done/") for name in everything("s3://bucket/done")}
    assert {"manifest.parquet", "rates.json", "passed.json", "report/index.html"} < there
    assert len([name for name in there if name.startswith("report/clips/")]) == len(
        list((tmp_path / "out" / "report" / "clips").iterdir())
    )
    for subset in ("train", "test"):
        ours = tmp_path / "out" / "shards" / "raw" / subset
        assert {name for name in there if name.startswith(f"shards/raw/{subset}/")} == {
            f"shards/raw/{subset}/{file.name}" for file in ours.iterdir()
        }
        one, other = (
            Shards(folder, ("id", "captions", "waveform", "images"))
            for folder in (str(done / "shards" / "raw" / subset), ours)
        )
        for sample, wanted in zip(pickle.loads(pickle.dumps(one)), other, strict=True):
            assert (sample["id"], sample["captions"]) == (wanted["id"], wanted["captions"])
            assert np.array_equal(sample["waveform"], wanted["waveform"])
            assert np.array_equal(sample["images"], wanted["images"])
    assert len(Shards("s3://bucket/done/shards/raw/*", ("id",))) == 6


def test_workers_elsewhere_keep_results_in_the_same_place(stored: str, done: Location, tmp_path: Path) -> None:
    steps = steps_of(settings_at(stored, str(done), tmp_path))
    for parts in pickle.loads(pickle.dumps(parts_of(done, steps))).values():
        clips, seconds = parts.rates()
        assert clips >= 6
        assert seconds > 0


def test_no_file_and_no_message_has_credentials(
    stored: str, done: Location, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "training")
    refine(settings_at(stored, "s3://bucket/done", tmp_path))
    found = everything("s3://bucket/done")
    assert len(found) > 30
    texts = [*found.values(), str(read_manifest(done)).encode(), caplog.text.encode()]
    assert not any(secret.encode() in text for text in texts for secret in SECRETS.values())
    for address in ("s3://KEY:SECRET@bucket/out", "https://host/videos?X-Amz-Signature=SECRET"):
        for change in (f"out={address!r}", f"lists=[{{form: folder, videos: {address!r}}}]"):
            with pytest.raises(ValueError, match="credentials are expected in the environment") as caught:
                settings_at(stored, "s3://bucket/done", tmp_path, change)
            assert "SECRET" not in str(caught.value)


def test_another_object_is_another_version(stored: str, tmp_path: Path) -> None:
    settings = settings_at(stored, "s3://bucket/no", tmp_path)
    before = {row["id"]: row["version"] for row in list_clips(settings).rows}
    other, (_, data) = location(f"{stored}/videos/dog1.mp4"), *contents([location(f"{stored}/videos/rain1.mp4")])
    (_, old) = next(contents([other]))
    assert isinstance(data, bytes)
    assert isinstance(old, bytes)
    write_atomic(other, data + b" ")
    after = {row["id"]: row["version"] for row in list_clips(settings).rows}
    write_atomic(other, old)
    assert [name for name in before if before[name] != after[name]] == ["dog1_0"]


def test_a_folder_of_objects_is_cut_into_clips(stored: str, tmp_path: Path) -> None:
    change = f"lists=[{{form: folder, videos: {stored!r}}}]"
    listed = list_clips(settings_at(stored, "s3://bucket/no", tmp_path, change, "seconds=2.5"))
    assert [(row["id"], row["labels"]) for row in listed.rows][:2] == [
        ("videos/bench0_0", ["videos"]),
        ("videos/bench0_2.5", ["videos"]),
    ]
    with pytest.raises(ValueError, match="s3://bucket/nothing is not a folder"):
        list_clips(settings_at(stored, "s3://b/no", tmp_path, change.replace("material", "nothing")))


def let_reads_fail(monkeypatch: pytest.MonkeyPatch, times: dict[str, int]) -> None:
    """Requests for later parts of objects fail as often as is said by their names."""
    fetch = s3fs.S3File._fetch_range

    def failing(file: Any, start: int, end: int) -> bytes:
        name = file.path.rpartition("/")[2]
        if start > 0 and times.get(name, 0):
            times[name] -= 1
            raise OSError("the connection was reset")
        return bytes(fetch(file, start, end))

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", failing)
    monkeypatch.setattr(storage, "BLOCK", 50_000)
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))


def test_a_read_that_fails_in_the_middle_is_tried_again_and_then_a_reason(
    stored: str, done: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"dog1.mp4": 1_000_000, "rain1.mp4": 2}
    let_reads_fail(monkeypatch, times)
    refine(settings_at(stored, "s3://bucket/failing", tmp_path))
    assert times["rain1.mp4"] == 0
    rows = {row["id"]: row for row in read_manifest(location("s3://bucket/failing"))}
    lost = rows.pop("dog1_0")
    assert lost["dropped_by"] == "clips"
    assert "dog1.mp4 cannot be reached (OSError: the connection was reset)" in lost["reason"]
    wanted = {row["id"]: row["reason"] for row in read_manifest(done) if row["id"] != "dog1_0"}
    assert {name: row["reason"] for name, row in rows.items()} == wanted


def test_a_store_that_is_down_ends_the_run_and_drops_nothing(
    stored: str, done: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_at(stored, "s3://bucket/down", tmp_path)
    with monkeypatch.context() as patched:
        let_reads_fail(patched, dict.fromkeys(("dog0.mp4", "dog1.mp4"), 1_000_000))
        patched.setattr(media, "DOWN", 2)
        with pytest.raises(StopRun, match="Not one of 2 clips could be read"):
            refine(settings)
    monkeypatch.setattr(media, "_lost", 0)
    refine(settings)
    assert read_manifest(location("s3://bucket/down")) == read_manifest(done)


# A run that is ended by kill -9 at the given one of its uploads.
UNTIL_KILLED = """
import itertools, os, signal, tempfile
os.environ.update(environment)
tempfile.tempdir = folder
from s3fs import S3FileSystem
from training.refine.pipeline import refine

put, count = S3FileSystem._put_file, itertools.count(1)

async def fatal(self, *args, **kwargs):
    if next(count) == writes:
        os.kill(os.getpid(), signal.SIGKILL)
    return await put(self, *args, **kwargs)

S3FileSystem._put_file = fatal
refine(settings)
"""


def test_a_run_that_is_killed_at_an_upload_goes_on(
    stored: str,
    done: Location,
    server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = settings_at(stored, "s3://bucket/killed", tmp_path)
    (tmp_path / "temporary").mkdir()
    processes = multiprocessing.get_context("spawn")
    # After the note, some parts and the rates: while shards are written.
    given = {"settings": settings, "writes": 20, "environment": server, "folder": str(tmp_path / "temporary")}
    process = processes.Process(target=exec, args=(UNTIL_KILLED, given))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not [name for name in everything("s3://bucket/killed") if name.endswith(("manifest.parquet", "shards.json"))]
    assert len(os.listdir(tmp_path / "temporary")) == 1  # what it wanted to upload
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    refine(settings)
    assert "was left by process" in caplog.text
    assert os.listdir(tmp_path / "temporary") == []
    assert read_manifest(location("s3://bucket/killed")) == read_manifest(done)
    killed, whole = (
        {name.partition("/shards/")[2]: data for name, data in everything(below).items() if name.endswith(".tar")}
        for below in ("s3://bucket/killed", "s3://bucket/done")
    )
    assert killed == whole


@pytest.mark.parametrize(
    "address",
    [
        "s3://us er:hunter2@bucket/x",
        's3://user"hunter2@bucket/x',
        "https://host/x?pwd=hunter2",
        "https://host/x#auth=hunter2",
        "https://host/x;passwd=hunter2",
    ],
)
def test_credentials_in_odd_forms_are_refused_too(address: str) -> None:
    with pytest.raises(ValueError, match="a user name, a password or a signature came") as refused:
        location(address)
    assert "hunter2" not in str(refused.value)
    assert str(location("s3://bucket/author=me/a@b.mp4")) == "s3://bucket/author=me/a@b.mp4"
