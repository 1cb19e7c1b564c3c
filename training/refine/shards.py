"""Kept clips as shards (`data/shard_format.py`): raw shards as `prepare` makes them, with the refined captions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..cluster.row_store import RowStore
from ..data.shard_format import INDEX, SAMPLE_RATE, Sample, ShardIndex
from ..data.shard_writer import make_shards
from ..data.source import Source, hash_json
from ..data.storage import is_file
from .media import clip_frames, clip_sound
from .settings import ShardSettings
from .split import TEST, TRAIN

if TYPE_CHECKING:
    from ..cluster.settings import EngineSettings
    from ..data.storage import Location

RAW, FEATURES = "raw", "features"


class RefinedSource(Source):
    """Samples of rows that came through all steps."""

    def __init__(self, rows: RowStore, settings: ShardSettings):
        self.rows, self.frames, self.size = rows, settings.frames, settings.size

    def __len__(self) -> int:
        return len(self.rows)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        told = ((row["id"], row["version"], row["caption"], row["licence"]) for row in self.rows)
        return {"from": "refine", "frames": self.frames, "size": self.size, "inputs": hash_json(told)}

    def name(self, position: int) -> str:
        """See Source."""
        return str(self.rows[position]["id"])

    def make(self, position: int) -> Sample:
        """See Source."""
        row = self.rows[position]
        waveform = clip_sound(row)
        length = len(waveform) / SAMPLE_RATE
        pictures = clip_frames({**row, "sound_seconds": length}, self.frames / length, self.size)
        return Sample(
            id=row["id"],
            captions=(row["caption"],),
            licence=row["licence"],
            source=row["source"],
            seconds=round(length, 3),
            waveform=waveform,
            images=tuple(pictures),
        )


def folder_of(out: Location, kind: str, subset: str) -> Location:
    """Where the shards of a subset are."""
    return out / "shards" / kind / subset


def sources(rows: RowStore, settings: ShardSettings) -> dict[str, RefinedSource]:
    """The subsets that have clips."""
    found = {subset: RowStore(rows.columns) for subset in (TRAIN, TEST)}
    for row in rows:
        found[row["subset"]].append(row)
    return {subset: RefinedSource(some, settings) for subset, some in found.items() if len(some)}


def check_shards(out: Location, rows: RowStore, settings: ShardSettings) -> None:
    """Whether finished shards in `out` are of these clips.

    Raises:
        ValueError: they are of others.
    """
    made = sources(rows, settings)
    for subset in (TRAIN, TEST):
        folder = folder_of(out, RAW, subset)
        if not is_file(folder / INDEX):
            continue
        old = {key: ShardIndex.read(folder).settings.get(key) for key in ("from", "frames", "size", "inputs")}
        if subset not in made or made[subset].settings() != old:
            raise ValueError(
                f"{folder} has shards of another selection of clips than these settings give; rename or remove "
                f"{out / 'shards'} and run the same command again (what was measured is kept)."
            )


def write_raw(out: Location, rows: RowStore, settings: ShardSettings) -> dict[str, ShardIndex]:
    """Make the raw shards, or those that are not there yet; clips that cannot be read any more are in `skipped`.

    Raises:
        ValueError: no clip of a subset can be read.
        OSError: the folder cannot be written.
    """
    return {
        subset: make_shards(
            source, folder_of(out, RAW, subset), shard_size=settings.shard_size, workers=settings.workers
        )
        for subset, source in sources(rows, settings).items()
    }


def write_features(out: Location, subsets: list[str], settings: ShardSettings, engine: EngineSettings) -> None:
    """What the encoders and the VAE of `settings.model` make of the raw shards: by Ray's workers, or in this process.

    Raises:
        ValueError: the model's file is missing or of another kind.
        StopRun: the workers cannot go on.
        OSError: some shards could not be made; the others are.
    """
    from ..cluster.process import device_for
    from ..data.features import OpenFeatures
    from ..data.shard_stage import ByEngine, ShardStage, describe

    for subset in subsets:
        folder = folder_of(out, FEATURES, subset)
        open_source = OpenFeatures((str(folder_of(out, RAW, subset)),), settings.model, settings.resources.batch)
        if engine.kind == "local":
            make_shards(open_source(device_for(settings.device)), folder, shard_size=settings.shard_size)
            continue
        source = open_source("cpu")  # this process computes nothing
        stage = ShardStage(
            "shards",
            open_source,
            settings.device,
            folder,
            settings.shard_size,
            describe(source),
            replace(settings.resources, batch=1),  # shards
            "shards.resources.gpus",
            "shards.resources.batch",
        )
        by_engine = ByEngine(replace(engine, block=1), stage)
        make_shards(source, folder, shard_size=settings.shard_size, elsewhere=by_engine)
