"""Jobs into sounds: files are read ahead, batches sampled, and results written, all at the same time.

    readers (threads)      images and masks, a few jobs ahead
    grounder               images seen, selections grounded; on a GPU in a thread of its own, a batch ahead
    the calling thread     sampling, decoding, vocoding
    writers (threads)      from the device, loudness, encoding, files
    reporter (thread)      lines of results, in the order of the plan

Between them are bounded queues. On a CPU a job's sound is the one that `SoundingModel.generate` gives it alone, bit for
bit, since rows are sampled one by one there (`batches.one_by_one`); elsewhere it is the same to rounding.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..audio.loudness import level as leveled
from ..images.files import read_image
from ..model import SoundingModel
from ..utils.files import FullDiskError, is_full
from ..utils.messages import printable
from .inputs import Inputs, read_inputs
from .job import Fault, Job
from .outputs import make_outputs
from .planning import Batch, plan, uses
from .queues import OnResult, Reporter, in_thread
from .results import DONE, FAILED, KEPT, Result, Results
from .shared_images import SharedImages
from .synthesis import Grounded, Grounder, Synthesizer, is_memory_error

READERS = WRITERS = 2  # threads
AHEAD = 4  # jobs whose files are read ahead, at most
AHEAD_BYTES = 2**29  # of images and masks that wait; a job that is larger is read alone


class DeviceFailure(RuntimeError):
    """The device failed, as it would for every job that follows."""


def left_to_do(jobs: Iterable[Job | Fault], results: Results, on_result: OnResult) -> list[Job]:
    """The jobs that have no result yet; those that have one, or cannot be done, are reported.

    Args:
        jobs: of this process.
        results: opened.
        on_result: called with the results of earlier runs and with those of lines that cannot be done.

    Raises:
        OSError: results cannot be written.
    """
    todo = []
    for job in jobs:
        earlier = found_result(job, results)
        if earlier is None and isinstance(job, Job):
            todo.append(job)
        elif earlier is not None:
            if earlier["status"] != KEPT:
                results.append(earlier)
            on_result(earlier)
    return todo


def run_jobs(
    model: SoundingModel, jobs: list[Job], results: Results, on_result: OnResult, *, at_once: int | None = None
) -> None:
    """Make the sounds of jobs. One that cannot be done gets a result with the reason, and the others go on.

    Args:
        model: the checkpoint's that the jobs were checked with, with the parts that they need (`inputs.parts_for`).
        jobs: that are left to do.
        results: opened.
        on_result: called with each result, by one thread.
        at_once: rows that are sampled together at most, instead of what fits into the device's memory.

    Raises:
        FullDiskError: no room; what is done is kept.
        DeviceFailure: the device failed.
        OSError: results cannot be written.
    """
    batches = plan(jobs, model.config, model.require("unet").device, at_once)
    Run(model, batches, results, on_result).run()


def found_result(job: Job | Fault, results: Results) -> Result | None:
    """The result that a job has before anything is done: an earlier run's, or that it cannot be done."""
    if isinstance(job, Fault):
        return failed(job.line, job.out, job.error)
    try:
        kept = results.finished(job)
        if kept is not None:
            return kept | {"line": job.line, "status": KEPT}
        recovered = results.recovered(job)
        return None if recovered is None else recovered | {"line": job.line}
    except (ValueError, OSError) as error:
        return failed(job.line, str(job.options.out), _sentence(error), job.digest)


def failed(line: int, out: str | None, error: str, digest: str | None = None) -> Result:
    """The result of a job that could not be done."""
    told = {"out": out, "job": digest, "error": error}
    return {"line": line, "status": FAILED, **{key: value for key, value in told.items() if value is not None}}


def grounds_ahead(device: torch.device) -> bool:
    """Whether the next batch is grounded while one is sampled: a CPU would only be shared among more threads."""
    return device.type != "cpu"


