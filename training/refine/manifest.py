"""The manifest: one parquet file with a row per listed clip, kept or dropped, and all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sounding.utils.files import replacing

from ..cluster.rows import Row, schema_of, to_table
from .outcome import columns_of_manifest
from .settings import RefineSettings
from .step import Step, fingerprints

MANIFEST = "manifest.parquet"
GROUP = 50_000  # rows at once


def write_manifest(out: Path, rows: Sequence[Row], steps: Sequence[Step], settings: RefineSettings) -> Path:
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
        for start in range(0, len(rows), GROUP):
            writer.write_table(to_table(list(rows[start : start + GROUP]), schema))
    return file


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
