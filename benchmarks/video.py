"""The sound of an object in a video: whether it follows the object, clicks at joints, and memory by length.

    python -m benchmarks.video --steps 8
    python -m benchmarks.video --memory

The objects of test photographs move over a grey ground: they come in at the left, grow, are absent for two seconds in
the middle, and leave to the right. With `--memory`, each length is made in a process of its own, and its peak is told.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import sounding
from sounding.audio.motion import sight_of
from sounding.audio.seams import change_at
from sounding.images.files import read_image, read_mask
from sounding.images.resize import resized
from sounding.video import WINDOW, Frame, sound_video

PHOTOGRAPHS = Path(__file__).parent.parent / "tests" / "photographs"
HEIGHT, WIDTH = 360, 640  # pixels
PIECE = 0.25  # seconds in which levels are compared


@dataclass(frozen=True)
class Walk:
    """A video of an object that moves, drawn frame by frame."""

    name: str
    seconds: float
    frame_rate: float
    away: tuple[float, float] = (0.0, 0.0)  # seconds in which the object is absent

    def frames(self) -> Iterator[Frame]:
        """All of them."""
        image = read_image(PHOTOGRAPHS / f"{self.name}.jpg").movedim(-1, 1)  # [1, 3, H, W]
        mask = read_mask(PHOTOGRAPHS / f"{self.name}_mask.png")[:, None]
        for number in range(round(self.seconds * self.frame_rate)):
            white, corner = self._place(mask, number)
            yield Frame(white, lambda white=white, corner=corner: _drawn(image, white, corner))  # type: ignore[misc]

    def _place(self, mask: Tensor, number: int) -> tuple[Tensor, tuple[int, int, int, int]]:
        """The mask of a frame, and top, left, height and width of the photograph in it."""
        share = (number + 0.5) / (self.seconds * self.frame_rate)
        height = round(HEIGHT * (0.3 + 0.5 * share))
        width = round(height * mask.shape[3] / mask.shape[2])
        top, left = round((HEIGHT - height) * 0.8), round(share * (WIDTH + width)) - width
        white = torch.zeros(HEIGHT, WIDTH)
        there = slice(max(0, left), min(WIDTH, left + width))
        if not self.away[0] <= number / self.frame_rate < self.away[1]:
            small = resized(mask, (height, width))[0, 0]
            white[top : top + height, there] = small[:, there.start - left : there.stop - left].clamp(0, 1)
        return white, (top, left, height, width)


def _drawn(image: Tensor, white: Tensor, corner: tuple[int, int, int, int]) -> Tensor:
    """A frame [H, W, 3]: the photograph's object on grey."""
    top, left, height, width = corner
    frame = torch.full((HEIGHT, WIDTH, 3), 0.5)
    there = slice(max(0, left), min(WIDTH, left + width))
    small = resized(image, (height, width))[0].movedim(0, -1).clamp(0, 1)
    frame[top : top + height, there] = small[:, there.start - left : there.stop - left]
    return torch.lerp(torch.full_like(frame, 0.5), frame, white[..., None])


def followed(names: list[str], steps: int, seconds: float, frame_rate: float) -> None:
    """Print how the sounds of moving objects follow them."""
    model = sounding.load("starter", device="cpu")
    away = (seconds / 2 - 1, seconds / 2 + 1)
    print("| object | absent, dB to the rest | gain and size, r | level and size, r | pan and place, r | joints |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed, name in enumerate(names):
        walk = Walk(name, seconds, frame_rate, away)
        made, plain = (
            sound_video(model, walk.frames(), frame_rate, steps=steps, seed=seed, follow=follow)
            for follow in (1.0, 0.0)
        )
        wave, rate = made.waveform[0], made.sample_rate
        pieces = wave.unfold(1, round(PIECE * rate), round(PIECE * rate)).square().mean(dim=2)  # [2, pieces]
        flat = plain.waveform[0].unfold(1, round(PIECE * rate), round(PIECE * rate)).square().mean(dim=2)
        every = round(PIECE * frame_rate)
        sights = [sight_of(frame.mask) for frame in walk.frames()][every // 2 :: every][: pieces.shape[1]]
        seen = torch.tensor([one.share for one in sights])
        power = pieces.sum(dim=0)
        absent, there = wave[:, round(away[0] * rate) : round(away[1] * rate)], (seen > 0) & (power > 1e-8)
        silence = 10 * float((absent.square().mean() / wave.square().mean()).log10())
        gain = (power / flat.sum(dim=0))[there].sqrt()
        level = power[there].log10()
        angle = torch.atan2(pieces[1, there].sqrt(), pieces[0, there].sqrt())
        places = torch.tensor([one.pan for one in sights])
        fine, joints = 0, 0
        for start, end in made.times:
            joint = start + WINDOW / 2
            while joint < end - 1:
                change = change_at(wave[0] + wave[1], rate, round(joint * rate))
                fine, joints, joint = fine + change.smooth, joints + 1, joint + WINDOW / 2
        figures = (
            _correlation(each, other[there])
            for each, other in ((gain, seen.sqrt()), (level, seen.log10()), (angle, places))
        )
        shown = " | ".join(f"{each:.3f}" for each in figures)
        print(f"| {name} | {silence:.0f} | {shown} | {fine} of {joints} |", flush=True)


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])


def _peak(seconds: float, frame_rate: float, answers: multiprocessing.Queue[tuple[float, float, int]]) -> None:
    model = sounding.load("starter", device="cpu")
    before = time.process_time()
    made = sound_video(model, Walk("dog", seconds, frame_rate).frames(), frame_rate, steps=2)
    spent = time.process_time() - before
    answers.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, spent, len(made.looked_at)))


def memory(lengths: list[float], frame_rate: float) -> None:
    """Print the peak of memory by length, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    print("| seconds | frames | looked at | peak, MiB | processor s |")
    print("| --- | --- | --- | --- | --- |")
    for seconds in lengths:
        answers: multiprocessing.Queue[tuple[float, float, int]] = context.Queue()
        process = context.Process(target=_peak, args=(seconds, frame_rate, answers))
        process.start()
        peak, spent, looked_at = answers.get()
        process.join()
        frames = round(seconds * frame_rate)
        print(f"| {seconds:g} | {frames} | {looked_at} | {peak:.0f} | {spent:.1f} |", flush=True)


def main(
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 8,
    objects: Annotated[str, typer.Option(help="Test photographs, with commas.")] = "dog,cow,duck,horse",
    seconds: Annotated[float, typer.Option(help="Length of the videos.")] = 16.0,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 24.0,
    peaks: Annotated[bool, typer.Option("--memory", help="Memory by length instead.")] = False,
) -> None:
    """Measure it."""
    if peaks:
        memory([5.0, 20.0, 60.0], fps)
    else:
        followed(objects.split(","), steps, seconds, fps)


if __name__ == "__main__":
    typer.run(main)
