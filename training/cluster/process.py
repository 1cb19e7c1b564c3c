"""What a worker's process may use: as many threads as its stage has CPUs, and GPUs where its stage asks for some."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from .stage import Stage, StopRun

_stage: Stage | None = None  # that this process works for; none in processes that no engine has limited


def limit_process(stage: Stage, cpus: float, folder: str) -> None:
    """Keep this process to what a stage declares, in the first process's folder. Called before anything is loaded.

    Ray counts CPUs and GPUs, but holds nobody to them: torch would take a thread per core in each of its workers, and
    "auto" the first GPU of the machine, whoever has it.

    Args:
        stage: of this worker.
        cpus: that the worker was given, which may be fewer than the stage asks for.
        folder: in which the first process works, so that relative paths mean the same files.
    """
    with suppress(OSError):  # not on this machine, which is right if all paths are absolute
        os.chdir(folder)
    global _stage
    _stage = stage
    threads = max(1, int(cpus))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported
        os.environ[variable] = str(threads)
    if not stage.resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first used; torch for AMD's GPUs reads it, too
    if "torch" in sys.modules:  # by the import of the stage's module
        import torch

        torch.set_num_threads(threads)


def device_for(asked: str) -> str:
    """Where a stage computes. "auto" takes CUDA where the process sees some, then Apple's MPS, then the CPU.

    In a worker's process CUDA is what the stage declares: with GPUs, "auto" is CUDA and nothing else.

    Raises:
        StopRun: the device is not what the stage declares.
    """
    import torch

    from sounding.utils.devices import device_of

    if _stage is not None:
        gpus, setting = _stage.resources.gpus, _stage.gpus_setting
        if gpus and asked in ("auto", "cuda"):
            if not torch.cuda.is_available():
                raise StopRun(
                    f"{_stage.name} was given {gpus:g} GPUs, but torch finds none there; install torch with CUDA on "
                    f"all machines, or set {setting} to 0."
                )
            return "cuda"
        if asked.startswith("cuda") and not gpus:
            raise StopRun(
                f"{_stage.name} is to compute on {asked}, but its workers have no GPU; set {setting} to what one "
                "worker takes, such as 1 or 0.5."
            )
    return str(device_of(asked))


def failure_of_device(error: BaseException, name: str, lower: str = "") -> StopRun | None:
    """What to say where the device fails, as it will for every row; None for other errors.

    Args:
        error: that a stage raised.
        name: of the stage.
        lower: the setting that takes less of the GPU's memory where it is lower, if there is one.
    """
    kind, said = type(error).__name__, str(error)
    # The first is torch's class; the others come as a RuntimeError.
    if kind == "OutOfMemoryError" or "CUBLAS_STATUS_ALLOC_FAILED" in said or "MPS backend out of memory" in said:
        remedies = [f"set {lower} lower"] if lower else []
        if _stage is not None and 0 < _stage.resources.gpus < 1:
            remedies.append(f"set {_stage.gpus_setting} higher, so that fewer workers share one GPU")
        remedies = remedies or ["use a GPU with more memory, or the CPU"]
        return StopRun(f"{name} ran out of the GPU's memory; {', or '.join(remedies)}; the same command then goes on.")
    if kind == "AcceleratorError":
        return StopRun(
            f"{name}: the GPU failed ({' '.join(said.split())[:200]}); what is done is kept, and the same command goes "
            "on."
        )
    return None
