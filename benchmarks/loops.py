"""Whether seams are heard: ends of loops that meet their beginnings, beside the same sounds without `loop`.

    python -m benchmarks.loops --sounds 30 --steps 8

Each sound is judged by itself: what changes across the seam against what changes from window to window within
(`sounding.audio.seams`). The sounds are of the test photographs' objects, one seed each.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import sounding
from sounding.audio.loudness import level
from sounding.audio.seams import Change, change_at
from sounding.images.files import read_image, read_mask
from training.starter.evaluate.audio_quality import check_sound

SILENT = "silence"  # the check's name of it
PHOTOGRAPHS = Path(__file__).parent.parent / "tests" / "photographs"


@dataclass(frozen=True)
class Seam:
    """One sound's seam as a loop, and where it is merely repeated."""

    name: str
    seed: int
    loop: Change
    cut: Change  # the vocoder's samples of the same seed without `loop`, not faded
    thrice: list[str]  # what the checks of sounds find in the loop played three times


def seams(sounds: int, steps: int, seconds: float, model: str = "starter") -> Iterator[Seam]:
    """Make sounds of objects, one after the other, and judge them."""
    loaded = sounding.load(model, device="cpu")
    names = sorted(Path(each["file"]).stem for each in json.loads((PHOTOGRAPHS / "index.json").read_text()))
    for seed in range(sounds):
        name = names[seed % len(names)]
        given = {
            "image": read_image(PHOTOGRAPHS / f"{name}.jpg"),
            "mask": read_mask(PHOTOGRAPHS / f"{name}_mask.png"),
            "seconds": seconds,
            "steps": steps,
            "seed": seed,
        }
        looped = loaded.generate(**given, loop=True)  # type: ignore[arg-type]
        plain = loaded.generate(**given, level=False).waveform[0, 0]  # type: ignore[arg-type]
        rate, wave = looped.sample_rate, looped.waveform[0, 0]
        loop, cut = (change_at(each, rate, 0, loop=True) for each in (wave, plain))
        yield Seam(name, seed, loop, cut, [str(found) for found in check_sound(level(wave.repeat(3), rate), rate)])


def main(
    sounds: Annotated[int, typer.Option(help="How many sounds.")] = 30,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 5.0,
) -> None:
    """Print a Markdown table of how seams change, against places within."""
    all_of = list(seams(sounds, steps, seconds))
    found = [each for each in all_of if not any(SILENT in finding for finding in each.thrice)]
    print(f"{len(found)} sounds; {len(all_of) - len(found)} more came silent from the model.\n")
    print("| | seam of loops | within them | changes less, mean | seam without `loop` | changes less, mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, (what, one, many) in enumerate(
        (("level", "level", "levels"), ("spectrum", "spectrum", "spectra"), ("click", "click", "clicks"))
    ):
        seam, cut = (statistics.median(getattr(getattr(each, kind), one) for each in found) for kind in ("loop", "cut"))
        within = statistics.median(float(getattr(each.loop, many).median()) for each in found)
        ranks = [statistics.mean(getattr(each, kind).ranks[number] for each in found) for kind in ("loop", "cut")]
        print(f"| {what} | {seam:.1f} dB | {within:.1f} dB | {ranks[0]:.0%} | {cut:.1f} dB | {ranks[1]:.0%} |")
    cuts, rough = sum(each.cut.smooth for each in found), [each for each in found if not each.loop.smooth]
    print(f"\nNo more than the largest change within: {len(found) - len(rough)} of {len(found)} loops, {cuts} without.")
    for each in rough:
        shares = ", ".join(f"{rank:.0%}" for rank in each.loop.ranks)
        print(f"Not: {each.name} (seed {each.seed}), of which {shares} change less.")
    faulty = [f"{each.name} (seed {each.seed}): {'; '.join(each.thrice)}" for each in all_of if each.thrice]
    print(f"Played three times: {', '.join(faulty) or 'no finding'}.")


if __name__ == "__main__":
    typer.run(main)
