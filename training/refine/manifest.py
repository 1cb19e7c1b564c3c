"""The manifest: one parquet file with a row per listed clip, kept or dropped, and all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING

from ..cluster.row_store import PIECE
from ..cluster.rows import Row, schema_of, to_table
from ..data.storage import opened_for_ranges, read_bytes, replacing
from .outcome import columns_of_manifest
from .settings import RefineSettings
from .step import Step, fingerprints

if TYPE_CHECKING:
    from ..data.storage import Location

MANIFEST = "manifest.parquet"
GROUP = 2 * PIECE  # rows at once


def write_manifest(out: Location, rows: Iterable[Row], steps: Sequence[Step], settings: RefineSettings) -> Location:
    """Write `manifest.parquet`; its schema's metadata has the settings (which hold no keys) and the fingerprints.

    Raises:
        FullDiskError, StorageError: no room, or an address that cannot be written.
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

    def __init__(self, out: Location):
        from pyarrow import parquet

        self.file = out / MANIFEST
        with opened_for_ranges(self.file) as opened:
            self.count: int = parquet.read_metadata(opened).num_rows

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        from pyarrow import parquet

        with opened_for_ranges(self.file) as opened:
            for batch in parquet.ParquetFile(opened).iter_batches(PIECE):
                yield from batch.to_pylist()

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)


def read_manifest(out: Location) -> list[Row]:
    """All rows of a manifest.

    Raises:
        ValueError: there is none.
    """
    from pyarrow import ArrowException, parquet

    file = out / MANIFEST
    try:
        rows: list[Row] = parquet.read_table(BytesIO(read_bytes(file))).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(
            f"{file} cannot be read ({str(error)[:200]}), but a manifest of `refine` is expected."
        ) from None
    return rows
