"""Every figure that needs a GPU, one row after the other, each in a process of its own and within a time limit.

    bash benchmarks/gpu.sh

Rows are forked from a process that has imported the libraries, but has not touched the device. What a row prints goes
to `results.md` as it is printed; a row that fails, or is not done in time, is named there, and the next one runs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import generate, growth, many, memory
from sounding.config import (
    GroundingConfig,
    PatchConfig,
    QueryConfig,
    SoundingConfig,
    UnetConfig,
    VaeConfig,
    VocoderConfig,
)
from sounding.model import SoundingModel


@dataclass(frozen=True)
class Row:
    """A figure: what prints it, and the seconds it may take on a GPU."""

    name: str
    run: Callable[[], object]
    limit: float


def networks(tiny: bool, device: str, dtype: torch.dtype) -> SoundingModel:
    """U-Net, VAE and vocoder with random weights of the paper's size."""
    model = generate.build_model(device, dtype) if not tiny else SoundingModel(small()).requires_grad_(False)
    return model.to(device=device, dtype=dtype)


def small() -> SoundingConfig:
    """A model of a few thousand weights, for a run that shows that the rows work."""
    return SoundingConfig(
        name="tiny",
        vae=VaeConfig(channels=(8, 8, 8), layers=1, norm_groups=4),
        unet=UnetConfig(channels=(16, 32), layers=1, head_width=16, norm_groups=8),
        vocoder=VocoderConfig(initial_channels=32, kernels=(3,), dilations=(1,)),
        patches=PatchConfig(
            tower="timm", model="test_efficientnet", width=16, grid=5, image_size=160, quick_gelu=False
        ),
        query=QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=4, context_length=16, tokenizer=""),
        grounding=GroundingConfig(key_width=16, mlp_width=16, condition_width=16),
    )


def speed_of_codec(device: str, tiny: bool) -> None:
    """VAE and vocoder as they are, compiled (a trial: nowhere tested), and with TF32 off and on."""
    model = networks(tiny, device, torch.float16 if device == "cuda" else torch.float32)
    latents = torch.randn(1, 8, 16 if tiny else 256, 16, device=device)
    place = torch.device(device)

    def timed(name: str, repeats: int = 3) -> None:
        start = generate.now(place)
        model.vocode(model.decode(latents))
        first = generate.now(place) - start
        start = generate.now(place)
        for _ in range(repeats):
            model.vocode(model.decode(latents))
        print(f"| {name} | {first:.3f} | {(generate.now(place) - start) / repeats:.4f} |", flush=True)

    print("| decode and vocode | first call, seconds | later ones, seconds |\n| --- | --- | --- |")
    timed("eager")
    if device == "cuda":
        model.vae.decoder = torch.compile(model.vae.decoder)
        model.vocoder.forward = torch.compile(model.vocoder.forward)  # type: ignore[method-assign]
        timed("torch.compile (trial)")


def share_of_peak(device: str, tiny: bool) -> None:
    """The roofline: operations of a generation, over the speed of matrix products, against the time it takes."""
    from torch.utils.flop_counter import FlopCounterMode

    from training.engine.estimate import measure_speed

    place, steps = torch.device(device), 1 if tiny else 25
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = networks(tiny, device, dtype)
    seconds, width = (0.64 if tiny else 10.24), model.config.grounding.condition_width
    noise, tokens = model.noise(seconds, [0]).to(place), torch.randn(2, 1, width, device=place, dtype=dtype)
    pair = torch.cat([noise, noise]).to(dtype)
    run = partial(model.unet, pair, torch.tensor(500, device=place), encoder_hidden_states=tokens)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            run()
        start = generate.now(place)
        for _ in range(steps):
            run()
        spent = (generate.now(place) - start) / steps
    speed, work = measure_speed(place, dtype), counter.get_total_flops()
    print(f"A guided pair is {work / 1e9:.1f} GFLOP, matrix products run at {speed / 1e12:.2f} TFLOP/s: at least")
    print(f"{work / speed * 1e3:.2f} ms. It takes {spent * 1e3:.2f} ms, {work / speed / spent:.0%} of that speed.")


def against_diffusers(device: str, tiny: bool) -> None:
    """Steady state and first calls beside `AudioLDMPipeline`."""
    if tiny:
        generate.build_model = partial(networks, True)  # type: ignore[assignment]
    dtype = "bfloat16" if device == "cuda" else "float32"
    task = generate.build_task(device, getattr(torch, dtype), 0.64 if tiny else 10.24, 1 if tiny else 25)
    pipeline = generate.build_pipeline(task)
    sides = {"ours": partial(generate.run_ours, task), "theirs": partial(generate.run_theirs, task, pipeline)}
    print("| 25 steps, 10.24 s, bf16 | ours | AudioLDMPipeline |\n| --- | --- | --- |")
    times: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(2 if tiny else 6):
        for side in sides if repeat % 2 else reversed(sides):
            times[side].append(sides[side]()[0].whole)
        print(f"| run {repeat} | {times['ours'][-1]:.3f} | {times['theirs'][-1]:.3f} |", flush=True)
    print("\nThe pipeline makes its first call before ours; for first calls of fresh processes, see the next row.")


