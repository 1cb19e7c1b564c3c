"""Models that embed windows of a sound: every window is a sample of the distances, resampled with its sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.audio.files import write_audio
from training.evaluate.folders import Side, compute_features
from training.evaluate.frechet import frechet_distances
from training.evaluate.kernel import kernel_distances
from training.evaluate.metrics import resample_metrics, weights_of
from training.evaluate.report import measure
from training.evaluate.scores import cosines
from training.evaluate.store import write_npz

RATE, NAMES = 16_000, [f"{item:02}" for item in range(24)]


class Halves:
    """Mean, level and peak of each half second."""

    name, rate, seconds, width = "halves", RATE, 1.0, 3
    classes: tuple[str, ...] = ()

    def windows(self, samples: int) -> int:
        return samples // (RATE // 2)

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        parts = waveform.unfold(1, RATE // 2, RATE // 2)
        return torch.stack([parts.mean(dim=2), parts.std(dim=2), parts.amax(dim=2)], dim=2).flatten(1)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :0]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    folder = tmp_path_factory.mktemp("windows")
    generator = torch.Generator().manual_seed(0)
    for side in ("made", "real"):
        for name in NAMES:
            sound = torch.randn(RATE, generator=generator) * torch.rand(1, generator=generator) * 0.2
            write_audio(folder / side / f"{name}.wav", sound, RATE)
    made, real = (
        compute_features(side, folder / side, Halves(), 1.0, folder / "out" / side) for side in ("made", "real")
    )
    return made, real


def test_every_window_is_a_sample(sides: tuple[Side, Side]) -> None:
    made, real = sides
    assert made.store.embeddings.shape == (24, 6)
    weights = weights_of(NAMES, 3)
    found = resample_metrics(made, real, NAMES, weights, (), None)
    first, second = (np.asarray(side.store.embeddings).reshape(48, 3) for side in sides)
    repeated = np.repeat(weights, 2, axis=1)
    np.testing.assert_allclose(found.values["fad"], frechet_distances(first, second, repeated))
    np.testing.assert_allclose(found.values["kad"], kernel_distances(first, second, repeated))
    assert found.values["cosine"][0] == pytest.approx(cosines(first, second).mean())
    assert found.counts["fad"] == found.counts["cosine"] == 24


def test_counts_are_of_sounds(sides: tuple[Side, Side]) -> None:
    figures = measure([sides[0]], sides[1], (), resamples=5)["systems"][0]["figures"]
    assert figures["fad_infinity"]["count"] == figures["fad"]["count"] == 24


def test_the_archive_has_the_windows_apart(sides: tuple[Side, Side], tmp_path: Path) -> None:
    write_npz(tmp_path / "features.npz", {"made": sides[0].store})
    with np.load(tmp_path / "features.npz") as archive:
        assert archive["made/embeddings"].shape == (24, 2, 3)
        np.testing.assert_array_equal(archive["made/embeddings"].reshape(24, 6), sides[0].store.embeddings)
