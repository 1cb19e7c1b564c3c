"""A training step of grounding and U-Net at full size, against a plain loop.

    python -m benchmarks.training --device cpu --batch 1 --repeats 3

Ours: stored features, bfloat16 where that is fast, this package's step. The plain loop: images, sentences and waveforms
go through frozen CLIP, CLAP and VAE in every step, float32 (or `--amp`), torch's AdamW as it comes, nothing
compiled. Both train the same weights, in turn; quote the ratio. Utilisation counts the U-Net's own operations,
forward and backward, against the speed of large matrix products in bfloat16 measured here. `--tiny` shows in seconds
that the command works, and its figures mean nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from benchmarks.generate import now
from benchmarks.models import TINY, TOKENS
from sounding.audio.mel import MelSpectrogram
from sounding.config import SoundingConfig
from sounding.diffusion import build_noise_schedule
from sounding.model import SoundingModel
from training.engine.environment import build_accelerator
from training.engine.estimate import estimate, measure_speed
from training.engine.optimization import TrainedModule, backward
from training.engine.settings import LoopConfig
from training.tasks.grounded import GroundedObjective, GroundedSettings

LOOP = LoopConfig(batch=1, lr=1e-4, steps=1, betas=(0.95, 0.999), eps=1e-6, weight_decay=1e-3)


def our_step(model: SoundingModel, batch: int, loop: LoopConfig) -> Callable[[], None]:
    """A step of this package on features that were computed before; `batch` clips in each of the micro-batches."""
    accelerator = build_accelerator(loop)
    objective = GroundedObjective(model, GroundedSettings())
    if loop.gradient_checkpointing:
        objective.checkpoint_gradients()
    learner = TrainedModule(objective, loop, accelerator)
    objective.place(accelerator.device)
    objective.train()
    one = objective.example(accelerator.device)
    features = {name: value.expand(batch, *value.shape[1:]).clone() for name, value in one.items()}

    def step() -> None:
        for micro in range(loop.accumulate):
            for name in ("latents", "noise", "patches", "query"):
                features[name].normal_()
            with nullcontext() if micro == loop.accumulate - 1 else accelerator.no_sync(learner.model):
                backward(learner, None, features, loop.accumulate)
        learner.step(loop.lr)

    return step


def plain_step(model: SoundingModel, batch: int, amp: bool) -> Callable[[], None]:
    """Everything in the loop, as in section 4.1 of the paper."""
    config, device = model.config, next(model.unet.parameters()).device
    learning = [*model.grounding.parameters(), *model.unet.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, 1e-4, betas=LOOP.betas, eps=LOOP.eps, weight_decay=LOOP.weight_decay)
    schedule, to_mel = build_noise_schedule(config.diffusion), MelSpectrogram(config.audio).to(device)
    encode_tokens: Any = model.query

    def step() -> None:
        waveform = torch.rand(batch, config.train_samples, device=device) - 0.5
        size = config.patches.image_size
        images = torch.rand(batch, size, size, 3, device=device)
        tokens = torch.randint(5, 1000, (batch, TOKENS), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            with torch.no_grad():
                mel = to_mel(waveform)[:, None]
                latents = model.vae.encode(mel).latent_dist.sample() * config.vae.scale
                patches, query = model.patches(images), encode_tokens(tokens)
            condition = model.grounding.by_query(query, patches).tokens
            times = torch.randint(0, config.diffusion.train_steps, (batch,), device=device)
            noise = torch.randn_like(latents)
            noisy = schedule.add_noise(latents, noise, times)
            predicted: Tensor = model.unet(noisy, times, encoder_hidden_states=condition).sample
            loss = functional.mse_loss(predicted.float(), noise.float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, LOOP.clip)
        optimizer.step()

    return step


def operations(model: SoundingModel, batch: int) -> int:
    """Operations of one step of grounding and U-Net, forward and backward."""
    objective = GroundedObjective(model, GroundedSettings())
    return estimate(objective, objective.example, batch=batch, steps=1, speed=1.0).flops


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips per step.")] = 1,
    repeats: Annotated[int, typer.Option(help="Steps of each side; their median counts.")] = 3,
    amp: Annotated[bool, typer.Option("--amp", help="Let the plain loop run in bfloat16.")] = False,
    precision: Annotated[str, typer.Option(help="Of our step: auto, bf16 or fp32.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile our step.")] = False,
    checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="In our step.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model, to see that the command works.")] = False,
) -> None:
    """Time both sides in turn and print a table in Markdown."""
    torch.manual_seed(0)
    config = TINY if tiny else SoundingConfig()
    work = operations(SoundingModel(config), batch)
    changes = {"precision": precision, "compile": compiled, "gradient_checkpointing": checkpointing}
    loop = LoopConfig(**{**vars(LOOP), **changes})
    model = SoundingModel(config).requires_grad_(False).to(device)
    steps = {"plain": plain_step(model, batch, amp), "ours": our_step(model, batch, loop)}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in steps}  # wall clock, processor
    for repeat in range(repeats + 1):  # the first one warms up
        for side in ("ours", "plain") if repeat % 2 else ("plain", "ours"):
            start, busy = now(torch.device(device)), time.process_time()
            steps[side]()
            took = now(torch.device(device)) - start, time.process_time() - busy
            if repeat:
                times[side].append(took)
            print(f"{repeat or 'warm-up'} {side}: {took[0]:.2f} s", file=sys.stderr)
    speed = measure_speed(torch.device(device), torch.bfloat16)
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    what = "Tiny" if tiny else "Full size"
    print(f"{what}, {batch} clips of {config.train_seconds:g} s per step, {name}, torch {torch.__version__}")
    mine = "bf16" if loop.mixed_precision == "bf16" else "fp32"
    mine += ", compiled" * compiled + ", gradient checkpointing" * checkpointing
    print(f"\n| median of {repeats} | ours, {mine} | plain loop, {'bf16' if amp else 'fp32'} | plain / ours |")
    print("| --- | --- | --- | --- |")
    (ours, our_work), (plain, plain_work) = (
        tuple(statistics.median(column) for column in zip(*times[side], strict=True)) for side in ("ours", "plain")
    )
    print(f"| seconds per step | {ours:.3f} | {plain:.3f} | {plain / ours:.2f} |")
    if device == "cpu":
        print(f"| processor seconds per step | {our_work:.3f} | {plain_work:.3f} | {plain_work / our_work:.2f} |")
    print(f"| clips per second | {batch / ours:.3f} | {batch / plain:.3f} | |")
    shares = [work / seconds / speed for seconds in (ours, plain)]
    peak = f"{speed / 1e12:.2f} TFLOP/s (bf16 matrix products, measured)"
    print(f"| share of {peak} | {shares[0]:.0%} | {shares[1]:.0%} | |")


if __name__ == "__main__":
    typer.run(main)
