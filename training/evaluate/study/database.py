"""Raters, their samples and their ratings in SQLite: one transaction per rating, so that none is lost or halved.

In WAL mode with full synchronisation a rating that was confirmed to the rater is on the disk, whatever ends the
process afterwards.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sounding.utils.fields import from_dict
from sounding.utils.messages import printable, shown

from .plan import Settings, draw
from .samples import Item, digest_of

VERSION = 1  # of the tables below
MOST_RATERS = 10_000
TABLES = """
CREATE TABLE study (version INTEGER NOT NULL, settings TEXT NOT NULL, samples TEXT NOT NULL);
CREATE TABLE raters (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, started REAL NOT NULL
);
CREATE TABLE trials (
    rater INTEGER NOT NULL REFERENCES raters(id), position INTEGER NOT NULL,
    item TEXT NOT NULL, system TEXT NOT NULL, other TEXT NOT NULL,
    shown REAL, rated REAL,
    PRIMARY KEY (rater, position)
) WITHOUT ROWID;
CREATE TABLE ratings (
    rater INTEGER NOT NULL, position INTEGER NOT NULL, scale TEXT NOT NULL,
    value INTEGER NOT NULL CHECK (value BETWEEN -1 AND 5),
    PRIMARY KEY (rater, position, scale),
    FOREIGN KEY (rater, position) REFERENCES trials(rater, position)
) WITHOUT ROWID;
"""


class Refused(ValueError):
    """What a rater asks for is not possible now; the message says why."""


class AlreadyRated(Refused):
    """A rating that is there already: sent twice, or its confirmation was lost."""


@dataclass(frozen=True)
class Trial:
    """A sample of a rater: its place in the rater's order (from 0), and when it was first shown and rated."""

    rater: int
    position: int
    item: str
    system: str
    other: str
    shown: float | None
    rated: float | None


@dataclass(frozen=True)
class Answer:
    """One value of a rating (1 to 5), or of a comparison: 1 for `system`, -1 for `other`, 0 for neither."""

    rater: int
    name: str
    item: str
    system: str
    other: str
    scale: str
    value: int
    seconds: float  # from the first showing to the rating


