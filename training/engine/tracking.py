"""Experiment trackers: TensorBoard, wandb and whatever else accelerate knows, none of them worth the run's end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

log = logging.getLogger("training")

PROJECT = "sounding-objects"  # where a tracker sorts runs by projects


def tracker_names(asked: str | Sequence[str]) -> tuple[str, ...]:
    """The trackers meant by "all" (those that are installed), "none", one name or several.

    Raises:
        ValueError: one that accelerate does not know, or that is not installed.
    """
    available = [str(kind) for kind in get_available_trackers()]
    if asked in ("all", "none"):
        return tuple(available) if asked == "all" else ()
    names = tuple(dict.fromkeys([asked] if isinstance(asked, str) else asked))
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(kind for kind in LoggerType.list() if kind != "all")
            raise ValueError(f"loop.trackers has {name!r}, but all, none, or some of {known} are expected.")
        if name not in available:
            raise ValueError(f"loop.trackers has {name!r}, which is not installed; install it, or leave it out.")
    return names


class Trackers:
    """The trackers of one run. One that fails is given up with a warning, and the others and the run go on.

    Args:
        names: of `tracker_names`.
        folder: of the run; TensorBoard's files go into its `tensorboard/`.
        step: what earlier files of TensorBoard hold of it and later steps is hidden; the files are not rewritten.
    """

    def __init__(self, names: Sequence[str], folder: Path, step: int):
        self._excepthook = threading.excepthook
        threading.excepthook = self._except
        self._trackers = {name: _build(name, folder, step) for name in names}
        self._all(lambda tracker: tracker.start())

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Scalars of one step."""
        self._all(lambda tracker: tracker.log(dict(figures), step=step))

    def preview(self, step: int, name: str, waveform: Tensor, sample_rate: int, image: Tensor) -> None:
        """A sound [samples] of -1..1 and its spectrogram [H, W, 3] of 0..1, where a tracker takes such."""
        self._all(partial(_log_preview, name=name, waveform=waveform, sample_rate=sample_rate, image=image, step=step))

    def close(self) -> None:
        """Write what is left."""
        self._all(lambda tracker: tracker.finish())
        self._trackers = {}
        threading.excepthook = self._excepthook

    def _all(self, work: Callable[[GeneralTracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(tracker)
            except Exception as error:  # every service has kinds of its own
                why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
                log.warning("The tracker %s failed (%s), so the run goes on without it.", name, why)
                del self._trackers[name]
                with suppress(Exception):  # the same again
                    tracker.finish()

    def _except(self, failed: threading.ExceptHookArgs) -> None:
        """What ends the thread of TensorBoard's writer comes out of the next `log`; its traceback would look like a
        crash.
        """
        if not (type(failed.thread).__module__.startswith("tensorboard.") and isinstance(failed.exc_value, OSError)):
            self._excepthook(failed)


def _build(name: str, folder: Path, step: int) -> GeneralTracker:
    """A tracker that has not started."""
    kind, settings = LOGGER_TYPE_TO_CLASS[name], dict[str, Any]()
    if name == "tensorboard":
        return kind("tensorboard", folder, purge_step=step)
    if name == "wandb":
        settings = {"name": folder.name, "group": folder.name, "dir": str(folder)}
    return kind(PROJECT, folder, **settings) if kind.requires_logging_directory else kind(PROJECT, **settings)


def _log_preview(
    tracker: GeneralTracker, *, name: str, waveform: Tensor, sample_rate: int, image: Tensor, step: int
) -> None:
    key = f"previews/{name}"
    if tracker.name == "tensorboard":
        writer = tracker.tracker
        writer.add_audio(key, waveform, step, sample_rate)
        writer.add_image(key, image, step, dataformats="HWC")
        writer.flush()
    elif tracker.name == "wandb":
        wandb: Any = import_module("wandb")
        sound = wandb.Audio(waveform.numpy(), sample_rate=sample_rate)
        tracker.log({key: wandb.Image(image.numpy()), f"{key}/sound": sound}, step=step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({key: [image.numpy()]}, step=step)