class Run:
    """One process's jobs, on their way."""

    def __init__(self, model: SoundingModel, batches: list[Batch], results: Results, on_result: OnResult):
        self._model, self._batches, self._results = model, batches, results
        self._device = model.require("unet").device
        self._reporter = Reporter(results, on_result)
        self._stop = threading.Event()
        self._images = SharedImages(read_image, AHEAD_BYTES)
        self._grounder = Grounder(model, uses(job for batch in batches for job in batch.jobs))
        self._synthesizer = Synthesizer(model)

    def run(self) -> None:
        """Do all batches, see `run_jobs`."""
        readers = ThreadPoolExecutor(READERS, "sounding-reader")
        self._writers = ThreadPoolExecutor(WRITERS, "sounding-writer")
        grounded = self._grounded(readers)
        if grounds_ahead(self._device):
            grounded = in_thread(grounded, self._stop)
        try:
            for batch, ready in grounded:
                self._sound(batch, ready)
        finally:
            # Also after Ctrl-C: what is sampled is written, nothing else is begun.
            self._stop.set()
            readers.shutdown(wait=False, cancel_futures=True)
            self._writers.shutdown(wait=True)
            self._reporter.close()
        self._reporter.check()

    def _grounded(self, readers: ThreadPoolExecutor) -> Iterator[tuple[Batch, list[Grounded | Fault]]]:
        """Batches whose jobs are read and grounded, or could not be."""
        read = self._read_ahead(readers)
        for batch in self._batches:
            yield batch, [self._ground(job, next(read)) for job in batch.jobs]

    def _ground(self, job: Job, inputs: Future[Inputs]) -> Grounded | Fault:
        try:
            return self._grounder.ground(job, inputs.result())
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            return self._fault(job, error)
        finally:
            self._grounder.leave(job)

    def _read_ahead(self, readers: ThreadPoolExecutor) -> Iterator[Future[Inputs]]:
        """What each job reads, in the order of the plan."""
        jobs = (job for batch in self._batches for job in batch.jobs)
        waiting: deque[Future[Inputs]] = deque()
        while True:
            while len(waiting) < AHEAD and sum(map(_bytes, waiting)) < AHEAD_BYTES:
                job = next(jobs, None)
                if job is None:
                    break
                waiting.append(readers.submit(read_inputs, job.options, self._images.read))
            if not waiting:
                return
            yield waiting.popleft()

    def _sound(self, batch: Batch, ready: list[Grounded | Fault]) -> None:
        """Sample a batch and hand its sounds to the writers; faults keep their places."""
        jobs = [each for each in ready if isinstance(each, Grounded)]
        sounds = iter(self._sampled(batch, jobs))
        for each in ready:
            made = next(sounds) if isinstance(each, Grounded) else each
            if isinstance(made, Fault):
                self._reporter.add(_done(failed(made.line, made.out, made.error, _digest(batch, made))))
            else:
                assert isinstance(each, Grounded)
                self._reporter.add(self._writers.submit(self._write, each, made))

    def _sampled(self, batch: Batch, jobs: list[Grounded]) -> list[Tensor | Fault]:
        """The sounds of jobs; where they cannot be sampled together, one by one."""
        if not jobs:
            return []
        try:
            return list(self._synthesizer.sounds(jobs, batch.sampling, batch.at_once))
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(jobs) == 1:
                return [self._fault(jobs[0].job, error)]
        return [sound for each in jobs for sound in self._sampled(batch, [each])]

    def _fault(self, job: Job, error: BaseException) -> Fault:
        """What is wrong with one job.

        Raises:
            DeviceFailure: it is the device.
        """
        if isinstance(error, RuntimeError) and not is_memory_error(error):
            try:
                torch.zeros(1, device=self._device).sum().item()
            except RuntimeError:
                raise DeviceFailure(
                    f"The device failed ({_sentence(error)[:200]}); what is done is kept, and the same command goes on."
                ) from error
        return Fault(job.line, _sentence(error), str(job.options.out))

    def _write(self, grounded: Grounded, sound: Tensor) -> Result:
        """Bring a job's sounds to files; its result, which is not appended yet.

        Raises:
            FullDiskError: no room.
        """
        job = grounded.job
        try:
            sound, rate = sound.cpu(), self._model.config.audio.sample_rate
            if not sound.isfinite().all():
                raise ValueError("The sound has values that are not finite; take another seed, or fewer settings.")
            if job.options.level:
                fade_out, loop = job.options.fade_out, job.options.loop
                sound = torch.cat([leveled(one[None], rate, fade_out, loop=loop) for one in sound])
            image = None if job.options.attention_map is None else self._images.read(job.options.image)
            outputs = make_outputs(job.options, self._model, grounded.condition, sound, grounded.places, image)
            result: dict[str, Any] = {"line": job.line, "status": DONE, "out": str(job.options.out), "job": job.digest}
            result |= outputs.report
            if outputs.warnings:
                result["warnings"] = outputs.warnings
            files: dict[Path, bytes] = dict(outputs.files())
            return self._results.write(job, result, files)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if is_full(error):
                raise
            return failed(job.line, str(job.options.out), _sentence(error), job.digest)


def _digest(batch: Batch, fault: Fault) -> str | None:
    return next((job.digest for job in batch.jobs if job.line == fault.line), None)


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _bytes(future: Future[Inputs]) -> int:
    return future.result().bytes if future.done() and not future.cancelled() and future.exception() is None else 0


def _sentence(error: BaseException) -> str:
    if isinstance(error, FullDiskError):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return printable(f"{error.filename} cannot be used ({error.strerror}); check the path.", 600)
    return printable(" ".join(str(error).split()), 600) or type(error).__name__
