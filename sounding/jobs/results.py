"""Results of jobs as lines of JSON, which survive a process that is killed at any moment.

A job's result is written in three steps: a note of what will be written, with the digest of each file, in a file beside
the results; the files, each whole or not at all; the line of the result. A run that finds files without a line looks
for the note: files of those digests are the job's own, and if all are there, it is done.

Each process of a run writes a file of its own (`part`), and the first one joins them at the end. A run that was killed
leaves parts, which the next one reads.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..utils.fields import parse_json
from ..utils.files import hash_file, write_atomic
from .job import Job

DONE, FAILED, KEPT = "done", "failed", "kept"
BEGIN = b'{"line": '  # of each line
NOTES = ".notes"  # ending of the file of notes
MOST_LINE = 2**20  # characters of one result: 64 masks, with the nearest names
Result = dict[str, Any]


class Results:
    """The results of a run, as one of its processes sees them.

    Args:
        path: of the joined results.
        part: name of this process's part, or "" for the first process, which appends to `path`.

    Raises:
        ValueError: `path` is no file of results, or another run writes it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, part: str = ""):
        self.path = path
        self._own = path if not part else path.with_name(f"{path.name}.{part}.part")
        self._finished: dict[str, Result] = {}
        self._file: IO[bytes] | None = None
        self._notes: IO[bytes] | None = None
        self._one = threading.Lock()

    def open(self) -> None:
        """Keep other runs from writing the same, and learn what is finished.

        Raises:
            ValueError: another run writes it, or it has something else than results.
        """
        self._own.parent.mkdir(parents=True, exist_ok=True)
        file = self._own.open("ab+")
        try:
            lock(file)
            for path in dict.fromkeys((self.path, *self.parts())):
                self._learn(path)
            end_line(file)
            self._notes = _notes_of(self._own).open("ab+")
            end_line(self._notes)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"{self._own} is written by another run; wait for it, stop it, or give another --results."
            ) from None
        except BaseException:
            file.close()
            raise
        self._file = file

    def _learn(self, path: Path) -> None:
        if not _has_results(path):
            raise ValueError(f"{path} has something else than results of jobs; give another --results.")
        for result in read_objects(path):
            if isinstance(result, dict) and result.get("status") == DONE and isinstance(result.get("job"), str):
                self._finished[result["job"]] = result

    def close(self, *, complete: bool) -> None:
        """End writing; when it is complete, each file that was written has its line, and the notes are removed."""
        for file in (self._file, self._notes):
            if file is not None:
                file.close()
        if self._notes is not None and complete:
            _notes_of(self._own).unlink(missing_ok=True)
        self._file = self._notes = None

    def parts(self) -> list[Path]:
        """Parts of processes, those of killed runs too."""
        return [Path(found) for found in sorted(glob.glob(glob.escape(str(self.path)) + ".*.part"))]

    def join(self) -> None:
        """Append all parts to the first file, and remove them. Only while no other process writes."""
        assert self._file is not None
        there = {json.dumps(result) for result in read_objects(self.path)}  # by a run that was killed while it joined
        for part in self.parts():
            for result in read_objects(part):
                if isinstance(result, dict) and json.dumps(result) not in there:
                    append(self._file, result)
            part.unlink(missing_ok=True)
        for notes in self._all_notes():
            if notes != _notes_of(self._own):
                notes.unlink(missing_ok=True)

    def in_parts(self) -> list[Result]:
        """The results in all parts."""
        found = [result for part in self.parts() for result in read_objects(part)]
        return [result for result in found if isinstance(result, dict) and "line" in result]

    def _all_notes(self) -> list[Path]:
        return [Path(found) for found in glob.glob(glob.escape(str(self.path)) + f"*{NOTES}")]

    def finished(self, job: Job) -> Result | None:
        """The result of a job that was done by an earlier run and whose files are there."""
        result = self._finished.get(job.digest)
        return result if result is not None and all(path.is_file() for path in job.outs) else None

    def recovered(self, job: Job) -> Result | None:
        """The result of a job whose files were all written by a process that was killed before it said so.

        If it was killed between two files, those that are there are removed.

        Raises:
            ValueError: there are files of that name which are not this job's.
        """
        there = [path for path in job.outs if os.path.lexists(path)]
        if not there:
            return None
        noted = self._noted(job)
        foreign = there if noted is None else [path for path in there if not _is_noted(job, path, noted)]
        if foreign or noted is None:
            raise ValueError(
                f"{foreign[0]} exists and is not the result of this job with these settings; give another out, or "
                "delete it."
            )
        if len(there) == len(job.outs):
            return noted
        for path in there:
            path.unlink(missing_ok=True)
        return None

    def _noted(self, job: Job) -> Result | None:
        """What was noted of a job, whichever process did; or its earlier result, of which some files are gone."""
        found = self._finished.get(job.digest)
        for notes in self._all_notes():
            for note in read_objects(notes):
                if isinstance(note, dict) and note.get("job") == job.digest:
                    found = note
        return found

    def write(self, job: Job, result: Result, files: Mapping[Path, bytes]) -> Result:
        """Write a job's files, all or none; may be called by several threads.

        Returns:
            The result with the digests of its files, which has to be appended.

        Raises:
            ValueError: a file of that name has come since.
            OSError: a file cannot be written.
        """
        assert self._notes is not None
        result = result | {"sha256": [hashlib.sha256(files[path]).hexdigest() for path in job.outs]}
        there = next((path for path in files if os.path.lexists(path)), None)
        if there is not None:
            raise ValueError(f"{there} has come since the run began, and is left as it is; give another out.")
        with self._one:
            append(self._notes, result)
        try:
            for path, content in files.items():
                write_atomic(path, content)
        except BaseException:
            for path in files:
                path.unlink(missing_ok=True)
            raise
        return result

    def append(self, result: Result) -> None:
        """Add a line.

        Raises:
            OSError: it cannot be written.
        """
        assert self._file is not None
        append(self._file, result)


def _notes_of(path: Path) -> Path:
    return path.with_name(path.name + NOTES)


def _is_noted(job: Job, path: Path, note: Result) -> bool:
    digests = note.get("sha256")
    if not isinstance(digests, list) or len(digests) != len(job.outs):
        return False
    with suppress(OSError):
        return path.is_file() and hash_file(path).hexdigest() == digests[job.outs.index(path)]
    return False


def _has_results(path: Path) -> bool:
    """Whether a file is empty, missing, or begins as results do, of which the first may be written half."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(BEGIN))
    except FileNotFoundError:
        return True
    return BEGIN.startswith(begins)


def read_objects(path: Path) -> Iterator[Any]:
    """The JSON of each line; lines that a killed process wrote half are left out."""
    try:
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                with suppress(ValueError):
                    yield parse_json(line.decode("utf-8"), most=MOST_LINE)
    except FileNotFoundError:
        return


def append(file: IO[bytes], result: Result) -> None:
    """Write one line at once, and to the disk."""
    data = json.dumps(result).encode() + b"\n"
    while data:
        data = data[os.write(file.fileno(), data) :]
    os.fsync(file.fileno())


def end_line(file: IO[bytes]) -> None:
    """End a line that a killed process wrote half."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            os.write(file.fileno(), b"\n")


def lock(file: IO[bytes]) -> None:
    """Lock an open file for this process, for as long as it has it open.

    Raises:
        BlockingIOError: another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(2**40)  # what is locked cannot be read there, so it lies behind all lines
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        return
    import errno
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise
