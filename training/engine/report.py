"""What a run reports while it runs: progress, log.jsonl, trackers, and previews.

All figures of one log are means over the steps since the last one. Scalars are summed where they lie and read
once per log, so that a GPU never waits for a report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

from sounding.audio.files import write_audio
from sounding.images.drawing import mel_image
from sounding.images.files import write_image

from .figures import Means, append_line, cut_log
from .previews import PreviewSound
from .progress import ProgressLine
from .tracking import Trackers

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("training")

# What a line of log.jsonl holds besides the scalars given.
OWN = ("step", "samples_per_second", "data_wait", "seconds")


class Report:
    """Reports on a run. Steps are counted as done: the first is 1, the last `steps`.

    with Report(folder, steps=1000, batch=16, name="vae") as report:
        for step in range(first + 1, 1001):
            with report.waiting():
                items = next(loader)
            ...
            report.step(step, {"loss": loss, "grad_norm": norm})

    Nobody need tell it that a run goes on from a saved state: at the first step reported, what the files in
    `folder` hold of that step and later ones is cut off.

    Args:
        folder: gets log.jsonl, previews/, and tensorboard/ where that tracker is asked for.
        steps: of the whole run.
        batch: samples per step, over all processes.
        name: what the lines begin with.
        quiet: show and write nothing: for all processes of a distributed run but one.
        log_every: steps between logs; the last step is always logged.
        ratios: scalars that are logged over another one, see `Objective.ratios`.
        trackers: names of experiment trackers, see `tracker_names`.
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
        trackers: Sequence[str] = ("tensorboard",),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        if steps < 1 or batch < 1 or log_every < 1:
            raise ValueError(
                f"The report got steps {steps}, batch {batch} and log_every {log_every}, but numbers of 1 or more are "
                "expected; mend the recipe."
            )
        self.folder, self.steps, self.batch = Path(folder), steps, batch
        self.quiet, self.log_every, self.names = quiet, log_every, tuple(trackers)
        self._clock, self._progress = clock, ProgressLine(name, steps, console)
        self._means = Means(ratios or {})
        self._trackers: Trackers | None = None
        self._warned = False  # that files of the run are lost
        self._closing = ExitStack()
        self._first = 0  # first step reported; 0 before
        self._window_steps = 0
        self._waited = self._paused = 0.0  # seconds since the last log
        self._earlier = 0.0  # seconds of the run before it was taken up again
        self._began = self._window_began = 0.0

    def __enter__(self) -> Report:
        self._began = self._window_began = self._clock()
        if not self.quiet:
            self._closing.enter_context(self._progress)
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
    def paused(self) -> Iterator[None]:
        """Time inside is not training: previews, validation, saving. It is left out of the samples per second."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

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
        self._means.add(scalars)
        self._window_steps += 1
        self._progress.advance(step)
        if step % self.log_every == 0 or step == self.steps:
            self._log(step)

    def event(self, step: int, figures: Mapping[str, float], text: str) -> None:
        """Report figures of their own time, such as a validation loss: a line of log.jsonl, trackers, and `text`."""
        if self.quiet:
            return
        trackers = self._begin(step)
        with self._or_lost(self.folder / "log.jsonl"):
            append_line(self.folder / "log.jsonl", {"step": step, **figures})
        trackers.log(step, figures)
        self._progress.say(step, text)

    def preview(self, step: int, sounds: Sequence[PreviewSound]) -> None:
        """Write previews/step-00001000/NAME.wav and NAME.png, and give both to the trackers."""
        if self.quiet or not sounds:
            return
        with self.paused():
            trackers = self._begin(step + 1)
            folder = self.folder / "previews" / f"step-{step:08d}"
            for sound in sounds:
                # A model gone astray may make NaN; the run must not stop because of its preview.
                waveform, mel = sound.waveform.detach().nan_to_num(), sound.mel.detach().nan_to_num()
                image = mel_image(mel[None])[0]
                with self._or_lost(folder):
                    write_audio(folder / f"{sound.name}.wav", waveform, sound.sample_rate)
                    write_image(folder / f"{sound.name}.png", image)
                trackers.preview(step, sound.name, waveform.float().cpu().clamp(-1, 1), sound.sample_rate, image)
            self._progress.say(step, f"previews in {folder}")

    def _begin(self, step: int) -> Trackers:
        """Before the first report on `step`: cut off what the files hold of it from a run that broke off."""
        if self._trackers is None:
            self._first = step
            with self._or_lost(self.folder / "log.jsonl"):
                self._earlier = cut_log(self.folder / "log.jsonl", step)
            self._trackers = Trackers(self.names, self.folder, step)
            self._closing.callback(self._trackers.close)
        return self._trackers

    @contextmanager
    def _or_lost(self, file: Path) -> Iterator[None]:
        """What cannot be written inside is lost, with one warning: figures are not worth the run's end."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # the sound library's own is a RuntimeError
            if not self._warned:
                why = getattr(error, "strerror", None) or error
                log.warning("%s cannot be written (%s), so the run goes on without it.", file, why)
            self._warned = True

    def _log(self, step: int) -> None:
        means = self._means.take()  # waits for the device, so the clock is read behind it
        now = self._clock()
        seconds = max(now - self._window_began - self._paused, 1e-9)
        rate, wait = self._window_steps * self.batch / seconds, min(1.0, self._waited / seconds)
        total = self._earlier + now - self._began
        left = (self.steps - step) * (now - self._began) / (step - self._first + 1)
        self._window_began, self._window_steps, self._waited, self._paused = now, 0, 0.0, 0.0

        own = (step, round(rate, 3), round(wait, 4), round(total, 3))
        with self._or_lost(self.folder / "log.jsonl"):
            append_line(self.folder / "log.jsonl", dict(zip(OWN, own, strict=True)) | means)
        self._begin(step).log(step, means | {"samples_per_second": rate, "data_wait": wait})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        self._progress.show(step, f"{shown}  {rate:.1f} samples/s  data_wait {wait:.0%}", left)
