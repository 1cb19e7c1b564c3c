"""States: what is kept, and what a damaged file or a full disk costs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from training.engine import states as states_module
from training.engine.loop import train
from training.engine.states import States

from .toys import LOOP, Line, Numbers


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    train(Line(), Numbers(), LOOP, tmp_path)
    assert [file.name for file in States(tmp_path / "states").files()] == ["step-00000011.state", "step-00000012.state"]


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = States(tmp_path)
    states.save(1, {"x": torch.ones(3)})
    last = states.save(2, {"x": torch.zeros(3)})
    assert last is not None
    last.write_bytes(last.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        found = states.latest()
    assert found is not None
    assert found["step"] == 1
    assert "step-00000002.state is damaged" in caplog.text
    for file in states.files():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="No state in"):
        states.latest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = States(tmp_path, keep=1)
    first = states.save(1, {"x": torch.ones(3)})
    assert first is not None
    before = first.read_bytes()
    real = states_module.torch.save

    def to_a_full_disk(value: Any, file: Any) -> None:
        with open("/dev/full", "wb") as full:  # the kernel's own "No space left on device"
            real(value, full)

    monkeypatch.setattr(states_module.torch, "save", to_a_full_disk)
    assert states.save(2, {"x": torch.zeros(100_000)}) is None
    assert "disk is full: no state of step 2 was kept" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000001.state"]
    assert first.read_bytes() == before
