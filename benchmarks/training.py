"""A training step of grounding and U-Net at full size, against a plain loop.

    python -m benchmarks.training --device cpu --batch 1 --repeats 3

Ours: stored features, bfloat16, this package's step. The plain loop: images, sentences and waveforms go
through frozen CLIP, CLAP and VAE in every step, float32 (or `--amp`), torch's AdamW as it comes, nothing
compiled. Both train the same weights, in turn; quote the ratio. Utilisation counts the U-Net's own operations,
forward and backward, against the speed of large matrix products measured here.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from benchmarks.generate import now
from sounding.audio.mel import MelSpectrogram
from sounding.config import SoundingConfig
from sounding.diffusion import build_noise_schedule
from sounding.model import SoundingModel
from training.engine.environment import build_accelerator
from training.engine.estimate import estimate, measure_speed
from training.engine.optimization import TrainedModule, backward
from training.engine.settings import LoopConfig
from training.tasks.grounded import GroundedObjective, GroundedSettings

LOOP = LoopConfig(batch=1, lr=1e-4, steps=1, precision="bf16", betas=(0.95, 0.999), eps=1e-6, weight_decay=1e-3)
TOKENS = 20  # per caption


def our_step(model: SoundingModel, batch: int, compiled: bool) -> Callable[[], None]:
    """A step of this package on features that were computed before."""
    loop = LoopConfig(**{**vars(LOOP), "compile": compiled})
    accelerator = build_accelerator(loop)
    objective = GroundedObjective(model, GroundedSettings())
    learner = TrainedModule(objective, loop, accelerator)
    objective.place(accelerator.device)
    objective.train()
    one = objective.example(accelerator.device)
    features = {name: value.expand(batch, *value.shape[1:]).clone() for name, value in one.items()}

    def step() -> None:
        for name in ("latents", "noise", "patches", "query"):
            features[name].normal_()
        backward(learner, None, features, 1)
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
    clap: Any = model.query

    def step() -> None:
        waveform = torch.rand(batch, config.train_samples, device=device) - 0.5
        images = torch.rand(batch, 224, 224, 3, device=device)
        tokens = torch.randint(5, 1000, (batch, TOKENS), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            with torch.no_grad():
                mel = to_mel(waveform)[:, None]
                latents = model.vae.encode(mel).latent_dist.sample() * config.vae.scale
                patches, query = model.patches(images), clap(tokens)
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
    compiled: Annotated[bool, typer.Option("--compile", help="Compile our step.")] = False,
) -> None:
    """Time both sides in turn and print a table in Markdown."""
    torch.manual_seed(0)
    work = operations(SoundingModel(SoundingConfig()), batch)
    model = SoundingModel(SoundingConfig()).requires_grad_(False).to(device)
    steps = {"plain": plain_step(model, batch, amp), "ours": our_step(model, batch, compiled)}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for repeat in range(repeats + 1):  # the first one warms up
        for side in ("ours", "plain") if repeat % 2 else ("plain", "ours"):
            start = now(torch.device(device))
            steps[side]()
            seconds = now(torch.device(device)) - start
            if repeat:
                times[side].append(seconds)
            print(f"{repeat or 'warm-up'} {side}: {seconds:.2f} s", file=sys.stderr)
    speed = measure_speed(torch.device(device), torch.bfloat16)
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"Full size, {batch} clips of 10.24 s per step, {name}, torch {torch.__version__}")
    theirs = f"plain loop, {'bf16' if amp else 'fp32'}"
    print(f"\n| median of {repeats} | ours | {theirs} | plain / ours |\n| --- | --- | --- | --- |")
    ours, plain = (statistics.median(times[side]) for side in ("ours", "plain"))
    print(f"| seconds per step | {ours:.3f} | {plain:.3f} | {plain / ours:.2f} |")
    print(f"| clips per second | {batch / ours:.3f} | {batch / plain:.3f} | |")
    shares = [work / seconds / speed for seconds in (ours, plain)]
    peak = f"{speed / 1e12:.2f} TFLOP/s (bf16 matrix products, measured)"
    print(f"| share of {peak} | {shares[0]:.0%} | {shares[1]:.0%} | |")


if __name__ == "__main__":
    typer.run(main)