class Database:
    """The file of a study. All calls must come from one thread at a time."""

    def __init__(self, path: Path, items: list[Item], settings: Settings):
        """Open the file of a study, or begin one.

        Raises:
            ValueError: no database of a study, or one of other samples or settings.
        """
        self.path, self.items, self.settings = path, items, settings
        path.parent.mkdir(parents=True, exist_ok=True)
        with _readable(path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=20)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._begin_or_check()

    def _begin_or_check(self) -> None:
        now = (VERSION, json.dumps(asdict(self.settings)), digest_of(self.items))
        with self._transaction() as run:
            if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in TABLES.split(";"):
                    run(statement)
                run("INSERT INTO study VALUES (?, ?, ?)", now)
                return
            settings, samples = _study(run)
        if samples != now[2]:
            raise ValueError(
                f"{printable(self.path)} was begun with other samples; name another --database, or restore the samples."
            )
        differing = [key for key, value in asdict(self.settings).items() if asdict(settings)[key] != value]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{printable(self.path)} was begun with {key} {shown(asdict(settings)[key])}, not "
                f"{shown(asdict(self.settings)[key])}; use the same settings, or name another --database."
            )

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """`execute` of a transaction, which is kept if the block ends without an error."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection.execute
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def start(self, name: str) -> str:
        """Add a rater with samples in a random order, and give the token that the rater is known by from now on.

        Raises:
            Refused: the name is taken, or there are too many raters.
        """
        token = secrets.token_urlsafe(24)
        with self._transaction() as run:
            if run("SELECT 1 FROM raters WHERE name = ?", (name,)).fetchone():
                raise Refused(f"The name {shown(name)} is taken; go on in the browser you began in, or take another.")
            if run("SELECT count(*) FROM raters").fetchone()[0] >= MOST_RATERS:
                raise Refused("This study has all the raters that it can have; thank you all the same.")
            used: Counter[str] = Counter()
            if self.settings.items_per_rater:
                used.update(dict(run("SELECT item, count(DISTINCT rater) FROM trials GROUP BY item").fetchall()))
            made = run("INSERT INTO raters (token, name, started) VALUES (?, ?, ?)", (token, name, time.time()))
            rater = made.lastrowid
            for position, asked in enumerate(draw(self.items, self.settings, rater, used)):
                run(
                    "INSERT INTO trials VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                    (rater, position, asked.item, asked.system, asked.other),
                )
        return token

    def rater(self, token: str) -> int | None:
        """The number of the rater with a token."""
        row = self._connection.execute("SELECT id FROM raters WHERE token = ?", (token,)).fetchone()
        return row[0] if row else None

    def progress(self, rater: int) -> tuple[int, int]:
        """How many samples a rater has rated, and of how many."""
        count = "SELECT count(rated), count(*) FROM trials WHERE rater = ?"
        done, every = self._connection.execute(count, (rater,)).fetchone()
        return done, every

    def trial(self, rater: int, position: int) -> Trial | None:
        """A sample of a rater by its place, or None."""
        found = "SELECT * FROM trials WHERE rater = ? AND position = ?"
        row = self._connection.execute(found, (rater, position)).fetchone()
        return Trial(*row) if row else None

    def show_next(self, rater: int) -> Trial | None:
        """The first sample that is not rated yet; its minimum listening time begins with the first call."""
        found = "SELECT * FROM trials WHERE rater = ? AND rated IS NULL ORDER BY position LIMIT 1"
        row = self._connection.execute(found, (rater,)).fetchone()
        if row is None:
            return None
        trial = Trial(*row)
        if trial.shown is None:
            mark = "UPDATE trials SET shown = ? WHERE rater = ? AND position = ?"
            self._connection.execute(mark, (time.time(), rater, trial.position))
            return self.trial(rater, trial.position)
        return trial

    def remaining(self, trial: Trial) -> float:
        """Seconds of the minimum listening time that are left; never more than all, should the clock be set back."""
        least = self.settings.minimum_seconds
        return least if trial.shown is None else max(0.0, min(least, trial.shown + least - time.time()))

    def rate(self, rater: int, position: int, values: dict[str, int]) -> None:
        """Keep a rating whole; it is on the disk when this returns.

        Raises:
            Refused: it is not this sample's turn, or too early.
            AlreadyRated: it was rated before; that rating stays.
        """
        with self._transaction() as run:
            row = run("SELECT * FROM trials WHERE rater = ? AND position = ?", (rater, position)).fetchone()
            trial = Trial(*row) if row else None
            if trial is None or trial.shown is None:
                raise Refused("This sample has not been shown yet; reload the page.")
            if trial.rated is not None:
                raise AlreadyRated("This sample is rated already; reload the page to go on.")
            if (left := self.remaining(trial)) > 0:
                raise Refused(f"Please take {left:.0f} seconds more for this sample.")
            for scale, value in values.items():
                run("INSERT INTO ratings VALUES (?, ?, ?, ?)", (rater, position, scale, value))
            run("UPDATE trials SET rated = ? WHERE rater = ? AND position = ?", (time.time(), rater, position))


def read_answers(path: Path) -> tuple[Settings, list[Answer]]:
    """The settings of a study and all its answers so far; raters may go on meanwhile.

    Raises:
        ValueError: no such file, or no database of a study.
    """
    if not path.is_file():
        raise ValueError(f"{printable(path)} is not there, but the database of a study is expected.")
    with _readable(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=20)
        try:
            connection.execute("PRAGMA query_only = ON")
            settings, _ = _study(connection.execute)
            rows = connection.execute(
                "SELECT raters.id, name, item, system, other, scale, value, rated - shown FROM ratings "
                "JOIN trials USING (rater, position) JOIN raters ON raters.id = rater ORDER BY rater, position, scale"
            ).fetchall()
        finally:
            connection.close()
    hints = (int, str, str, str, str, str, int, float)
    if any(type(value) is not hint for row in rows for value, hint in zip(row, hints, strict=True)):
        raise ValueError(f"{printable(path)} has answers that no rater gave; restore it.")
    return settings, [Answer(*row) for row in rows]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A block in which SQLite's errors become a sentence about the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise ValueError(f"{printable(path)} cannot be used as the database of a study ({error}).") from None


def _study(run: Any) -> tuple[Settings, str]:
    """Settings and the samples' digest as they were when the study began."""
    version, settings, samples = run("SELECT version, settings, samples FROM study").fetchone() or (None, "{}", "")
    if version != VERSION:
        raise ValueError(f"This database has version {shown(version)}, but {VERSION} is expected; begin a new one.")
    try:
        return from_dict(Settings, json.loads(settings)), samples
    except (TypeError, ValueError) as error:
        raise ValueError(f"The settings in the database are damaged ({error}); restore it.") from None
