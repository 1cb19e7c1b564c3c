"""Trackers: what TensorBoard and others get of a run, and runs whose trackers fail."""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image

from sounding.images.drawing import mel_image
from sounding.utils.fields import from_dict
from training.engine import tracking
from training.engine.environment import build_accelerator
from training.engine.previews import PreviewSound
from training.engine.report import Report
from training.engine.settings import LoopConfig
from training.engine.tracking import Trackers, tracker_names


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "audio": 0}).Reload()


def tone(name: str = "tone") -> PreviewSound:
    waveform = 0.4 * torch.sin(torch.arange(3200) * 0.1)
    return PreviewSound(name, waveform, torch.linspace(-11, 2, 20 * 64).reshape(20, 64), 16000)


def test_previews_are_files_and_in_tensorboard(tmp_path: Path) -> None:
    sound, broken = tone(), PreviewSound("nan", torch.full((1600,), math.nan), torch.full((10, 64), math.nan), 16000)
    with Report(tmp_path, 2000, 1, "x") as report:
        report.preview(1000, [sound, broken])
    folder = tmp_path / "previews/step-00001000"
    assert sorted(path.name for path in folder.iterdir()) == ["nan.png", "nan.wav", "tone.png", "tone.wav"]
    samples, rate = soundfile.read(folder / "tone.wav")
    assert rate == 16000
    np.testing.assert_allclose(samples, sound.waveform.numpy(), atol=1 / 32768)
    picture = (mel_image(sound.mel[None])[0] * 255).round().byte().numpy()
    assert np.array_equal(np.asarray(Image.open(folder / "tone.png")), picture)

    board = events(tmp_path)
    (audio,) = board.Audio("previews/tone")
    (image,) = board.Images("previews/tone")
    assert (audio.step, image.step) == (1000, 1000)
    heard, rate = soundfile.read(io.BytesIO(audio.encoded_audio_string))
    assert rate == 16000
    np.testing.assert_allclose(heard, sound.waveform.numpy(), atol=2 / 32768)
    seen = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))
    assert np.abs(seen.astype(int) - picture).max() <= 1


def test_a_full_disk_costs_figures_and_not_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of TensorBoard's own thread, and of the log."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hook = threading.excepthook
    with caplog.at_level(logging.WARNING), Report(tmp_path, 6, 1, "x", log_every=1) as report:
        report.step(1, {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(RecordWriter, "write", full)
            for step in (2, 3, 4):
                report.step(step, {"loss": 1.0})
        (tmp_path / "log.jsonl").rename(tmp_path / "kept.jsonl")
        (tmp_path / "log.jsonl").mkdir()  # what cannot be written, whoever runs this
        report.step(5, {"loss": 1.0})
        report.step(6, {"loss": 1.0})
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "tensorboard failed" in text] == [said[0]]
    assert "No space left on device" in said[0]
    assert len(said) == 2
    assert "log.jsonl cannot be written" in said[1]
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 4
    assert threading.excepthook is hook
    assert "Traceback" not in capsys.readouterr().err


def test_a_board_that_cannot_begin_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING), Report(tmp_path, 1, 1, "x") as report:
        report.step(1, {"loss": 1.0})
    assert "tensorboard failed" in caplog.text
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == 1


class Fake(GeneralTracker):
    """A tracker of another service; fails where it is told to."""

    name = "fake"
    requires_logging_directory = False
    failing = ""

    def __init__(self, project: str):
        super().__init__()
        self.project, self.calls = project, list[tuple[str, Any]]()
        made.append(self)

    @property
    def tracker(self) -> Any:
        return self

    def _do(self, what: str, value: Any = None) -> None:
        if what == self.failing:
            raise ConnectionError("the service\nis away")
        self.calls.append((what, value))

    def start(self) -> None:
        self._do("start")

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._do("log", (step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._do("log_images", (step, sorted(values)))

    def finish(self) -> None:
        self._do("finish")


made: list[Fake] = []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    made.clear()
    return made


def test_any_tracker_of_accelerate_gets_figures_and_images(tmp_path: Path, fake: list[Fake]) -> None:
    with Report(tmp_path, 4, 1, "x", log_every=2, trackers=("fake",)) as report:
        for step in range(1, 5):
            report.step(step, {"loss": float(step)})
        report.event(4, {"val_loss": 0.25}, "validation loss 0.25")
        report.preview(4, [tone()])
    (one,) = fake
    assert one.project == "sounding-objects"
    assert [what for what, _ in one.calls] == ["start", "log", "log", "log", "log_images", "finish"]
    logged = [value for what, value in one.calls if what == "log"]
    assert [(step, values.get("loss")) for step, values in logged] == [(2, 1.5), (4, 3.5), (4, None)]
    assert logged[-1] == (4, {"val_loss": 0.25})
    assert ("log_images", (4, ["previews/tone"])) in one.calls
    assert not (tmp_path / "tensorboard").exists()
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == {"step": 4, "val_loss": 0.25}


@pytest.mark.parametrize("failing", ["start", "log", "log_images", "finish"])
def test_a_tracker_that_fails_is_given_up_and_the_others_go_on(
    tmp_path: Path, fake: list[Fake], failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Fake, "failing", failing)
    with (
        caplog.at_level(logging.WARNING),
        Report(tmp_path, 3, 1, "x", log_every=1, trackers=("fake", "tensorboard")) as report,
    ):
        for step in range(1, 4):
            report.step(step, {"loss": float(step)})
            report.preview(step, [tone()])
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The tracker fake failed (the service is away), so the run goes on without it."]
    assert [event.value for event in events(tmp_path).Scalars("loss")] == [1, 2, 3]


def test_wandb_gets_figures_sounds_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's own tracker, over a stand-in for the package, which needs an account."""
    logged: list[tuple[int, dict[str, Any]]] = []
    settings: dict[str, Any] = {}

    def init(**given: Any) -> Any:
        settings.update(given)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    def audio(data: np.ndarray, sample_rate: int) -> tuple[Any, ...]:
        return "audio", data.shape, sample_rate

    stand_in = SimpleNamespace(init=init, Audio=audio, Image=lambda data: ("image", data.shape))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    run = tmp_path / "run"
    trackers = Trackers(["wandb"], run, 1)
    trackers.log(1, {"loss": 2.0})
    trackers.preview(1, "tone", tone().waveform, 16000, torch.zeros(64, 20, 3))
    trackers.close()
    assert (settings["project"], settings["name"], settings["dir"]) == (
        "sounding-objects",
        "run",
        str(tmp_path / "run"),
    )
    preview = {"previews/tone": ("image", (64, 20, 3)), "previews/tone/sound": ("audio", (3200,), 16000)}
    assert logged == [(1, {"loss": 2.0}), (1, preview)]


def test_trackers_are_named_and_have_to_be_installed() -> None:
    assert tracker_names("tensorboard") == tracker_names(("tensorboard", "tensorboard")) == ("tensorboard",)
    assert "tensorboard" in tracker_names("all")
    assert tracker_names("none") == tracker_names(()) == ()
    with pytest.raises(ValueError, match=r"'chalk', but all, none, or some of .*wandb.* are expected"):
        tracker_names(("tensorboard", "chalk"))
    missing = next(name for name in ("aim", "clearml", "dvclive", "swanlab") if name not in tracker_names("all"))
    with pytest.raises(ValueError, match=f"'{missing}', which is not installed"):
        build_accelerator(LoopConfig(batch=1, lr=1.0, trackers=(missing,)))
    assert from_dict(LoopConfig, {"batch": 1, "lr": 1.0, "trackers": ["wandb"]}).trackers == ("wandb",)
