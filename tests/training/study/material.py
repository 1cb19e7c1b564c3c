"""A small folder of samples, a running study, and raters that need no page."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import soundfile
from PIL import Image

from ...conftest import ROOT, heed_ctrl_c

SYSTEMS = ("good", "poor")


def write_samples(folder: Path, items: int = 2, systems: tuple[str, ...] = SYSTEMS, seconds: float = 0.05) -> Path:
    """Items that are object-specific and holistic in turn."""
    for system in systems:
        (folder / system).mkdir(parents=True)
    for number in range(items):
        name = f"item{number}"
        pixels = np.full((60, 80, 3), 40 + number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        if number % 2 == 0:
            mask = np.zeros((60, 80), np.uint8)
            mask[20:40, 30:50] = 255
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            (folder / f"{name}_object.txt").write_text(f"dog {number}\n")
        (folder / f"{name}.txt").write_text(f"a dog barks <b>{number}</b>\n")
        for pitch, system in enumerate(systems, 3):
            tone = 0.3 * np.sin(np.arange(int(seconds * 16000)) / pitch)
            soundfile.write(folder / system / f"{name}.wav", tone, 16000)
    return folder


@dataclass
class Study:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    database: Path

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(statement, values).fetchall()


@contextmanager
def running(samples: Path, database: Path, *options: str) -> Iterator[Study]:
    command = [sys.executable, "-m", "training", "evaluate", "study", "serve", "--samples", str(samples)]
    command += ["--database", str(database), "--port", "0", *options]
    environment = {**os.environ, "TMPDIR": str(database.parent)}  # a killed server leaves its images behind
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c
    )
    try:
        assert process.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found, "the server did not start"
        yield Study(process, found[0], database)
    finally:
        process.kill()
        process.communicate()


async def rate_all(session: aiohttp.ClientSession, url: str, name: str, kept: list[tuple[str, int]]) -> None:
    """A rater that looks, listens and rates 3 until the end; (name, position) of each confirmed rating is kept."""
    if (await (await session.get(f"{url}/api/trial")).json())["state"] == "start":
        async with session.post(f"{url}/api/start", json={"name": name}) as answer:
            assert answer.status == 200, await answer.text()
    while True:
        trial = await (await session.get(f"{url}/api/trial")).json()
        if trial["state"] == "end":
            return
        for path in (f"image/{trial['position']}", f"sound/{trial['position']}/0"):
            async with session.get(f"{url}/api/{path}") as answer:
                assert answer.status == 200
                assert await answer.read()
        values = {scale["name"]: 3 for scale in trial["scales"]}
        async with session.post(f"{url}/api/rate", json={"position": trial["position"], "values": values}) as answer:
            assert answer.status == 200, await answer.text()
        kept.append((name, trial["position"]))


def new_session() -> aiohttp.ClientSession:
    """One browser's worth of cookies; addresses by number have them, too."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(300))
