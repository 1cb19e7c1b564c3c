"""All systems by name: what each is, what it needs, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import sounding
from sounding.checkpoint import resolve
from sounding.model import SoundingModel
from sounding.naming.load import Namer, namer_of
from sounding.utils.messages import shown

from .baseline import Baseline, Settings
from .captioning import Blip, Captioning, CaptioningAndMix, NameCaptioner, read_blip
from .ours import Ours
from .retrieval import ByCaptions, ByClap, Clap, read_clap
from .separation import RetrieveAndSeparate, Separator, read_separator
from .text_to_audio import AudioLdm, FromCaption, SoundingByText, read_audioldm


@dataclass(frozen=True)
class Weights:
    """Where weights and sounds lie on this machine; None is not given. Nothing is ever downloaded."""

    model: str = "starter"
    audioldm: Path | None = None
    audioldm2: Path | None = None
    blip: Path | None = None
    clap: Path | None = None
    separator: Path | None = None
    library: Path | None = None


class Loaded:
    """Weights that are read when a system asks for them, once for all systems."""

    def __init__(self, weights: Weights, settings: Settings, device: torch.device, kept: Path):
        """`kept` is a folder for what is computed once, such as embeddings of a library."""
        self.weights, self.settings, self.device, self.kept = weights, settings, device, kept

    @cached_property
    def model(self) -> SoundingModel:
        """The sounding model."""
        return sounding.load(self.weights.model, device=self.device)

    @cached_property
    def namer(self) -> Namer:
        """What names images: the model's own part, else the namer in the box."""
        return namer_of(self.weights.model, device=self.device)

    @cached_property
    def audioldm(self) -> AudioLdm:
        """AudioLDM 1."""
        return AudioLdm(read_audioldm(self._path("audioldm"), "AudioLDMPipeline", self.device), self.settings)

    @cached_property
    def audioldm2(self) -> AudioLdm:
        """AudioLDM 2."""
        return AudioLdm(read_audioldm(self._path("audioldm2"), "AudioLDM2Pipeline", self.device), self.settings)

    @cached_property
    def by_text(self) -> SoundingByText:
        """The sounding model, asked by text."""
        return SoundingByText(self.model, self.settings)

    @cached_property
    def blip(self) -> Blip:
        """BLIP."""
        return read_blip(self._path("blip"), self.device)

    @cached_property
    def namer_captions(self) -> NameCaptioner:
        """The namer in place of BLIP."""
        return NameCaptioner(self.namer)

    @cached_property
    def clap(self) -> Clap:
        """CLAP."""
        return read_clap(self._path("clap"), self.device)

    @cached_property
    def separator(self) -> Separator:
        """What separates sounds."""
        return read_separator(self._path("separator"), self.model)

    @cached_property
    def by_clap(self) -> ByClap:
        """The library, searched by CLAP."""
        return ByClap(self.clap, self._path("library"), self.kept / ".library")

    @cached_property
    def by_captions(self) -> ByCaptions:
        """The library, searched by captions."""
        return ByCaptions(self.model, self._path("library"))

    def _path(self, need: str) -> Path:
        path = getattr(self.weights, need)
        assert path is not None  # `System.lacks` was asked before
        return Path(path)


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str  # of its folder
    what: str
    needs: tuple[str, ...]  # fields of `Weights`
    build: Callable[[Loaded, Settings], Baseline]

    def lacks(self, weights: Weights) -> list[str]:
        """Why it cannot run here: a phrase per need that is not met."""
        return [said for need in self.needs if (said := _lack(need, getattr(weights, need)))]


FOLDERS = ("audioldm", "audioldm2", "blip", "clap", "library")


def _lack(need: str, value: Any) -> str:
    if value is None:
        return f"--{need} is not given"
    if need == "model":
        try:
            resolve(value)
        except (OSError, ValueError) as error:
            return f"--model: {error}"
        return ""
    fits = Path(value).is_dir() if need in FOLDERS else Path(value).is_file()
    return "" if fits else f"--{need} {shown(str(value))} is not a {'folder' if need in FOLDERS else 'file'}"


