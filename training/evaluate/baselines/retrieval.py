"""Sounds of a folder found by a sentence: by CLAP's audio embeddings, or as a stand-in by the sounds' own captions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.resampling import resample
from sounding.encoders.audio import RATE as CLAP_RATE
from sounding.encoders.audio import SAMPLES as CLAP_SAMPLES
from sounding.encoders.audio import ClapAudioQuery
from sounding.model import SoundingModel
from sounding.utils.messages import printable

from ..folders import compute_features, find_sounds
from ..models.loading import read_pretrained

CAPTIONS = "captions.csv"  # of a library: name,caption
MOST_CAPTIONS = 10_000_000  # rows


class Retrieval(Protocol):
    """Finds sounds."""

    def find(self, text: str) -> Path:
        """The file that fits a sentence best."""


class Clap:
    """CLAP's two towers (transformers); sounds are embedded as a `FeatureModel` does, of their first 10 s."""

    rate, seconds = CLAP_RATE, CLAP_SAMPLES / CLAP_RATE
    classes: tuple[str, ...] = ()

    def __init__(self, model: Any, processor: Any, name: str):
        self.model, self.processor, self.name = model, processor, name
        self.width = int(model.config.projection_dim)

    @torch.inference_mode()
    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """Sounds [B, samples] -> [B, L], of length 1."""
        sounds = [sound.numpy() for sound in resample(waveform, rate, self.rate)[:, :CLAP_SAMPLES]]
        features = self.processor.feature_extractor(sounds, sampling_rate=self.rate, return_tensors="pt")
        given = features.to(self.model.device)
        return _embedded(self.model.get_audio_features(**given))

    @torch.inference_mode()
    def embed_text(self, text: str) -> Tensor:
        """A sentence -> [L], of length 1."""
        tokens = self.processor.tokenizer([text], truncation=True, return_tensors="pt").to(self.model.device)
        return _embedded(self.model.get_text_features(**tokens))[0]

    def logits(self, embeddings: Tensor) -> Tensor:
        """There are no classes: [B, 0]."""
        return embeddings[:, :0]


def _embedded(given: Any) -> Tensor:
    """The features themselves, which transformers wraps since version 5."""
    return functional.normalize(getattr(given, "pooler_output", given), dim=-1).float().cpu()


def read_clap(folder: Path, device: torch.device) -> Clap:
    """CLAP from a folder in transformers' form.

    Raises:
        ValueError: see `read_pretrained`.
    """
    advice = "a download of laion/clap-htsat-unfused"
    model, processor = read_pretrained(folder, "ClapModel", "ClapProcessor", "CLAP", advice)
    return Clap(model.to(device), processor, f"CLAP of {folder.resolve()}")


class ByClap:
    """The sound whose embedding is nearest to that of the sentence."""

    def __init__(self, clap: Clap, library: Path, kept: Path):
        """Embed all sounds of `library`; embeddings are kept in the folder `kept`, so that a stopped run goes on.

        Raises:
            ValueError: there is no folder, or none of its sounds can be read.
        """
        side = compute_features("library", library, clap, clap.seconds, kept)
        names = sorted(side.usable())
        if not names:
            raise ValueError(f"{library} has no sound that can be read, but one is needed at least.")
        files = find_sounds(library)
        self.clap, self.files = clap, [files[name] for name in names]
        self.embeddings = torch.from_numpy(np.array(side.store.embeddings[side.store.rows(names)]))

    def find(self, text: str) -> Path:
        """See `Retrieval.find`."""
        return self.files[int((self.embeddings @ self.clap.embed_text(text)).argmax())]


class ByCaptions:
    """Stands in for CLAP: the sound whose caption is nearest to the sentence, by a sounding model's text encoder."""

    def __init__(self, model: SoundingModel, library: Path):
        """Embed all captions of `library`.

        Raises:
            ValueError: there is no folder of sounds, no list of captions, or the model is queried by sounds.
        """
        query = model.query
        if isinstance(query, ClapAudioQuery):
            raise ValueError("The model is queried by sounds, but captions are compared; give one with text queries.")
        sounds, captions = find_sounds(library), _read_captions(library / CAPTIONS)
        names = [name for name in sounds if captions.get(name)]
        if not names:
            raise ValueError(f"{library / CAPTIONS} has no caption of any sound in {library}; check the names.")
        self.query, self.files = query, [sounds[name] for name in names]
        self.embeddings = self._embed([captions[name] for name in names])

    def find(self, text: str) -> Path:
        """See `Retrieval.find`."""
        return self.files[int((self.embeddings @ self._embed([text])[0]).argmax())]

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        parts = [self.query.encode(texts[at : at + 64]) for at in range(0, len(texts), 64)]
        return functional.normalize(torch.cat(parts).float(), dim=-1).cpu()


def _read_captions(path: Path) -> dict[str, str]:
    """Captions by the sounds' names.

    Raises:
        ValueError: there is no such file, or it has other columns or too many rows.
    """
    captions: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"name", "caption"} <= set(rows.fieldnames or ()):
                raise ValueError("it has other columns")
            for row in rows:
                captions[row["name"] or ""] = row["caption"] or ""
                if len(captions) > MOST_CAPTIONS:
                    raise ValueError(f"it has more than {MOST_CAPTIONS:,} rows")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no list of captions ({printable(error, 200)}); give a CSV with the columns name and caption."
        ) from None
    return captions
