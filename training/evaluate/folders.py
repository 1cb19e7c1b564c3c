"""Folders of sounds to features: files are matched by stem, and one that cannot be read never ends a run.

What is done with sounds that are not alike, for generated ones and the reference the same:

- all channels are averaged, and the rate becomes the model's;
- longer ones are cut to `seconds`, shorter ones padded with silence at the end;
- silent and clipped ones are measured as they are, since a system is to answer for them, and listed;
- what has no partner or cannot be read is left out, and listed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sounding.audio.files import read_audio
from sounding.audio.resampling import fit_length
from sounding.utils.messages import printable

from .features import LEAST_SECONDS, FeatureModel, WindowedModel
from .store import Finding, Store

log = logging.getLogger("training")
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
SILENCE = 1e-4  # highest sample, -80 dBFS
BATCH = 16
OnStep = Callable[[int, int], None]


@dataclass
class Side:
    """A folder's features, and why some of its files have none (name -> sentence)."""

    name: str
    folder: Path
    store: Store
    unreadable: dict[str, str] = field(default_factory=dict)

    def usable(self) -> set[str]:
        """Names of the files that have features."""
        return set(self.store.found(Finding.done))


def find_sounds(folder: Path) -> dict[str, Path]:
    """Sound files directly in a folder, by stem, see `find_files`.

    Raises:
        ValueError: there is no such folder, or no sound in it.
    """
    return find_files(folder, SUFFIXES, "sounds")


def find_files(folder: Path, suffixes: tuple[str, ...], kind: str) -> dict[str, Path]:
    """Files with one of the endings directly in a folder, by stem; of two with one stem the first in order of names.

    Raises:
        ValueError: there is no such folder, or no such file in it; `kind` says in the plural what they are.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, but one of {kind} is expected; check the path.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            log.warning(
                "%s is left out, since %s has the same stem.", printable(path), printable(found[path.stem].name)
            )
        found.setdefault(path.stem, path)
    if not found:
        raise ValueError(f"{folder} has no {kind}, but files ending in {', '.join(suffixes)} are expected.")
    return found


def compute_features(
    name: str, folder: Path, model: FeatureModel, seconds: float, out: Path, on_step: OnStep | None = None
) -> Side:
    """Features of all sounds of a folder. Those of an earlier run are kept, unless files, model or `seconds` changed.

    Args:
        name: of the system.
        folder: of the sounds.
        model: computes the features.
        seconds: that every sound is cut or padded to.
        out: where features are kept.
        on_step: called with the sounds done and their number.

    Raises:
        ValueError: there is no folder, or no sound in it.
    """
    files = find_sounds(folder)
    description = {
        "model": model.name,
        "seconds": seconds,
        "files": {stem: [path.name, *stamp(path)] for stem, path in files.items()},
    }
    samples = round(max(seconds, LEAST_SECONDS) * model.rate)
    windows = model.windows(samples) if isinstance(model, WindowedModel) else 1
    store = Store.open(out, list(files), description, model.width, len(model.classes), windows)
    side = Side(name, folder, store)
    missing = store.missing()
    done = len(files) - len(missing)
    for start in range(0, len(missing), BATCH):
        rows = missing[start : start + BATCH]
        _compute_batch(side, files, rows, model, samples)
        done += len(rows)
        if on_step:
            on_step(done, len(files))
    return side


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros where it cannot be looked at, such as a link to nothing."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _compute_batch(side: Side, files: dict[str, Path], rows: list[int], model: FeatureModel, samples: int) -> None:
    import soundfile

    read = []
    for row in rows:
        name = side.store.names[row]
        try:
            read.append((row, *_read(files[name], model.rate, samples)))
        except (OSError, ValueError, soundfile.SoundFileError) as error:
            side.unreadable[name] = printable(error, 400)
    if not read:
        return
    embeddings = model.embed(torch.stack([sound for _, sound, _ in read]), model.rate)
    logits = model.logits(embeddings)
    finite = torch.cat([embeddings, logits], dim=1).isfinite().all(dim=1).tolist()
    for (row, _, _), good in zip(read, finite, strict=True):
        if not good:
            side.unreadable[side.store.names[row]] = "The model's features of it are not finite."
    kept = [at for at, good in enumerate(finite) if good]
    side.store.put(
        [read[at][0] for at in kept],
        embeddings[kept].cpu().numpy(),
        logits[kept].cpu().numpy(),
        [read[at][2] for at in kept],
    )


def _read(path: Path, rate: int, samples: int) -> tuple[torch.Tensor, Finding]:
    """A sound as the model gets it: [samples], and what is to be known of it."""
    import soundfile

    sound = read_audio(path, rate)
    if not len(sound):
        raise ValueError(f"{printable(path)} has no samples, but a sound is expected; export it again.")
    finding = Finding(0)
    peak = float(sound.abs().max())
    info = soundfile.info(path)
    for applies, kind in (
        (peak < SILENCE, Finding.silent),
        (_is_clipped(sound), Finding.clipped),
        (info.channels > 1, Finding.mixed_to_mono),
        (info.samplerate != rate, Finding.resampled),
        (len(sound) < samples, Finding.padded),
        (len(sound) > samples, Finding.cut),
    ):
        if applies:
            finding |= kind
    return fit_length(sound, samples), finding


def _is_clipped(sound: torch.Tensor) -> bool:
    """Whether three samples in a row lie at full scale, as Audacity's Find Clipping asks."""
    full = sound.abs() >= 0.999
    return bool((full[2:] & full[1:-1] & full[:-2]).any())


def pairs(side: Side, reference: Side) -> list[str]:
    """Stems that both sides have features of, in order."""
    return sorted(side.usable() & reference.usable())


def problems(side: Side, reference: Side, backgrounds: Set[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """What is to be known of a system's sounds: a kind and the names. Items that are `backgrounds` lack references."""
    own, others = set(side.store.names), set(reference.store.names)
    yield "without a reference", sorted(own - others - backgrounds)
    yield "missing", sorted(others - own)
    yield "unreadable", sorted(side.unreadable)
    for finding in Finding:
        if finding is not Finding.done:
            yield str(finding.name).replace("_", " "), side.store.found(finding)
