"""Errors of Ray: those of stages, which end a run, and losses, after which it goes on."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, WorkerCrashedError

from training.cluster.losses import Lost, is_loss, loss_in, stop_run_in
from training.cluster.stage import StopRun


def test_a_step_that_stops_the_run_is_heard_through_the_errors_of_ray() -> None:
    inner = RayTaskError("measure", "traceback", StopRun("no key"))
    outer = RayTaskError("map", "traceback", RuntimeError("wrapped"))
    outer.__cause__ = inner
    for error in (inner, outer, inner.as_instanceof_cause()):
        found = stop_run_in(error)
        assert found is not None
        assert str(found) == "no key"
    assert stop_run_in(RayTaskError("map", "traceback", RuntimeError("another"))) is None


def test_losses_are_told_from_errors_of_stages() -> None:
    gone = WorkerCrashedError()
    assert is_loss(gone)
    assert is_loss(ActorUnavailableError("unavailable", b"0" * 16))
    assert is_loss(ObjectLostError("0" * 56, "owner", "site"))
    assert is_loss(RayTaskError("map", "traceback", gone))
    assert "gone" in str(loss_in(gone))
    wrapped = RuntimeError("stream")
    wrapped.__cause__ = Lost("1 of 2 nodes")
    assert str(loss_in(wrapped)) == "1 of 2 nodes"
    own = RayTaskError("map", "traceback", KeyError("caption")).as_instanceof_cause()
    own.__context__ = gone  # which came while a loss was handled
    assert not is_loss(own)
    with pytest.raises(KeyError):
        loss_in(own)
    with pytest.raises(StopRun, match="no key"):
        loss_in(RayTaskError("map", "traceback", StopRun("no key")))


def test_workers_that_cannot_start_are_not_started_again_and_again() -> None:
    never = ActorDiedError(RayTaskError("__init__", "ModuleNotFoundError: No module named 'training'", KeyError()))
    with pytest.raises(StopRun, match=r"cannot start .*No module named 'training'.* installed on all nodes"):
        loss_in(never)
