"""How far sounds of a bfloat16 U-Net are from float32's, beside how far sounds of two seeds are from each other.

    python -m benchmarks.precision --steps 25 --seeds 3

The U-Net of a checkpoint runs twice, in float32 and in bfloat16, with the same masks and seeds; everything else is
float32. Differences of log-mel spectrograms are root mean squares in dB.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import sounding
from sounding.images.files import read_image, read_mask
from sounding.model import Sound, SoundingModel

INPUT = Path(__file__).parent.parent / "example_workflows" / "input"
PART = 20 / math.log(10)  # dB per neper


def mel_distance(one: Tensor, other: Tensor) -> float:
    """dB between two log-mel spectrograms."""
    return float((one - other).square().mean().sqrt()) * PART


def spectrum_distance(one: Tensor, other: Tensor) -> float:
    """dB between the mean spectra of two log-mel spectrograms: the timbre, whatever happens when."""
    return mel_distance(one.exp().mean(dim=1).log(), other.exp().mean(dim=1).log())


def main(
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 25,
    seeds: Annotated[int, typer.Option(min=2, help="Sounds per mask.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of each sound.")] = 5.0,
) -> None:
    """Print both distances and the speed as Markdown."""
    exact = sounding.load(model, device="cpu", dtype=torch.float32)
    rough = copy.copy(exact)
    rough._modules = {**exact._modules, "unet": copy.deepcopy(exact.unet).to(torch.bfloat16)}
    rows: dict[str, list[float]] = {"peak": [], "mel": [], "timbre": [], "mel of seeds": [], "timbre of seeds": []}
    spent = {"float32": 0.0, "bfloat16": 0.0}

    def made(kind: str, network: SoundingModel, image: Tensor, mask: Tensor, seed: int) -> Sound:
        start = time.process_time()
        sound = network.generate(image=image, mask=mask, seed=seed, steps=steps, seconds=seconds, level=False)
        spent[kind] += time.process_time() - start
        return sound

    masks = sorted(INPUT.glob("*_mask_*.png"))
    for path in masks:
        image, mask = read_image(INPUT / f"{path.name.split('_')[0]}.png"), read_mask(path)
        sounds = [made("float32", exact, image, mask, seed) for seed in range(seeds)]
        for seed, sound in enumerate(sounds):
            other = made("bfloat16", rough, image, mask, seed)
            rows["peak"].append(float((sound.waveform - other.waveform).abs().max() / sound.waveform.abs().max()))
            rows["mel"].append(mel_distance(sound.mel, other.mel))
            rows["timbre"].append(spectrum_distance(sound.mel, other.mel))
            rows["mel of seeds"].append(mel_distance(sound.mel, sounds[seed - 1].mel))
            rows["timbre of seeds"].append(spectrum_distance(sound.mel, sounds[seed - 1].mel))
    middle = {name: statistics.median(values) for name, values in rows.items()}
    print(f"{model}, {len(masks)} masks, {seeds} seeds each, {steps} steps, {seconds:g} s, torch {torch.__version__}\n")
    print("| medians | bfloat16 to float32 | one seed to another |\n| --- | --- | --- |")
    print(f"| log-mel spectrogram, dB | {middle['mel']:.2f} | {middle['mel of seeds']:.2f} |")
    print(f"| mean spectrum, dB | {middle['timbre']:.2f} | {middle['timbre of seeds']:.2f} |")
    print(f"| largest difference of samples, share of the peak | {middle['peak']:.3f} | |")
    speed = spent["float32"] / spent["bfloat16"]
    print(f"\nProcessor seconds, float32 / bfloat16 (see, sample, decode and vocode): {speed:.2f}")


if __name__ == "__main__":
    typer.run(main)