def first_calls(device: str, tiny: bool) -> None:
    """The first call of each side in a process of its own."""
    if tiny:
        print("left out: two more processes")
        return
    dtype = "bfloat16" if device == "cuda" else "float32"
    for side in generate.SIDES:
        print(f"{side}: {generate.first_in_a_process(side, device, dtype, 10.24):.2f} s", flush=True)


def training(device: str, tiny: bool) -> None:
    """A step beside the plain loop."""
    if tiny:
        print("left out: full size only")
        return
    from benchmarks import training as steps

    steps.main(device=device, batch=32, repeats=3, amp=False, compiled=False)
    steps.main(device=device, batch=32, repeats=3, amp=True, compiled=True)


def finetuning(device: str, tiny: bool, out: Path) -> None:
    """The command of docs/finetune.md."""
    if tiny:
        print("left out: minutes on a CPU")
        return
    import subprocess

    start = time.perf_counter()
    command = [sys.executable, "-m", "training", "finetune", "--data", "examples/own-sounds", "--from", "starter"]
    subprocess.run([*command, "--out", str(out / "finetuned.safetensors")], check=True, stdout=subprocess.DEVNULL)
    print(f"fine-tuned in {time.perf_counter() - start:.1f} s; the aim is 60")


def rows(device: str, tiny: bool, out: Path) -> list[Row]:
    """All rows; those that matter most come first."""
    few = 1 if tiny else None
    plot = out / "growth.svg"
    return [
        Row("Full size against diffusers", partial(against_diffusers, device, tiny), 45),
        Row("First calls in processes of their own", partial(first_calls, device, tiny), 45),
        Row("Roofline", partial(share_of_peak, device, tiny), 20),
        Row("VAE and vocoder", partial(speed_of_codec, device, tiny), 45),
        Row(
            "Objects of one image",
            partial(
                growth.main,
                device=device,
                items="1",
                seconds="0.5" if tiny else "5",
                objects="1,4",
                steps=few,
                repeats=1 if tiny else 3,
                model="starter",
                out=plot,
            ),
            20,
        ),
        Row("Memory", partial(memory_of, device, tiny), 20),
        Row(
            "Many sounds",
            partial(
                many.main,
                device=device,
                jobs=2 if tiny else 512,
                seconds=0.5 if tiny else 5.0,
                steps=few,
                repeats=1,
                at_once=None,
                model="starter",
            ),
            60,
        ),
        Row("Training steps", partial(training, device, tiny), 40),
        Row("Fine-tuning", partial(finetuning, device, tiny, out), 65),
    ]


def memory_of(device: str, tiny: bool) -> None:
    """`benchmarks.memory`."""
    if tiny:
        memory.SoundingModel = lambda config: SoundingModel(small())  # type: ignore[misc,assignment]
    memory.main(device=device, dtype="bfloat16", seconds=0.64 if tiny else 10.24, batches="1" if tiny else "1,4")


def child(row: Row, results: Path) -> None:
    """Run a row with its output in the file; a failure is told there, too."""
    with results.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        sys.stdout = file
        try:
            row.run()
        except BaseException:
            print("FAILED: " + traceback.format_exc(limit=-2).replace("\n", "\n    "))
            raise SystemExit(1) from None


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny networks: shows that the rows work.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks/out"),
    only: Annotated[str, typer.Option(help="Rows whose names begin so.")] = "",
) -> None:
    """Run the rows; exit with 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    results, began, failed = out / "results.md", time.monotonic(), 0
    results.write_text(f"# {'Tiny networks' if tiny else 'Full size'} on {device}, torch {torch.__version__}\n")
    for row in rows(device, tiny, out):
        if not row.name.startswith(only):
            continue
        with results.open("a") as file:
            file.write(f"\n## {row.name}\n\n")
        process: Any = multiprocessing.get_context("fork").Process(target=child, args=(row, results))
        start = time.monotonic()
        process.start()
        process.join(None if device == "cpu" else row.limit)
        if process.is_alive():
            process.kill()
            process.join()
        ended = "" if process.exitcode == 0 else f", FAILED ({process.exitcode}; {row.limit:g} s at most)"
        failed += process.exitcode != 0
        with results.open("a") as file:
            file.write(f"\n({time.monotonic() - start:.1f} s{ended})\n")
        print(f"{time.monotonic() - began:.0f} s: {row.name}{ended}", file=sys.stderr, flush=True)
    print(results.read_text())
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
