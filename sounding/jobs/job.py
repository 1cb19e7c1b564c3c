"""Jobs files: one JSON object per line, whose keys are named as the options of `sounding generate`.

    {"image": "farm.png", "mask": "dog.png", "seconds": 5, "seed": 7, "out": "dog.wav"}

Each line is checked as a command line is. One that is wrong becomes a `Fault`, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import IO, Annotated, Any

from ..checkpoint import read_header, resolve
from ..cli.options import MAX_BATCH, GenerateOptions, check_steps
from ..config import SoundingConfig
from ..utils.fields import Checked, Length, from_dict, parse_json
from ..utils.messages import printable, shown

MOST_LINE = 2**16  # bytes
MOST_JOBS = 100_000
MOST_BYTES = 2**28  # of a jobs file
STDIN = "-"
Masks = Annotated[tuple[str, ...], Length(0, MAX_BATCH)]
Curves = Annotated[tuple[str, ...], Length(0, MAX_BATCH)]
Gains = Annotated[tuple[float, ...], Length(0, MAX_BATCH)]


@dataclass(frozen=True)
class JobLine(Checked):
    """One line of a jobs file: names and types. What the values may be, `GenerateOptions.check` says."""

    image: str
    out: str
    mask: str | Masks = ()
    text: str | None = None
    negative_mask: str | None = None
    negative_text: str | None = None
    by: str | None = None
    likely_names: int | None = None
    seconds: float = 5.0
    steps: int | None = None
    cfg: float | None = None
    seed: int = 0
    variation: int | None = None
    variation_strength: float = 0.3
    sampler: str | None = None
    batch: int = 1
    attention_map: str | None = None
    level: bool = True
    gain: float | Gains = ()
    place: bool = False
    depth: str | None = None
    loudness: float | None = None
    fade_out: float | None = None
    window: float = 20.48
    bits: str = "16"
    rate: int | None = None
    loop: bool = False
    intensity: str | Curves = ()
    blend: bool = False


@dataclass(frozen=True)
class Job:
    """One line that can be done, as far as can be told without its files."""

    line: int  # in the jobs file, from 1
    options: GenerateOptions
    digest: str  # of all settings and of the checkpoint, which tells whether a result is this job's

    @property
    def outs(self) -> list[Path]:
        """All files that it writes."""
        several = [self.options.out] if self.options.selections > 1 else []
        maps = [] if self.options.attention_map is None else [self.options.attention_map]
        return [*self.options.tracks, *several, *maps]


@dataclass(frozen=True)
class Fault:
    """One line that cannot be done, and why."""

    line: int
    error: str
    out: str | None = None


@dataclass(frozen=True)
class Setting:
    """What all lines of a jobs file share.

    Attributes:
        defaults: of keys that lines leave out.
        config: of the checkpoint.
        model: what tells the checkpoint from others.
        folder: in which all results are, or None: anywhere, relative to the working directory.
    """

    defaults: Mapping[str, Any]
    config: SoundingConfig
    model: str
    folder: Path | None = None


def setting_of(model: str, defaults: Mapping[str, Any], folder: Path | None = None) -> Setting:
    """What jobs share that are done with a checkpoint; of its file only the header is read.

    Raises:
        ValueError: the checkpoint's header cannot be read, or `defaults` are not such.
    """
    header = read_header(resolve(model))
    known = [header.stamp[1], header.metadata, header.shapes]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    from_dict(JobLine, {"image": "", "out": "", **defaults})
    return Setting(dict(defaults), header.config, digest, folder)


def read_jobs(source: str | os.PathLike[str], setting: Setting) -> list[Job | Fault]:
    """All jobs of a file, checked.

    Raises:
        ValueError: see `read_lines`.
    """
    return distinct([parse_job(number, text, setting) for number, text in read_lines(source)])


def read_lines(source: str | os.PathLike[str]) -> Iterator[tuple[int, str | None]]:
    """Numbers and texts of the lines of a jobs file that are not blank; None for one that is too long or no UTF-8.

    A pipe is read to its end. "-" is standard input.

    Raises:
        ValueError: the file cannot be read, is too long, or has no lines.
    """
    called = "Standard input" if os.fspath(source) == STDIN else printable(os.fspath(source)[-400:])
    count = total = 0
    try:
        standard = os.fspath(source) == STDIN
        with nullcontext(sys.stdin.buffer) if standard else open(source, "rb") as file:
            for number, line in enumerate(_bounded_lines(file), start=1):
                total += len(line)
                text = _text(line, first=number == 1)
                if text is not None and not text.strip():
                    continue
                count += 1
                if count > MOST_JOBS or total > MOST_BYTES:
                    raise ValueError(
                        f"{called} has more than {MOST_JOBS:,} jobs or {MOST_BYTES:,} bytes; split it into several."
                    )
                yield number, text
    except OSError as error:
        raise ValueError(
            f"{called} cannot be read ({error.strerror or error}); give a file of one JSON object per line, or - for "
            "standard input."
        ) from None
    if not count:
        raise ValueError(f"{called} has no jobs; write one JSON object per line.")


def _bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, of which no more than `MOST_LINE` + 1 bytes are kept."""
    while line := file.readline(MOST_LINE + 1):
        whole = line.endswith(b"\n")
        left = MOST_BYTES
        while not whole and len(line) > MOST_LINE and left > 0 and (more := file.readline(2**20)):
            whole, left = more.endswith(b"\n"), left - len(more)
        yield line


