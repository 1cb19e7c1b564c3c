"""Generation at full size against diffusers' `AudioLDMPipeline` around the same modules.

    python -m benchmarks.generate --device cpu --dtype float32 --steps 4 --repeats 3

Both sides get the same U-Net, VAE and vocoder (with random weights, on which time does not depend), the same noise, the
same condition and DDIM, so they must give the same waveform. Runs alternate, and so does their order, so that other
load on the machine affects both sides; quote the ratios. Memory on a CPU is the peak of a separate process per side.
"""

from __future__ import annotations

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

from sounding.config import SoundingConfig
from sounding.grounding import Condition
from sounding.model import SoundingModel
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

    model: SoundingModel
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


def build_model(device: str, dtype: torch.dtype) -> SoundingModel:
    """The paper's size with random weights."""
    torch.manual_seed(0)
    model = SoundingModel(SoundingConfig()).requires_grad_(False)
    for weight in model.vocoder.parameters():
        if weight.ndim == 3:  # HiFi-GAN's initialisation is so small that the waveforms could not differ
            nn.init.xavier_normal_(weight, gain=1.3)
    return model.to(device=device, dtype=dtype)


def build_task(device: str, dtype: torch.dtype, seconds: float, steps: int) -> Task:
    """A model, and the condition of one object in one image."""
    model = build_model(device, dtype)
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:40, 20:50] = 1
    condition = model.ground(model.see(torch.rand(1, 64, 64, 3, generator=generator)), mask=mask)
    return Task(model, condition, model.noise(seconds, [2]), seconds, steps)


def build_pipeline(task: Task) -> Any:
    """diffusers' pipeline around the same modules."""
    model = task.model
    pipeline: Any = AudioLDMPipeline(
        vae=model.vae,
        text_encoder=NoText(model.unet.dtype, model.unet.device),  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        unet=ClassLabels(model.unet),  # type: ignore[arg-type]
        scheduler=build_sampler(model.config.diffusion, "ddim"),
        vocoder=model.vocoder,
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
    device, dtype = task.model.unet.device, task.model.unet.dtype
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
        prompt_embeds=task.condition.tokens[:, 0],
        negative_prompt_embeds=task.model.grounding.null_condition(1)[:, 0],
        output_type="pt",
    ).audios
    end = now(device)
    sampled, decoded = marks
    processor = time.process_time() - processor
    times = Times((sampled - start) / task.steps, decoded - sampled, end - decoded, end - start, processor)
    return times, waveform


def peak_in_a_process(side: str, device: str, dtype: str, seconds: float) -> float:
    """Peak resident memory in GiB of a process that runs `side` alone."""
    command = [sys.executable, "-m", "benchmarks.generate", "--device", device, "--dtype", dtype]
    command += ["--seconds", str(seconds), "--only", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 4,
    repeats: Annotated[int, typer.Option(help="Runs of each side; their median counts.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 10.24,
    only: Annotated[str, typer.Option(help="Run one side for two steps and print its peak memory.")] = "",
) -> None:
    """Time both sides in turn and print a table in Markdown."""
    if only:
        task = build_task(device, getattr(torch, dtype), seconds, 2)
        _ = run_ours(task) if only == "ours" else run_theirs(task, build_pipeline(task))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    task = build_task(device, getattr(torch, dtype), seconds, steps)
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
    if device == "cpu":
        memory = {side: peak_in_a_process(side, device, dtype, seconds) for side in SIDES}

    print(f"{seconds} s of sound, {steps} DDIM steps, guidance {CFG}, {dtype} on {device}, torch {torch.__version__}")
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
        ours, theirs = (medians[side][name] for side in SIDES)
        print(f"| {label} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} |")
    if memory:
        ours, theirs = (memory[side] for side in SIDES)
        print(f"| peak memory, GiB | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    ours = medians["ours"]["whole"]
    shares = [medians["ours"]["step"] * steps, medians["ours"]["decode"], medians["ours"]["vocode"]]
    print(
        "\nShare of our time: "
        + ", ".join(
            f"{name} {share / ours:.0%}" for name, share in zip(("U-Net", "VAE", "vocoder"), shares, strict=True)
        )
    )
    difference = (waveforms["ours"] - waveforms["theirs"]).abs().max()
    print(f"Waveforms differ by {difference:.1e} at most; the loudest sample is {waveforms['ours'].abs().max():.2f}")


if __name__ == "__main__":
    typer.run(main)
