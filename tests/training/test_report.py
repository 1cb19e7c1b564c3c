"""Reports read back: the log, TensorBoard's files, the terminal, the previews."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from training.engine.previews import PreviewSound
from training.engine.report import Report

from .helpers import read_log


class Clock:
    """Seconds that go forward when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "audio": 0}).Reload()


def tone(name: str = "tone") -> PreviewSound:
    waveform = 0.4 * torch.sin(torch.arange(3200) * 0.1)
    return PreviewSound(name, waveform, torch.linspace(-11, 2, 20 * 64).reshape(20, 64), 16000)


def test_figures_are_means_since_the_last_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    norm = torch.zeros(())
    with caplog.at_level(logging.INFO), Report(tmp_path, 25, 8, "vae", log_every=10, clock=clock) as report:
        for step in range(1, 26):
            with report.waiting():
                clock.now += 0.125
            clock.now += 0.375
            norm.fill_(step)  # changed in place by the next step
            scalars: dict[str, torch.Tensor | float] = {"loss": torch.tensor(float(step)), "grad_norm": norm}
            if step % 5 == 0:
                scalars["rare"] = 2.0 * step
            report.step(step, scalars)
            if step == 12:
                report.preview(step, [tone()])
                with report.paused():
                    clock.now += 100
    found = read_log(tmp_path)
    assert [line["step"] for line in found] == [10, 20, 25]
    assert [line["loss"] for line in found] == [5.5, 15.5, 23.0]
    assert [line["grad_norm"] for line in found] == [5.5, 15.5, 23.0]
    assert [line["rare"] for line in found] == [15.0, 35.0, 50.0]
    assert [line["samples_per_second"] for line in found] == [16.0] * 3
    assert [line["data_wait"] for line in found] == [0.25] * 3
    assert [line["seconds"] for line in found] == [5.0, 110.0, 112.5]

    board = events(tmp_path)
    for name in ("loss", "grad_norm", "rare", "samples_per_second", "data_wait"):
        assert [(event.step, event.value) for event in board.Scalars(name)] == [(x["step"], x[name]) for x in found]
    messages = [record.getMessage() for record in caplog.records if record.name == "training"]
    assert messages[0] == (
        "vae 10/25  loss 5.5  grad_norm 5.5  rare 15  16.0 samples/s  data_wait 25%  0:08 left"  # 7.5 s
    )
    assert len(messages) == 4  # three logs and the previews


def test_scalars_are_not_read_between_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def watched(name: str) -> Any:
        own = getattr(torch.Tensor, name)
        return lambda self, *args: (reads.append(name), own(self, *args))[1]

    for name in ("item", "tolist", "__float__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))
    with Report(tmp_path, 10, 1, "x", log_every=5) as report:
        for step in range(1, 11):
            report.step(step, {name: torch.ones(()) for name in "abc"})
            assert reads == ["tolist"] * (step // 5)


def test_resuming_cuts_what_came_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read in the order of their numbers, of which "10" comes before "9".
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    clock = Clock()

    def go(first: int, last: int, value: float) -> None:
        with Report(tmp_path, 60, 1, "x", log_every=10, clock=clock) as report:
            for step in range(first, last + 1):
                clock.now += 1
                report.step(step, {"loss": value})

    go(1, 45, 1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')  # the machine went down
    go(21, 60, 2.0)  # the state was of step 20
    found = read_log(tmp_path)
    assert [(line["step"], line["loss"]) for line in found] == [(10, 1), (20, 1), (30, 2), (40, 2), (50, 2), (60, 2)]
    assert [line["seconds"] for line in found] == [10, 20, 30, 40, 50, 60]
    board = [(event.step, event.value) for event in events(tmp_path).Scalars("loss")]
    assert board == [(line["step"], line["loss"]) for line in found]

    go(1, 10, 3.0)  # from the start in the same folder
    assert [(line["step"], line["loss"]) for line in read_log(tmp_path)] == [(10, 3)]
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss")] == [(10, 3)]


def test_a_finished_run_that_is_started_again_keeps_its_log(tmp_path: Path) -> None:
    with Report(tmp_path, 2, 1, "x") as report:
        report.step(2, {"loss": 1.0})
    before = (tmp_path / "log.jsonl").read_bytes()
    with Report(tmp_path, 2, 1, "x"):
        pass
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    with Report(tmp_path, 1, 1, "x") as report:
        report.step(1, {"loss": torch.tensor(math.nan), "norm": math.inf, "fine": 1.0})
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    (line,) = read_log(tmp_path)
    assert (line["loss"], line["norm"], line["fine"]) == (None, None, 1.0)


def test_a_quiet_report_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Report(tmp_path / "run", 1, 1, "x", quiet=True) as report:
        with report.waiting():
            report.step(1, {"loss": 1.0})
        report.preview(1, [tone()])
    assert not (tmp_path / "run").exists()
    assert not caplog.records


def test_a_terminal_gets_one_line_that_moves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from rich.console import Console

    clock, screen = Clock(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    with (
        caplog.at_level(logging.INFO),
        Report(tmp_path, 40, 4, "[vae]", log_every=20, console=console, clock=clock) as report,
    ):
        for step in range(1, 21):
            clock.now += 300
            report.step(step, {"loss": 0.125, "kl": torch.tensor(3.0)})
    shown = screen.getvalue()
    for text in ("[vae] 20/40", "loss 0.125  kl 3", "0.0 samples/s", "data_wait 0%", "1:40:00 left"):
        assert text in shown
    assert not caplog.records


def test_bad_scalars_are_named(tmp_path: Path) -> None:
    with Report(tmp_path, 1, 1, "x") as report:
        with pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
            report.step(1, {"loss": torch.zeros(2)})
        with pytest.raises(ValueError, match="'seconds'"):
            report.step(1, {"seconds": 1.0})
    with pytest.raises(ValueError, match="log_every 0"):
        Report(tmp_path, 1, 1, "x", log_every=0)
