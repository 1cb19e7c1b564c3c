"""Generation at full size against diffusers' `AudioLDMPipeline` around the same modules.

    python -m benchmarks.generate --device cpu --dtype float32 --steps 4 --repeats 3
    python -m benchmarks.generate --device cpu --dtype float32 --ours auto --steps 25 --repeats 2

Both sides get the same weights of U-Net, VAE and vocoder (random ones, on which time does not depend), the same noise,
the same condition and DDIM, so they must give the same waveform. The pipeline's modules are the libraries' own, without
what ours compute less. `--ours auto` lets our U-Net choose its precision, as `sounding.load` does. Runs alternate, and
so does their order, so that other load on the machine affects both sides; quote the ratios. Memory on a CPU is the peak
of a separate process per side.
"""

from __future__ import annotations

import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
import typer
from diffusers import AudioLDMPipeline
from torch import Tensor, nn

from benchmarks.models import as_published, build_model
from sounding.grounding import Condition
from sounding.model import SoundingModel
from sounding.networks.codec import part_dtype
from sounding.networks.precision import chosen_dtype
from sounding.samplers import build_sampler

CFG = 2.0
SIDES = ("ours", "theirs")


@dataclass(frozen=True)
class Times:
    """Seconds of one generation."""

    step: float
    decode: float
    vocode: float
    whole: float
    processor: float  # of the whole, over all threads: other processes are not counted


@dataclass(frozen=True)
class Task:
    """The input of both sides."""

    model: SoundingModel  # ours
    theirs: dict[str, Any]  # U-Net, VAE and vocoder
    condition: Condition
    noise: Tensor  # [1, 8, T/4, 16]
    seconds: float
    steps: int


class ClassLabels(nn.Module):
    """Our U-Net behind the interface that the pipeline calls: the condition comes as `class_labels` [B, D]."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        self.config = unet.config
        self.device, self.dtype = unet.device, unet.dtype

    def forward(self, sample: Tensor, timestep: Tensor, *, class_labels: Tensor, **unused: object) -> Any:
        """Noise for [B, 8, T/4, 16]."""
        return self.unet(sample, timestep, encoder_hidden_states=class_labels[:, None])


class NoText(nn.Module):
    """Replaces the text encoder, of which the pipeline reads the dtype; embeddings are passed in."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.dtype, self.device = dtype, device