SYSTEMS = {
    system.name: system
    for system in (
        System(
            "ours-mask",
            "the sounding model, selected by the mask",
            ("model",),
            lambda loaded, settings: Ours(loaded.model, settings, "mask"),
        ),
        System(
            "ours-text",
            "the sounding model, selected by the caption of what is selected",
            ("model",),
            lambda loaded, settings: Ours(loaded.model, settings, "text"),
        ),
        System(
            "ours-name",
            "the sounding model, selected by the name that a namer gives what is masked",
            ("model",),
            lambda loaded, settings: Ours(loaded.model, settings, "name", loaded.namer),
        ),
        System(
            "ours-whole",
            "the sounding model, the whole image selected",
            ("model",),
            lambda loaded, settings: Ours(loaded.model, settings, "whole"),
        ),
        System(
            "audioldm",
            "AudioLDM 1, from the caption of what is selected",
            ("audioldm",),
            lambda loaded, settings: FromCaption(loaded.audioldm, settings),
        ),
        System(
            "audioldm2",
            "AudioLDM 2, from the caption of what is selected",
            ("audioldm2",),
            lambda loaded, settings: FromCaption(loaded.audioldm2, settings),
        ),
        System(
            "captioning",
            "Captioning: BLIP captions the image, AudioLDM 2 sounds the caption",
            ("blip", "audioldm2"),
            lambda loaded, settings: Captioning(loaded.blip, loaded.audioldm2, settings),
        ),
        System(
            "captioning-mix",
            "Captioning & Mix: BLIP captions each object's crop, AudioLDM 2 sounds each caption, all are mixed",
            ("blip", "audioldm2"),
            lambda loaded, settings: CaptioningAndMix(loaded.blip, loaded.audioldm2, settings),
        ),
        System(
            "retrieve-separate",
            "Retrieve & Separate: CLAP finds a sound by the scene's caption, a separator keeps what is masked",
            ("clap", "library", "separator", "model"),
            lambda loaded, settings: RetrieveAndSeparate(loaded.by_clap, loaded.separator, loaded.model, settings),
        ),
        System(
            "standin-captioning",
            "stand-in for Captioning: a namer names the image, the sounding model looks for the name in the image",
            ("model",),
            lambda loaded, settings: Captioning(loaded.namer_captions, loaded.by_text, settings),
        ),
        System(
            "standin-captioning-mix",
            "stand-in for Captioning & Mix: a namer names each object's crop, the sounding model looks for the name in "
            "the crop, all are mixed",
            ("model",),
            lambda loaded, settings: CaptioningAndMix(loaded.namer_captions, loaded.by_text, settings),
        ),
        System(
            "standin-retrieve-separate",
            "stand-in for Retrieve & Separate: the sound whose own caption is nearest to the scene's, by the sounding "
            "model's text encoder; then the separator",
            ("library", "separator", "model"),
            lambda loaded, settings: RetrieveAndSeparate(loaded.by_captions, loaded.separator, loaded.model, settings),
        ),
    )
}


def chosen(names: list[str], weights: Weights) -> list[System]:
    """The systems of these names.

    Raises:
        ValueError: none, an unknown or repeated name, or a system that cannot run here.
    """
    if not names:
        raise ValueError("No system is asked for; give --system NAME, several if you like (--list shows all).")
    if len(set(names)) < len(names):
        raise ValueError(f"--system names {', '.join(names)}, but each system once is expected.")
    for name in names:
        if name not in SYSTEMS:
            raise ValueError(f"--system is {shown(name)}, but one of {', '.join(SYSTEMS)} is expected.")
        if lacks := SYSTEMS[name].lacks(weights):
            raise ValueError(f"{name} cannot run, since {', and '.join(one.rstrip('.') for one in lacks)}.")
    return [SYSTEMS[name] for name in names]


def listing(weights: Weights) -> str:
    """All systems, what they need, and whether they can run here."""
    lines = []
    for system in SYSTEMS.values():
        lacks = system.lacks(weights)
        lines.append(f"{system.name}: {system.what}")
        lines.append(f"    needs {', '.join(f'--{need}' for need in system.needs)}")
        lines.append(f"    {'cannot run here: ' + '; '.join(lacks) if lacks else 'can run here'}")
    return "\n".join(lines)
