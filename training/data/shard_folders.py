"""Which folders of shards are meant, and one index over several of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .shard_format import INDEX, ShardIndex
from .storage import is_file, location, matching

if TYPE_CHECKING:
    from .storage import Location

Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # a folder, a pattern, or several of them


def find_folders(given: Folders) -> list[Location]:
    """The folders of shards that are meant: paths, addresses such as s3://bucket/shards, and
    patterns such as shards/*, whose folders are sorted by name.

    Raises:
        ValueError: none, one of them twice, or a pattern that fits nothing.
    """
    found: list[Location] = []
    for one in [given] if isinstance(given, (str, os.PathLike)) else given:
        text = os.fspath(one)
        if "\0" in text or not text.strip():
            raise ValueError(f"{text!r} came for a folder of shards, but a path or pattern is expected; give one.")
        fitting = [location(text)]
        if glob.has_magic(text) and not _is_folder(fitting[0]):
            fitting = [folder for folder in matching(text) if is_file(folder / INDEX)]
            if not fitting:
                raise ValueError(f"{text} fits no folder of finished shards; give one that does, or prepare them.")
        found += fitting
    if not found:
        raise ValueError("No folder of shards came, but one or more are expected; name those that were prepared.")
    twice = [folder for folder in found if sum(folder.resolve() == other.resolve() for other in found) > 1]
    if twice:
        raise ValueError(f"{twice[0]} came twice among the folders of shards, but once is expected; leave one out.")
    return found


def _is_folder(one: Location) -> bool:
    return one.is_dir() if isinstance(one, Path) else is_file(one / INDEX)


def merge_indices(indices: dict[Location, ShardIndex]) -> ShardIndex:
    """One index over several folders.

    Raises:
        ValueError: raw shards beside features, or features of different models.
    """
    (first, index), *others = indices.items()
    for folder, other in others:
        if other.kind != index.kind:
            raise ValueError(
                f"{first} holds {index.kind} shards and {folder} {other.kind} shards, but one kind alone can be "
                "combined; make features of the raw ones."
            )
        if other.model != index.model:
            raise ValueError(
                f"The features in {first} and {folder} were made with different models, so they cannot be combined; "
                "prepare one of them again with the other's model."
            )
    licences: dict[str, int] = {}
    for one in indices.values():
        for licence, count in one.licences.items():
            licences[licence] = licences.get(licence, 0) + count
    bare, masked = ([getattr(one, name) for one in indices.values()] for name in ("bare", "masked"))
    return ShardIndex(
        kind=index.kind,
        shards=tuple(shard for one in indices.values() for shard in one.shards),
        samples=sum(one.samples for one in indices.values()),
        skipped=tuple(skip for one in indices.values() for skip in one.skipped),
        licences=licences,
        settings=index.settings if not others else {"combined": [one.settings for one in indices.values()]},
        model=index.model,
        left_out=tuple(left for one in indices.values() for left in one.left_out),
        bare=None if None in bare else tuple(name for names in bare for name in names),
        masked=None if None in masked else sum(masked),
    )