def now(device: torch.device) -> float:
    """Wall clock, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def build_task(device: str, dtype: torch.dtype, seconds: float, steps: int, ours: str = "", tiny: bool = False) -> Task:
    """A model, and the condition of one object in one image; `ours` is the precision of our U-Net, if another."""
    model = build_model(device, dtype, tiny)
    theirs = {part: as_published(getattr(model, part)) for part in ("unet", "vae", "vocoder")}
    for part in ("vae", "vocoder"):
        if part_dtype(part, dtype) != dtype:
            setattr(model, part, copy.deepcopy(getattr(model, part)).to(part_dtype(part, dtype)))
    kind = chosen_dtype("unet", torch.device(device), ours, large=True) if ours else dtype
    if kind != dtype:
        model.unet = copy.deepcopy(model.unet).to(kind)
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:40, 20:50] = 1
    condition = model.ground(model.see(torch.rand(1, 64, 64, 3, generator=generator)), mask=mask)
    return Task(model, theirs, condition, model.noise(seconds, [2]), seconds, steps)


def build_pipeline(task: Task) -> Any:
    """diffusers' pipeline around the same modules."""
    model, unet = task.model, task.theirs["unet"]
    pipeline: Any = AudioLDMPipeline(
        vae=task.theirs["vae"],
        text_encoder=NoText(unet.dtype, unet.device),  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        unet=ClassLabels(unet),  # type: ignore[arg-type]
        scheduler=build_sampler(model.config.diffusion, "ddim"),
        vocoder=task.theirs["vocoder"],
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_ours(task: Task) -> tuple[Times, Tensor]:
    """sample, decode, vocode."""
    model, device = task.model, task.model.unet.device
    start, processor = now(device), time.process_time()
    latents = model.sample(task.condition, task.noise, steps=task.steps, cfg=CFG, sampler="ddim")
    sampled = now(device)
    mel = model.decode(latents)
    decoded = now(device)
    waveform = model.vocode(mel, task.seconds).cpu()
    end = now(device)
    processor = time.process_time() - processor
    times = Times((sampled - start) / task.steps, decoded - sampled, end - decoded, end - start, processor)
    return times, waveform[:, 0]


def run_theirs(task: Task, pipeline: Any) -> tuple[Times, Tensor]:
    """The pipeline's one call, with the clock read around its own decoding and vocoding."""
    device, dtype = task.theirs["unet"].device, task.theirs["unet"].dtype
    marks: list[float] = []

    def marked(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(value: Tensor) -> Tensor:
            marks.append(now(device))
            return function(value)

        return run

    pipeline.decode_latents = marked(type(pipeline).decode_latents.__get__(pipeline))
    pipeline.mel_spectrogram_to_waveform = marked(type(pipeline).mel_spectrogram_to_waveform.__get__(pipeline))
    start, processor = now(device), time.process_time()
    waveform = pipeline(
        audio_length_in_s=task.seconds,
        num_inference_steps=task.steps,
        guidance_scale=CFG,
        latents=task.noise.to(dtype),
        prompt_embeds=task.condition.tokens[:, 0].to(dtype),
        negative_prompt_embeds=task.model.grounding.null_condition(1)[:, 0].to(dtype),
        output_type="pt",
    ).audios
    end = now(device)
    sampled, decoded = marks
    processor = time.process_time() - processor
    times = Times((sampled - start) / task.steps, decoded - sampled, end - decoded, end - start, processor)
    return times, waveform


def run_once(side: str, task: Task) -> Times:
    """One generation of `side`, in a process that has made none."""
    times, _ = run_ours(task) if side == "ours" else run_theirs(task, build_pipeline(task))
    return times


def peak_in_a_process(side: str, device: str, dtype: str, seconds: float, ours: str = "") -> float:
    """Peak resident memory in GiB of a process that runs `side` alone."""
    command = [sys.executable, "-m", "benchmarks.generate", "--device", device, "--dtype", dtype]
    command += ["--seconds", str(seconds), "--only", side, "--ours", ours]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 4,
    repeats: Annotated[int, typer.Option(help="Runs of each side; their median counts.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 10.24,
    ours: Annotated[str, typer.Option(help="Precision of our U-Net if another: auto, fp32, fp16 or bf16.")] = "",
    only: Annotated[str, typer.Option(help="Run one side for two steps and print its peak memory.")] = "",
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model, to see that the command works.")] = False,
) -> None:
    """Time both sides in turn and print a table in Markdown."""
    if only:
        run_once(only, build_task(device, getattr(torch, dtype), seconds, 2, ours, tiny))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    task = build_task(device, getattr(torch, dtype), seconds, steps, ours, tiny)
    pipeline = build_pipeline(task)
    runs: dict[str, Callable[[], tuple[Times, Tensor]]] = {
        "ours": lambda: run_ours(task),
        "theirs": lambda: run_theirs(task, pipeline),
    }
    times: dict[str, list[Times]] = {side: [] for side in SIDES}
    waveforms: dict[str, Tensor] = {}
    memory: dict[str, float] = {}
    for repeat in range(repeats + 1):  # the first one warms up
        for side in SIDES if repeat % 2 else reversed(SIDES):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            measured, waveforms[side] = runs[side]()
            if device == "cuda":
                memory[side] = torch.cuda.max_memory_allocated() / 2**30
            if repeat:
                times[side].append(measured)
            print(f"{repeat or 'warm-up'} {side}: {measured.whole:.2f} s", file=sys.stderr)
    if device == "cpu" and not tiny:
        memory = {side: peak_in_a_process(side, device, dtype, seconds, ours) for side in SIDES}

    kinds = f"{dtype} (our U-Net: {ours})" if ours else dtype
    print(f"{seconds} s of sound, {steps} DDIM steps, guidance {CFG}, {kinds} on {device}, torch {torch.__version__}")
    print(f"\n| median of {repeats} | ours | AudioLDMPipeline | ours / theirs |\n| --- | --- | --- | --- |")
    medians = {
        side: {f.name: statistics.median(getattr(t, f.name) for t in times[side]) for f in fields(Times)}
        for side in SIDES
    }
    for name, label in (
        ("step", "seconds per step"),
        ("decode", "decode, seconds"),
        ("vocode", "vocode, seconds"),
        ("whole", "whole, seconds"),
        ("processor", "whole, processor seconds"),
    ):
        mine, theirs = (medians[side][name] for side in SIDES)
        print(f"| {label} | {mine:.3f} | {theirs:.3f} | {mine / theirs:.2f} |")
    if memory:
        mine, theirs = (memory[side] for side in SIDES)
        print(f"| peak memory, GiB | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")
    whole = medians["ours"]["whole"]
    shares = [medians["ours"]["step"] * steps, medians["ours"]["decode"], medians["ours"]["vocode"]]
    print(
        "\nShare of our time: "
        + ", ".join(
            f"{name} {share / whole:.0%}" for name, share in zip(("U-Net", "VAE", "vocoder"), shares, strict=True)
        )
    )
    difference = (waveforms["ours"] - waveforms["theirs"]).abs().max()
    print(f"Waveforms differ by {difference:.1e} at most; the loudest sample is {waveforms['ours'].abs().max():.2f}")


if __name__ == "__main__":
    typer.run(main)
