"""The manifest: one parquet file with a row per listed clip, kept or dropped, and all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from sounding.utils.files import replacing

from ..cluster.row_store import PIECE
from ..cluster.rows import Row, schema_of, to_table
from .outcome import columns_of_manifest
from .settings import RefineSettings
from .step import Step, fingerprints

MANIFEST = "manifest.parquet"
GROUP = 20_000  # rows at once


def write_manifest(out: Path, rows: Iterable[Row], steps: Sequence[Step], settings: RefineSettings) -> Path:
    """Write `manifest.parquet`; its schema's metadata has the settings (which hold no keys) and the fingerprints.

    Raises:
        FullDiskError: no room.
    """
    from pyarrow import parquet

    schema = schema_of(columns_of_manifest(steps)).with_metadata(
        {"refine.settings": settings.to_yaml(), "refine.steps": json.dumps(fingerprints(steps))}
    )
    file = out / MANIFEST
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        left = iter(rows)
        while group := list(islice(left, GROUP)):
            writer.write_table(to_table(group, schema))
    return file


class ManifestRows(Collection[Row]):
    """The rows of a manifest that was written, read anew by each loop and never all at once."""

    def __init__(self, out: Path):
        from pyarrow import parquet

        self.file = out / MANIFEST
        self.count: int = parquet.read_metadata(self.file).num_rows

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.file) as opened:
            for batch in opened.iter_batches(PIECE):
                yield from batch.to_pylist()

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)


def read_manifest(out: Path) -> list[Row]:
    """All rows of a manifest.

    Raises:
        ValueError: there is none.
    """
    from pyarrow import ArrowException, parquet

    file = out / MANIFEST
    try:
        rows: list[Row] = parquet.read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(
            f"{file} cannot be read ({str(error)[:200]}), but a manifest of `refine` is expected."
        ) from None
    return rows
