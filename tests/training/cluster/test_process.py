"""What a worker's process computes on, and what it says where that fails. No GPU is needed."""

from __future__ import annotations

import pytest
import torch

from training.cluster import process
from training.cluster.process import device_for, failure_of_device
from training.cluster.stage import StopRun
from training.refine.settings import MatchingSettings
from training.refine.step import measured, opened
from training.refine.steps.matching import MatchingStep

from .test_placing import Idle

TOO_LARGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def limited(monkeypatch: pytest.MonkeyPatch, gpus: float) -> None:
    """As if this were a worker's process."""
    monkeypatch.setattr(process, "_stage", Idle("events", gpus))


def test_workers_with_gpus_compute_on_cuda(monkeypatch: pytest.MonkeyPatch, cuda: None) -> None:
    limited(monkeypatch, 0.5)
    assert [device_for(asked) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_workers_whose_gpus_torch_does_not_find_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StopRun, match=r"events was given 1 GPUs, but torch finds none there; .* set events.gpus to 0"):
        device_for("auto")


def test_workers_without_gpus_never_compute_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # which it is not where the process sees no GPU
    assert device_for("auto") in ("cpu", "mps")
    with pytest.raises(StopRun, match=r"on cuda:0, but its workers have no GPU; set events\.gpus"):
        device_for("cuda:0")


@pytest.mark.parametrize(
    ("error", "gpus", "said"),
    [
        (
            TOO_LARGE,
            0.5,
            r"set frames lower, or set events\.gpus higher, so that fewer workers share one GPU;",
        ),
        (TOO_LARGE, 1, r"ran out of the GPU's memory; set frames lower; the same command"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), 1, "set frames lower"),
    ],
)
def test_too_little_memory_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, error: Exception, gpus: float, said: str
) -> None:
    limited(monkeypatch, gpus)
    failure = failure_of_device(error, "events", "frames")
    assert failure is not None
    with pytest.raises(StopRun, match=said):
        raise failure
    assert failure_of_device(RuntimeError("The size of tensor a (3) must match"), "events", "frames") is None


def test_a_step_whose_model_does_not_fit_ends_the_run_and_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise TOO_LARGE

    monkeypatch.setattr("training.refine.steps.matching.digest", lambda *paths: "")
    monkeypatch.setattr("training.refine.steps.matching.scorer_of", fails)
    step = MatchingStep(MatchingSettings(model="m"))
    said = r"^matching ran out of the GPU's memory; set seconds lower"
    with pytest.raises(StopRun, match=said):
        opened(step)
    monkeypatch.setattr(step, "measure", fails)
    with pytest.raises(StopRun, match=said):
        measured(step, [{"id": "a"}, {"id": "b"}])
