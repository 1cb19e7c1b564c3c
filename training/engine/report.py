"""What a run says while it runs: a progress line or log lines, log.jsonl, TensorBoard, and previews.

All figures of one log are means over the steps since the last one. Scalars are summed where they lie and read
once a log, so that a GPU never waits for a report.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sounding.audio.files import write_audio
from sounding.images.drawing import mel_picture
from sounding.images.files import write_image
from sounding.utils.files import write_atomic

from .board import Board
from .previews import Preview, PreviewItem, PreviewSound, make_previews

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Preview", "PreviewItem", "PreviewSound", "Report", "cut_log", "make_previews"]

log = logging.getLogger("training")

# What a line of log.jsonl holds besides the scalars given.
OWN = ("step", "samples_per_second", "data_wait", "seconds")


class Report:
    """Says what a run does. Steps are counted as done: the first is 1, the last `steps`.

    with Report(folder, steps=1000, batch=16, name="vae") as report:
        for step in range(first + 1, 1001):
            with report.waiting():
                items = next(loader)
            ...
            report.step(step, {"loss": loss, "grad_norm": norm})

    A run that goes on from a saved state needs no word of it: at the first step reported, what the files in
    `folder` say of that step and later ones is cut off.

    Args:
        folder: gets log.jsonl, tensorboard/ and previews/.
        steps: of the whole run.
        batch: samples a step, over all processes.
        name: what the lines begin with.
        quiet: say and write nothing: for all processes of a distributed run but one.
        log_every: steps between logs; the last step is always logged.
        ratios: scalars that are logged over another one, see `Objective.ratios`.
        console: where a progress line would go; without it standard output.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        batch: int,
        name: str,
        *,
        quiet: bool = False,
        log_every: int = 100,
        ratios: Mapping[str, str] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        if steps < 1 or batch < 1 or log_every < 1:
            raise ValueError(
                f"The report got steps {steps}, batch {batch} and log_every {log_every}, but numbers of 1 or more are "
                "expected; mend the recipe."
            )
        self.folder, self.steps, self.batch, self.name = Path(folder), steps, batch, name
        self.quiet, self.log_every = quiet, log_every
        self._console, self._clock = console, clock
        self._sums = _Means(ratios or {})
        self._board: Board | None = None
        self._silent = False  # whether files of the run were said to be lost
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._closing = ExitStack()
        self._first = 0  # first step reported; 0 before
        self._window_steps = 0
        self._waited = self._aside = 0.0  # seconds of this window
        self._earlier = 0.0  # seconds of the run before it was taken up again
        self._began = self._window_began = 0.0

    def __enter__(self) -> Report:
        self._began = self._window_began = self._clock()
        if not self.quiet:
            self._open_progress()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside counts as waiting for data (`data_wait`, a share of 0..1)."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time inside is not training: previews, evaluation, saving. It is left out of the samples a second."""
        began = self._clock()
        try:
            yield
        finally:
            self._aside += self._clock() - began

    def step(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Report a step that is done. Scalars may lie on any device; they are read only where a log is due.

        Raises:
            ValueError: a scalar has more than one element, or a name that the report uses itself.
        """
        if self.quiet:
            return
        taken = [name for name in OWN if name in scalars]
        if taken:
            raise ValueError(
                f"A scalar is called {taken[0]!r}, but the report's own figures are; give it another name."
            )
        self._begin(step)
        self._sums.add(scalars)
        self._window_steps += 1
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)
        if step % self.log_every == 0 or step == self.steps:
            self._log(step)

    def preview(self, step: int, sounds: Sequence[PreviewSound]) -> None:
        """Write previews/step-00001000/NAME.wav and NAME.png, and both to TensorBoard."""
        if self.quiet or not sounds:
            return
        with self.aside():
            board = self._begin(step + 1)
            folder = self.folder / "previews" / f"step-{step:08d}"
            for sound in sounds:
                # A model gone astray may make NaN; the run shall not stop because of its preview.
                waveform, mel = sound.waveform.detach().nan_to_num(), sound.mel.detach().nan_to_num()
                picture = mel_picture(mel[None])[0]
                with self._losing(folder):
                    write_audio(folder / f"{sound.name}.wav", waveform, sound.sample_rate)
                    write_image(folder / f"{sound.name}.png", picture)
                shown = waveform.float().cpu().clamp(-1, 1)
                board.write(partial(_show, sound=sound, waveform=shown, picture=picture, step=step))
            self._say("%s %d/%d  previews in %s", self.name, step, self.steps, folder)

    def _begin(self, step: int) -> Board:
        """Before the first word about `step`: cut off what the files say of it from a run that broke off."""
        if self._board is None:
            self._first = step
            with self._losing(self.folder / "log.jsonl"):
                self._earlier = cut_log(self.folder / "log.jsonl", step)
            self._board = Board(self.folder / "tensorboard", step)
            self._closing.callback(self._board.close)
        return self._board

    @contextmanager
    def _losing(self, file: Path) -> Iterator[None]:
        """What cannot be written inside is lost, which is said once: figures are not worth the run's end."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # the sound library's own is a RuntimeError
            if not self._silent:
                why = getattr(error, "strerror", None) or error
                log.warning("%s cannot be written (%s), so the run goes on without it.", file, why)
            self._silent = True

    def _log(self, step: int) -> None:
        means = self._sums.take()  # waits for the device, so the clock is read behind it
        now = self._clock()
        seconds = max(now - self._window_began - self._aside, 1e-9)
        rate, wait = self._window_steps * self.batch / seconds, min(1.0, self._waited / seconds)
        total = self._earlier + now - self._began
        left = (self.steps - step) * (now - self._began) / (step - self._first + 1)
        self._window_began, self._window_steps, self._waited, self._aside = now, 0, 0.0, 0.0

        # JSON has no NaN: what is not finite is null.
        figures = {name: value if math.isfinite(value) else None for name, value in means.items()}
        own = (step, round(rate, 3), round(wait, 4), round(total, 3))
        line = dict(zip(OWN, own, strict=True)) | figures
        with self._losing(self.folder / "log.jsonl"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")

        def show(writer: SummaryWriter) -> None:
            for name, value in (means | {"samples_per_second": rate, "data_wait": wait}).items():
                writer.add_scalar(name, value, step)

        self._begin(step).write(show)

        shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        shown += f"  {rate:.1f} samples/s  data_wait {wait:.0%}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, figures=shown, left=_duration(left))
        else:
            log.info("%s %d/%d  %s  %s left", self.name, step, self.steps, shown, _duration(left))

    def _say(self, text: str, *values: object) -> None:
        if self._progress is not None:
            self._progress.console.print(text % values, markup=False, highlight=False)
        else:
            log.info(text, *values)

    def _open_progress(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = self._console or Console()
        if not console.is_terminal:
            return
        columns = (
            TextColumn("{task.description} {task.completed}/{task.total}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}  {task.fields[left]} left", markup=False),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=2)
        self._task = self._progress.add_task(self.name, total=self.steps, figures="", left="?")
        self._closing.enter_context(self._progress)


def _show(writer: SummaryWriter, *, sound: PreviewSound, waveform: Tensor, picture: Tensor, step: int) -> None:
    writer.add_audio(f"previews/{sound.name}", waveform, step, sound.sample_rate)
    writer.add_image(f"previews/{sound.name}", picture, step, dataformats="HWC")


def cut_log(file: Path, step: int) -> float:
    """Cut lines of `step` and later off a log.jsonl, and a last one that a crash left half.

    Returns:
        Seconds that the run had taken at the last line kept.
    """
    if not file.is_file():
        return 0.0
    text = file.read_text(encoding="utf-8")
    kept, seconds = [], 0.0
    for line in text.splitlines():
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:
            continue
        if figures["step"] < step:
            kept.append(line + "\n")
            seconds = figures["seconds"]
    if "".join(kept) != text:
        write_atomic(file, "".join(kept).encode())
    return float(seconds)


class _Means:
    """Running sums of named scalars, each kept where it came from until `take` reads all at once."""

    def __init__(self, ratios: Mapping[str, str]) -> None:
        self.ratios = ratios
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor | float]) -> None:
        for name, value in scalars.items():
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    raise ValueError(
                        f"Scalar {name!r} has shape {tuple(value.shape)}, but one number is expected; give its mean."
                    )
                # Sums are new tensors: what is given may be changed in place by the next step. Where numbers of
                # 64 bits are slow or missing, 32 do.
                wide = torch.float64 if value.device.type == "cpu" else torch.float32
                value = value.detach().reshape(()).to(wide)
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call; a name counts the steps that gave it."""
        tensors = {name: value for name, value in self.sums.items() if isinstance(value, Tensor)}
        read: dict[str, float] = {}
        for device in {value.device for value in tensors.values()}:  # one wait a device
            names = [name for name, value in tensors.items() if value.device == device]
            read |= zip(names, torch.stack([tensors[name] for name in names]).tolist(), strict=True)
        means = {name: read.get(name, value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        figures = {name: float(value) for name, value in means.items()}
        for name, of in self.ratios.items():
            if name in figures and of in figures:
                value = figures.pop(name)
                if figures[of]:
                    figures[name] = value / figures[of]
        return {name: value for name, value in figures.items() if name not in self.ratios.values()}


def _duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
