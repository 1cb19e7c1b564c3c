"""Reports read back: the log, TensorBoard's files, the terminal, the previews."""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sounding.audio.files import write_audio
from sounding.audio.mel import MelSpectrogram, normalize
from sounding.config import from_dict
from sounding.images.drawing import mel_picture
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel
from training.engine.report import Preview, PreviewItem, PreviewSound, Report, make_previews


class Clock:
    """Seconds that go forward when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


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
                with report.aside():
                    clock.now += 100
    found = lines(tmp_path)
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


def test_resuming_cuts_what_came_after(tmp_path: Path) -> None:
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
    found = lines(tmp_path)
    assert [(line["step"], line["loss"]) for line in found] == [(10, 1), (20, 1), (30, 2), (40, 2), (50, 2), (60, 2)]
    assert [line["seconds"] for line in found] == [10, 20, 30, 40, 50, 60]
    board = [(event.step, event.value) for event in events(tmp_path).Scalars("loss")]
    assert board == [(line["step"], line["loss"]) for line in found]

    go(1, 10, 3.0)  # from the start in the same folder
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 3)]
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
    (line,) = lines(tmp_path)
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


def test_previews_are_files_and_in_tensorboard(tmp_path: Path) -> None:
    sound, broken = tone(), PreviewSound("nan", torch.full((1600,), math.nan), torch.full((10, 64), math.nan), 16000)
    with Report(tmp_path, 2000, 1, "x") as report:
        report.preview(1000, [sound, broken])
    folder = tmp_path / "previews/step-00001000"
    assert sorted(path.name for path in folder.iterdir()) == ["nan.png", "nan.wav", "tone.png", "tone.wav"]
    samples, rate = soundfile.read(folder / "tone.wav")
    assert rate == 16000
    np.testing.assert_allclose(samples, sound.waveform.numpy(), atol=1 / 32768)
    picture = (mel_picture(sound.mel[None])[0] * 255).round().byte().numpy()
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
    assert [text for text in said if "without TensorBoard" in text] == [said[0]]
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
    assert "goes on without TensorBoard" in caplog.text
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a street.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:20] = 255
    Image.fromarray(mask).save(folder / "dog.png")
    write_audio(folder / "bark.wav", 0.3 * torch.sin(torch.arange(9000) * 0.2), 16000)
    return folder


def test_previews_are_what_the_model_generates(tiny_model: SoundingModel, pictures: Path) -> None:
    street, dog = str(pictures / "a street.png"), str(pictures / "dog.png")
    preview = Preview(
        items=(PreviewItem(street, mask=dog, seed=5), PreviewItem(street, text="a dog!", seed=6), PreviewItem(street)),
        seconds=0.5,
        steps=2,
        cfg=1.5,
    )
    tiny_model.train()
    tiny_model.vae.eval()
    state = torch.random.get_rng_state()
    sounds = make_previews(tiny_model, preview)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tiny_model.training
    assert tiny_model.unet.mid_block.training
    assert not any(module.training for module in tiny_model.vae.modules())
    tiny_model.eval()

    image = read_image(street)
    for sound, expected in zip(
        sounds,
        (
            {"mask": read_mask(dog), "seed": 5},
            {"text": "a dog!", "seed": 6},
            {"mask": torch.ones(1, 60, 80), "seed": 0},
        ),
        strict=True,
    ):
        made = tiny_model.generate(image=image, seconds=0.5, steps=2, cfg=1.5, **expected).waveform  # type: ignore[arg-type]
        assert torch.equal(sound.waveform, made[0, 0])
        assert torch.equal(sound.mel, MelSpectrogram(tiny_model.config.audio)(made[0])[0])
    assert [sound.name for sound in sounds] == ["1-a_street-dog", "2-a_street-a_dog", "3-a_street"]
    assert not torch.equal(sounds[0].waveform, sounds[2].waveform)


def test_recordings_come_back_as_copies(tiny_model: SoundingModel, pictures: Path) -> None:
    preview = Preview(items=(PreviewItem(audio=str(pictures / "bark.wav")),), seconds=0.3)
    recording, rate = soundfile.read(pictures / "bark.wav", dtype="float32")
    given = torch.from_numpy(recording[:4800])[None]

    (whole,) = make_previews(tiny_model, preview)
    mel = tiny_model.decode(tiny_model.encode(given))
    assert torch.equal(whole.waveform, tiny_model.vocode(mel, 0.3)[0, 0])
    assert torch.equal(whole.mel, mel[0, :30])
    assert (whole.name, whole.sample_rate, len(whole.waveform)) == ("1-bark", rate, 4800)

    (vocoded,) = make_previews(tiny_model, preview, vae=False)
    mel = MelSpectrogram(tiny_model.config.audio)(normalize(given))
    assert torch.equal(vocoded.waveform, tiny_model.vocode(mel)[0, 0])
    assert torch.equal(vocoded.mel, mel[0])


def test_preview_settings_come_from_a_recipe_and_are_checked() -> None:
    preview = from_dict(Preview, {"every": 50, "items": [{"image": "a.png", "mask": "m.png"}, {"audio": "a.wav"}]})
    assert preview.items == (PreviewItem("a.png", "m.png"), PreviewItem(audio="a.wav"))
    assert [step for step in range(0, 160, 10) if preview.due(step)] == [0, 50, 100, 150]
    assert not Preview(items=preview.items).due(100)
    with pytest.raises(ValueError, match="one is expected"):
        PreviewItem()
    with pytest.raises(ValueError, match="one is expected"):
        PreviewItem("a.png", audio="a.wav")
    with pytest.raises(ValueError, match="leave one out"):
        PreviewItem("a.png", mask="m.png", text="a dog")
