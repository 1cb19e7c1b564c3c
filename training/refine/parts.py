"""Results of steps, kept: small parquet files, each written whole, so that a run that was killed loses one batch.

    OUT/steps/NAME-FINGERPRINT/HA/part-HASH.parquet

A part has the rows of one batch of one step: `id`, `version`, the step's columns, its error, and the seconds per row.
Its name is a hash of the ids, so that a batch that is computed twice (a worker died just after writing) replaces
itself. Rows that are there twice all the same count once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sounding.utils.files import remove_abandoned

from ..cluster.rows import Column, Row, schema_of, to_table
from ..cluster.stage import StopRun
from ..data.storage import StorageError, contents, files_below, remove, replacing
from .found import Found
from .step import Step, error_column, opened, timed, why_dropped

if TYPE_CHECKING:
    import pyarrow

    from ..data.storage import Location

log = logging.getLogger("training")
MANY = 64  # small parts of one step are put together
SMALL = 4 * 2**20  # bytes; larger ones stay as they are
TOGETHER = 1000  # parts at once
TOOK = "took"
FIXED = {"id": Column("text", ""), "version": Column("text", ""), TOOK: Column("number", "")}


class Parts:
    """The results of one step."""

    def __init__(self, out: Location, step: Step, fingerprint: str):
        self.folder = out / "steps" / f"{step.name}-{fingerprint}"
        self.columns = {**step.columns, error_column(step): Column("text", "")}

    @property
    def schema(self) -> pyarrow.Schema:
        """Of a part."""
        return schema_of({**FIXED, **self.columns})

    def write(self, rows: Sequence[Row], took: float) -> None:
        """Keep results: rows with `id`, `version` and the step's columns.

        Raises:
            FullDiskError, StorageError: no room, or an address that cannot be written.
        """
        named = hashlib.sha256("\n".join(sorted(f"{row['id']} {row['version']}" for row in rows)).encode())
        self._write(to_table([{**row, TOOK: took} for row in rows], self.schema), named.hexdigest()[:24])

    def _write(self, table: pyarrow.Table, name: str) -> None:
        from pyarrow import parquet

        # In folders by the first two digits: writing looks through the folder for what killed writers left.
        with replacing(self.folder / name[:2] / f"part-{name}.parquet") as temporary:
            parquet.write_table(table, temporary)

    def read(self) -> Found:
        """All results, the step's columns and its error, by clip and version."""
        return Found(table.drop_columns([TOOK]) for table in self._tables())

    def rates(self) -> tuple[int, float]:
        """How many clips were measured, and the workers' seconds for all of them."""
        clips, seconds = 0, 0.0
        for table in self._tables(columns=[TOOK]):
            clips += table.num_rows
            seconds += sum(table[TOOK].to_pylist())
        return clips, seconds

    def _tables(
        self, files: Sequence[Location] | None = None, columns: list[str] | None = None
    ) -> Iterator[pyarrow.Table]:
        """The readable parts in a fixed order. A damaged one (of a disk that failed) is computed again."""
        from pyarrow import ArrowException, parquet

        for file, data in contents(files if files is not None else list(self._files())):
            try:
                if isinstance(data, OSError):
                    raise data
                yield parquet.read_table(BytesIO(data), schema=self.schema, columns=columns)
            except (ArrowException, OSError, ValueError) as error:
                log.warning("%s cannot be read (%s); its clips are measured again.", file, str(error)[:200])

    def _files(self) -> dict[Location, int]:
        """The parts, sorted, with their bytes."""
        found = files_below(self.folder, [".parquet"])
        return {
            file: state[0] if state else file.stat().st_size
            for file, state in found.items()
            if file.name.startswith("part-")
        }

    def compact(self) -> None:
        """Put many small parts together. Stopped anywhere, nothing is lost: what is there twice counts once."""
        import pyarrow

        if isinstance(self.folder, Path):
            for folder in self.folder.glob("*/"):
                remove_abandoned(folder)
        files = [file for file, size in self._files().items() if size < SMALL]
        if len(files) < MANY:
            return
        for start in range(0, len(files), TOGETHER):
            some = files[start : start + TOGETHER]
            tables = list(self._tables(some))
            if tables:
                name = hashlib.sha256("\n".join(file.name for file in some).encode()).hexdigest()[:24]
                self._write(pyarrow.concat_tables(tables), name)
            remove(some)


class Worker:
    """One step as a stage of an engine: measures what is open, keeps it, and lets go on what may."""

    def __init__(self, step: Step, parts: Parts):
        self.step, self.parts = step, parts
        self.name, self.resources, self.gpus_setting = step.name, step.resources, f"{step.name}.resources.gpus"
        self._opened = False

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with the step's columns; those that it drops are left out.

        A row whose `done` names the step has its columns already.

        Raises:
            StopRun: the run cannot go on.
        """
        todo = [row for row in rows if self.step.name not in row["done"]]
        if todo:
            if not self._opened:
                self._open()
            found, took = timed(self.step, todo)
            kept = [{"id": row["id"], "version": row["version"], **new} for row, new in zip(todo, found, strict=True)]
            try:
                self.parts.write(kept, took)
            except StorageError as error:  # which other rows would run into, too
                raise StopRun(str(error)) from error
            for row, new in zip(todo, found, strict=True):
                row.update(new)
                row["done"] = [*row["done"], self.step.name]
        return [row for row in rows if not why_dropped(self.step, row)]

    def _open(self) -> None:
        opened(self.step)
        self._opened = True