def _text(line: bytes, *, first: bool) -> str | None:
    """A line's text, without the mark of UTF-8 that some editors put before the first one."""
    if len(line) > MOST_LINE:
        return None
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        return None


def parse_job(number: int, text: str | None, setting: Setting) -> Job | Fault:
    """One line as a job whose options have been checked."""
    out: str | None = None
    try:
        if text is None:
            raise ValueError(f"it is no UTF-8, or longer than {MOST_LINE:,} bytes; write one JSON object per line.")
        data = _object(text)
        out = data["out"][:1000] if isinstance(data.get("out"), str) else None
        line: JobLine = from_dict(JobLine, {**setting.defaults, **data}, called="a job")
        options = _options(line, setting.folder)
        options.check()
        check_steps(options.steps, setting.config.diffusion.train_steps)
        setting.config.latent_frames(options.seconds)
        known = asdict(line)
        if not line.blend:
            del known["blend"]  # results of files from before there was this key stay theirs
        digest = hashlib.sha256(json.dumps([setting.model, known], sort_keys=True).encode()).hexdigest()[:32]
        return Job(number, options, digest)
    except (ValueError, OSError) as error:
        return Fault(number, printable(" ".join(str(error).split()), 600), out)


def _object(text: str) -> dict[str, Any]:
    """A line's keys, with "-" and "_" the same, as in options."""
    try:
        data = parse_json(text.strip())
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}); write one JSON object per line.") from None
    if not isinstance(data, dict):
        raise ValueError(f'it is {shown(data)}, but an object is expected, such as {{"image": ..., "out": ...}}.')
    named = {key.replace("-", "_"): value for key, value in data.items()}
    if len(named) != len(data):
        raise ValueError("a key is there twice, once with - and once with _; write it once.")
    return named


def _options(line: JobLine, folder: Path | None) -> GenerateOptions:
    def path(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    out, attention = _placed("out", line.out, folder), None
    if line.attention_map is not None:
        attention = _placed("attention_map", line.attention_map, folder)
    masks = (line.mask,) if isinstance(line.mask, str) else line.mask
    same = {item.name for item in fields(GenerateOptions)} & {item.name for item in fields(JobLine)}
    values = {name: getattr(line, name) for name in same}
    return GenerateOptions(
        **values
        | {
            "image": Path(line.image),
            "out": out,
            "masks": [Path(mask) for mask in masks],
            "negative_mask": path(line.negative_mask),
            "depth": path(line.depth),
            "attention_map": attention,
            "gains": [line.gain] if isinstance(line.gain, float) else list(line.gain),
            "to_rate": line.rate,
            "intensity": [line.intensity] if isinstance(line.intensity, str) else list(line.intensity),
            "device": "auto",  # the run's is checked once
        }
    )


def _placed(key: str, name: str, folder: Path | None) -> Path:
    """Where a result goes: with a folder never outside of it.

    Raises:
        ValueError: it would be outside.
    """
    if folder is None:
        return Path(name)
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not _home(path.parent).is_relative_to(_home(folder)):
        raise ValueError(
            f"{key} is {shown(name)}, which is outside of {folder}; give a name relative to it, without '..' and links "
            "that lead out of it."
        )
    return path


@lru_cache(maxsize=4096)
def _home(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def distinct(parsed: list[Job | Fault]) -> list[Job | Fault]:
    """The same, with a fault for each job that would write what an earlier line writes."""
    owners: dict[str, int] = {}
    kept: list[Job | Fault] = []
    for job in parsed:
        if isinstance(job, Job):
            places = [os.path.normcase(_home(path.parent) / path.name) for path in job.outs]
            shared = next((place for place in places if place in owners), None)
            if shared is not None:
                said = f"{shown(str(job.options.out))} would write a file that line {owners[shared]} writes; rename it."
                job = Fault(job.line, said, str(job.options.out))
            else:
                owners.update(dict.fromkeys(places, job.line))
        kept.append(job)
    return kept
