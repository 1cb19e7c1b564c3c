"""The server of listening tests: many raters at once, ratings that survive, hostile input."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import requests
from typer.testing import CliRunner

from training.__main__ import app
from training.evaluate.study.plan import Settings
from training.evaluate.study.server import serve

from .material import Study, new_session, rate_all, running, write_samples

RATERS = int(os.environ.get("STUDY_RATERS", "12"))  # at once
KILLS = int(os.environ.get("STUDY_KILLS", "2"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"), items=3)


@pytest.fixture(scope="module")
def study(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """No least time, one control."""
    database = tmp_path_factory.mktemp("study") / "study.db"
    with running(samples, database, "--minimum-seconds", "0", "--controls", "1") as started:
        yield started


def begin(study: Study, name: str) -> requests.Session:
    session = requests.Session()
    assert session.post(f"{study.url}/api/start", json={"name": name}).json() == {}
    return session


def said(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert "\n" not in error
    assert error.endswith(".")
    return error


def test_many_raters_at_once_each_have_every_sample(study: Study):
    kept: list[tuple[str, int]] = []

    async def everybody() -> None:
        async def one(name: str) -> None:
            async with new_session() as session:
                await rate_all(session, study.url, name, kept)

        await asyncio.gather(*(one(f"rater {number}") for number in range(RATERS)))

    asyncio.run(everybody())
    every = 3 * 2 + 1
    assert Counter(name for name, _ in kept) == {f"rater {number}": every for number in range(RATERS)}
    counted = study.query(
        "SELECT count(*), count(DISTINCT position) FROM trials WHERE rated IS NOT NULL GROUP BY rater"
    )
    assert counted == [(every, every)] * RATERS
    orders = study.query("SELECT group_concat(item || system) FROM trials GROUP BY rater")
    assert len(set(orders)) > RATERS / 2  # each has an order of its own


def test_confirmed_ratings_survive_kill_9(samples: Path, tmp_path: Path):
    """Raters go on with the restarted server; STUDY_KILLS=20 asks for more rounds."""
    database = tmp_path / "study.db"
    kept: list[tuple[str, int]] = []

    async def until_killed(study: Study, sessions: list[aiohttp.ClientSession], target: int) -> None:
        async def one(number: int) -> None:
            with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                await rate_all(sessions[number], study.url, f"rater {number}", kept)

        tasks = [asyncio.create_task(one(number)) for number in range(len(sessions))]
        while len(kept) < target and not all(task.done() for task in tasks):
            await asyncio.sleep(0)
        study.process.kill()
        await asyncio.gather(*tasks)

    async def rounds() -> None:
        sessions = [new_session() for _ in range(KILLS * 2)]
        for number in range(KILLS):
            with running(samples, database, "--minimum-seconds", "0", "--controls", "1") as study:
                await until_killed(study, sessions, (number + 1) * 5)
            with closing(sqlite3.connect(database)) as connection:
                rated = connection.execute(
                    "SELECT name, position FROM trials JOIN raters ON id = rater WHERE rated IS NOT NULL"
                ).fetchall()
                whole = connection.execute(
                    "SELECT (trials.rated IS NOT NULL) = (count(scale) IN (3, 4)), count(scale) FROM trials "
                    "LEFT JOIN ratings USING (rater, position) GROUP BY rater, position"
                ).fetchall()
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert set(kept) <= set(rated)
            assert len(set(kept)) == len(kept)
            assert all(right and count in (0, 3, 4) for right, count in whole)
            assert 0 < len(kept) < len(whole), "the kill has to come in the middle"
        await asyncio.gather(*(session.close() for session in sessions))

    asyncio.run(rounds())


def test_too_early_and_twice_are_refused(samples: Path, tmp_path: Path):
    with running(samples, tmp_path / "study.db", "--minimum-seconds", "30") as study:
        session = begin(study, "hasty")
        trial = session.get(f"{study.url}/api/trial").json()
        assert 29 < trial["wait"] <= 30
        rating = {"position": trial["position"], "values": {scale["name"]: 1 for scale in trial["scales"]}}
        assert "seconds more" in said(session.post(f"{study.url}/api/rate", json=rating), 409)
        (masked,) = study.query(
            "SELECT item IN ('item0', 'item2') FROM trials WHERE position = ?", trial["position"] + 1
        )
        scales = ["OVL", "RET", "REI", *(["REO"] if masked[0] else [])]
        later = {"position": trial["position"] + 1, "values": dict.fromkeys(scales, 1)}
        assert "not been shown" in said(session.post(f"{study.url}/api/rate", json=later), 409)
        assert said(session.get(f"{study.url}/api/image/{trial['position'] + 1}"), 404)
        assert study.query("SELECT count(*) FROM ratings") == [(0,)]
        assert session.get(f"{study.url}/api/trial").json()["wait"] < trial["wait"]  # a reload does not begin it again


def test_a_rating_is_kept_once(study: Study):
    session = begin(study, "twice")
    trial = session.get(f"{study.url}/api/trial").json()
    rating = {"position": trial["position"], "values": {scale["name"]: 2 for scale in trial["scales"]}}
    assert session.post(f"{study.url}/api/rate", json=rating).json() == {}
    rating["values"] = dict.fromkeys(rating["values"], 5)
    assert "already" in said(session.post(f"{study.url}/api/rate", json=rating), 410)
    values = study.query("SELECT value FROM ratings JOIN raters ON id = rater WHERE name = 'twice'")
    assert set(values) == {(2,)}


def test_what_is_sent_names_no_system(study: Study):
    session = begin(study, "curious")
    trial = session.get(f"{study.url}/api/trial")
    sound = session.get(f"{study.url}/api/sound/{trial.json()['position']}/0")
    image = session.get(f"{study.url}/api/image/{trial.json()['position']}")
    for answer in (trial, sound, image):
        shown = (answer.text if answer is trial else "") + str(answer.headers)
        assert not {word for word in ("good", "poor", "noise", "control:", "item0.wav") if word in shown.lower()}
    assert image.headers["Content-Type"] == "image/jpeg"
    part = session.get(sound.url, headers={"Range": "bytes=0-3"})  # players ask for parts
    assert part.status_code == 206
    assert part.content == b"RIFF"


HOSTILE: list[tuple[Any, int]] = [
    (b"{", 400),
    (b"[" * 3000, 400),
    (b"\xff\xfe", 400),
    (b'{"position": 0, "position": 0, "values": {}}', 400),
    (b'{"position": NaN, "values": {}}', 400),
    (b"[]", 400),
    ({"position": 0}, 400),
    ({"position": -1, "values": {}}, 400),
    ({"position": 10**30, "values": {}}, 400),
    ({"position": True, "values": {}}, 400),
    ({"position": "0; DROP TABLE ratings", "values": {}}, 400),
    ({"position": 1999, "values": {}}, 404),
    ({"position": 0, "values": {}}, 400),
    ({"position": 0, "values": [3, 3, 3, 3]}, 400),
    ({"position": 0, "values": {"OVL": 3, "RET": 3, "REI": 3, "REO": 3, "XXX": 3}}, 400),
    (b" " * 5000, 413),
]


def test_hostile_bodies_are_refused_in_a_sentence(study: Study):
    session = begin(study, "hostile")
    trial = session.get(f"{study.url}/api/trial").json()
    headers = {"Content-Type": "application/json"}
    for body, status in HOSTILE:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        said(session.post(f"{study.url}/api/rate", data=data, headers=headers), status)
    for value in (0, 6, -1, 2.5, True, None, "3", [3], 10**40):
        values = dict.fromkeys((scale["name"] for scale in trial["scales"]), 3) | {"OVL": value}
        answer = session.post(f"{study.url}/api/rate", json={"position": trial["position"], "values": values})
        assert said(answer, 400).startswith("OVL")
    assert said(session.post(f"{study.url}/api/rate", data={"position": "0"}), 415)
    for name in ("", " ", "x" * 65, "a\nb", "<script>", 3, None, ["a"]):
        assert "name" in said(requests.post(f"{study.url}/api/start", json={"name": name}), 400)
    assert "taken" in said(requests.post(f"{study.url}/api/start", json={"name": "hostile"}), 409)
    assert study.query("SELECT count(*) FROM ratings JOIN raters ON id = rater WHERE name = 'hostile'") == [(0,)]


def test_hostile_addresses_are_refused(study: Study):
    session = begin(study, "addresses")
    trial = session.get(f"{study.url}/api/trial").json()
    position = trial["position"]
    for path in (
        "api/image/99999",
        "api/image/1999",
        f"api/sound/{position}/1",
        f"api/sound/{position}/2",
        "api/image/-1",
        "api/image/%2e%2e",
        "study.py",
        "..%2fserver.py",
        "%2e%2e/%2e%2e/pyproject.toml",
        "database.py",
    ):
        said(session.get(f"{study.url}/{path}"), 404)
    said(session.delete(f"{study.url}/api/trial"), 405)
    stranger = {"Cookie": f"{next(iter(session.cookies)).name}=" + "A" * 32}
    assert "not known" in said(requests.get(f"{study.url}/api/image/{position}", headers=stranger), 401)
    assert requests.get(f"{study.url}/api/trial", headers={"Cookie": "x" * 4000}).json() == {"state": "start"}
    rebound = requests.get(f"{study.url}/api/trial", headers={"Host": "evil.example"})
    assert "address" in said(rebound, 403)
    assert requests.get(f"{study.url}/api/trial", headers={"Host": "[::"}).status_code in (400, 403)
    with socket.create_connection(("127.0.0.1", int(study.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n")
        assert b" 400 " in raw.recv(200)
    assert requests.get(f"{study.url}/api/trial").json() == {"state": "start"}  # it goes on


def test_a_study_is_continued_only_with_its_own_samples_and_settings(study: Study, samples: Path, tmp_path: Path):
    def refused(said: str, samples: Path, database: Path, settings: Settings, port: int = 0) -> None:
        with pytest.raises(ValueError, match=said):
            serve(samples, database, settings, "127.0.0.1", port)

    used = Settings(minimum_seconds=0, controls=1)
    refused(r"minimum_seconds 0\.0, not 5\.0", samples, study.database, Settings(minimum_seconds=5, controls=1))
    others = write_samples(tmp_path / "others", items=3, seconds=0.06)
    refused("other samples", others, study.database, used)
    (tmp_path / "text.db").write_text("no database" * 100)
    refused("not a database", samples, tmp_path / "text.db", used)
    refused("one of good, poor is expected", samples, tmp_path / "new.db", Settings("prefer", against="nobody"))
    refused("cannot be listened on", samples, tmp_path / "new.db", used, port=int(study.url.rsplit(":", 1)[1]))
    options = ["--samples", str(samples), "--database", str(tmp_path / "new.db"), "--controls", "-1"]
    done = CliRunner().invoke(app, ["evaluate", "study", "serve", *options])
    assert (done.exit_code, done.output) == (1, "training: Settings.controls is -1, but 0 to 100 is expected.\n")
    assert not (tmp_path / "new.db").exists()


def test_controls_are_noise_as_strong_as_the_sound(samples: Path):
    import soundfile

    from training.evaluate.study.material import noise_like

    sound, _ = soundfile.read(samples / "good" / "item0.wav")
    noise, rate = noise_like(samples / "good" / "item0.wav", seed=1)
    assert (rate, len(noise)) == (16000, len(sound))
    assert np.sqrt((noise**2).mean()) == pytest.approx(min(0.2, np.sqrt((sound**2).mean())), rel=0.1)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    flatness = np.exp(np.log(spectrum).mean()) / spectrum.mean()
    assert flatness > 0.4  # a tone has almost none
