"""Rows: what is known of one clip while it goes through the steps, and what the manifest has of it.

A row holds texts, numbers and the path of a video, never decoded sound or images: blocks of rows stay small, and a step
that needs the video decodes the clip itself. Every row has all columns from the start (null until a step has measured
them), so that all blocks have one schema.
"""

from __future__ import annotations

from ..cluster.rows import Column, Row

# Of the list (`lists.py`).
IDENTITY = {
    "id": Column("text", "names the clip among all of the list: VIDEO_START"),
    "video": Column("text", "the video's id: YouTube's, or its path in the folder without the ending"),
    "start": Column("number", "where the clip begins in the video that the list names, in seconds"),
    "offset": Column("number", "where it begins in the file, which may hold the clip alone, in seconds"),
    "seconds": Column("number", "length that was asked for"),
    "path": Column("text", "the file"),
    "version": Column("text", "of the file (size, time of change) and the list's entry; results of another are void"),
    "licence": Column("text", "licence of the material"),
    "source": Column("text", "address or name of the video"),
    "labels": Column("texts", "names of the list's labels"),
    "codes": Column("texts", "ids of these labels in AudioSet's ontology; empty for names that it does not have"),
    "label_caption": Column("text", "the list's caption, or its labels as a caption"),
}
# Of what becomes of it (`outcome.py`, `split.py`).
OUTCOME = {
    "dropped_by": Column("text", "the step that dropped the clip, or empty"),
    "reason": Column("text", "why, in one sentence"),
    "category": Column("text", "the largest category of the list that the clip's labels are in"),
    "subset": Column("text", "train or test; empty for dropped clips"),
}


def seconds_of(row: Row) -> float:
    """How long a clip's sound is, as far as it was measured; else the length that was asked for."""
    return float(row["sound_seconds"] or row["seconds"])
