"""Whether seams are heard: ends of loops that meet their beginnings, beside the same sounds without `loop`.

    python -m benchmarks.loops --sounds 30 --steps 8
    python -m benchmarks.loops --joints --sounds 10 --steps 8

With `--joints`, parts of sounds are made anew, a second in the middle, one before and one after, and their joints are
judged; beside them, the same places in the sounds as they were. Each sound is judged by itself: what changes across the
seam against what changes from window to window within (`sounding.audio.seams`). The sounds are of the test photographs'
objects, one seed each.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import sounding
from sounding.audio.loudness import level
from sounding.audio.seams import Change, change_at
from sounding.editing import Edit
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


@dataclass(frozen=True)
class Joint:
    """A joint of a sound with a part that was made anew."""

    name: str
    seed: int
    where: str
    edited: Change
    given: Change | None  # the same place before, where there was sound on both sides


def joints(sounds: int, steps: int, model: str = "starter") -> Iterator[Joint]:
    """Make sounds of 3 s, cut out of longer ones, make parts of them anew, and judge all joints."""
    loaded = sounding.load(model, device="cpu")
    names = sorted(Path(each["file"]).stem for each in json.loads((PHOTOGRAPHS / "index.json").read_text()))
    for seed in range(sounds):
        name = names[seed % len(names)]
        selected: dict[str, Any] = {
            "image": read_image(PHOTOGRAPHS / f"{name}.jpg"),
            "mask": read_mask(PHOTOGRAPHS / f"{name}_mask.png"),
            "steps": steps,
        }
        whole = loaded.generate(**selected, seconds=4.0, seed=seed)
        rate = whole.sample_rate
        given = whole.waveform[0, :, rate // 2 : rate // 2 + 3 * rate]
        edit = Edit(region=(1.0, 2.0), after=1.0, before=1.0)
        made = loaded.edit(given, rate, edit, **selected, seed=seed + 1000).waveform[0, 0]
        places = {"before its beginning": 1, "region's start": 2, "region's end": 3, "after its end": 4}
        every = [second * rate for second in places.values()]
        if min(float(part.abs().max()) for part in (given, made)) < 1e-3:
            continue  # silent
        for where, second in places.items():
            old = change_at(given[0], rate, (second - 1) * rate) if 1 < second < 4 else None
            yield Joint(name, seed, where, change_at(made, rate, second * rate, others=every), old)


def print_joints(found: list[Joint]) -> None:
    """A Markdown table, a row per kind of joint."""
    print("| joint | level | within | spectrum | within | changes no more than the largest within | as given |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for where in dict.fromkeys(each.where for each in found):
        there = [each for each in found if each.where == where]
        figures = []
        for one, many in (("level", "levels"), ("spectrum", "spectra")):
            figures.append(statistics.median(getattr(each.edited, one) for each in there))
            figures.append(statistics.median(float(getattr(each.edited, many).median()) for each in there))
        old = [each.given.smooth for each in there if each.given is not None]
        cells = [f"{figure:.1f} dB" for figure in figures]
        smooth = f"{sum(each.edited.smooth for each in there)} of {len(there)}"
        print(f"| {' | '.join([where, *cells, smooth, f'{sum(old)} of {len(old)}' if old else ''])} |")


def main(
    sounds: Annotated[int, typer.Option(help="How many sounds.")] = 30,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each loop.")] = 5.0,
    edited: Annotated[bool, typer.Option("--joints", help="Joints of parts made anew instead of loops.")] = False,
) -> None:
    """Print a Markdown table of how seams change, against places within."""
    if edited:
        print_joints(list(joints(sounds, steps)))
        return
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
