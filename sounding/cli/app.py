"""The command `sounding`: generate, name, info, demo, queue, convert, fetch."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.messages import printable
from .name import name
from .options import GenerateOptions, check_demo, check_steps
from .queue import queue
from .terminal import JsonOption, command_group, plain_errors, progress, say, show, show_json
from .weights import convert, fetch

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import Sound, SoundingModel

app = command_group("Select an object in an image and hear it.")

ModelOption = Annotated[str, typer.Option(help="'starter' or the path of a .safetensors checkpoint.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def generate(
    image: Annotated[Path, typer.Option(help="The image.")],
    out: Annotated[Path, typer.Option(help="Sound file to write (.wav, .flac, .ogg).")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="White where the object is. Several make several tracks and their mix. Without mask "
            "and text the whole image sounds."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="What sounds, instead of a mask: a sentence.")] = None,
    model: ModelOption = "starter",
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the checkpoint's own without it.")] = None,
    cfg: Annotated[
        float | None, typer.Option(help="Guidance scale, 1 is none; the checkpoint's own without it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same sound.")] = 0,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, dpm++ or 'dpm++ karras'; the checkpoint's own without it.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(hidden=True, help="The former spelling of --sampler.")] = None,
    batch: Annotated[int, typer.Option(help="Sounds to make, from seed, seed + 1, and so on.")] = 1,
    device: DeviceOption = "auto",
    attention_map: Annotated[Path | None, typer.Option(help="Image file to write: where the attention lies.")] = None,
    level: Annotated[
        bool, typer.Option(help="One loudness, no DC, no clicks at the ends; off gives the vocoder's own samples.")
    ] = True,
    gain: Annotated[
        list[float] | None, typer.Option(help="With several masks: dB of each track in the mix, one per mask.")
    ] = None,
    fade_out: Annotated[
        float | None,
        typer.Option(
            help="Seconds in which the sound dies away at its end; without it 0.3, or a tenth of sounds below 3."
        ),
    ] = None,
    window: Annotated[
        float, typer.Option(help="Longer sounds are made in overlapping windows of so many seconds.")
    ] = 20.48,
    as_json: JsonOption = False,
) -> None:
    """Make the sound of what a mask or a text selects in an image."""
    with plain_errors(as_json=as_json):
        sampler = _one_spelling(sampler, scheduler)
        options = GenerateOptions(
            image=image,
            out=out,
            masks=mask or [],
            text=text,
            seconds=seconds,
            steps=steps,
            cfg=cfg,
            seed=seed,
            sampler=sampler,
            batch=batch,
            device=device,
            attention_map=attention_map,
            gains=gain or [],
            fade_out=fade_out,
            window=window,
        )
        options.check()
        import torch

        from ..audio.files import write_audio
        from ..audio.tracks import mix_tracks
        from ..checkpoint import read_header, resolve
        from ..config import PARTS
        from ..images.drawing import overlay
        from ..images.files import read_image, read_mask, write_image
        from ..model import load

        started = time.monotonic()
        pixels = read_image(image)
        selection = None if text is not None else _same_size([read_mask(path) for path in options.masks], pixels)
        check_steps(steps, read_header(resolve(model)).config.diffusion.train_steps)
        loaded = load(model, device=device, parts=[part for part in PARTS if part != "query" or text is not None])
        with progress("sampling", as_json) as on_step:
            sound = loaded.generate(
                image=pixels,
                mask=selection,
                text=text,
                seconds=seconds,
                steps=steps,
                cfg=cfg,
                seed=seed,
                batch=batch,
                sampler=sampler,
                level=level,
                fade_out=fade_out,
                window=window,
                on_step=on_step,
            )
        tracks, rate = sound.waveform.cpu(), sound.sample_rate
        for path, track in zip(options.tracks, tracks, strict=True):
            write_audio(path, track, rate)
        sureness = [round(float(sure), 3) for sure in sound.sureness]
        report: dict[str, object] = {
            "files": [str(path) for path in options.tracks],
            "model": loaded.config.name,
            "sample_rate": rate,
            "samples": tracks.shape[-1],
            "seed": seed,
            "sureness": sureness,
        }
        if text is not None:
            nearest = sound.condition.nearest[0]
            report["nearest"] = [{"name": name, "cosine": round(cosine, 3)} for name, cosine in nearest]
        written = list(options.tracks)
        if len(options.masks) > 1:
            write_audio(out, mix_tracks(tracks, rate, gain), rate)
            written.append(out)
            report["mix"] = str(out)
        if attention_map is not None:
            maps = sound.condition.attention_map((pixels.shape[1], pixels.shape[2]))
            write_image(attention_map, torch.cat(list(overlay(pixels, maps)), dim=1))
            written.append(attention_map)
            report["attention_map"] = str(attention_map)
        report["elapsed"] = round(time.monotonic() - started, 3)
        for line in _warnings(sound, text, loaded):
            say(line)
        if as_json:
            show_json(report)
        else:
            for path in written:
                show(path)


def _one_spelling(sampler: str | None, scheduler: str | None) -> str | None:
    """The sampler, under whichever option it was given."""
    if sampler is not None and scheduler is not None:
        raise ValueError("--sampler and --scheduler were both given, but they are one setting; leave --scheduler out.")
    return scheduler if sampler is None else sampler


def _warnings(sound: Sound, text: str | None, model: SoundingModel) -> list[str]:
    """A sentence for a text of unknown words, else one for each selection that the model is not sure of."""
    from ..grounding import SURE

    sureness = sound.sureness.tolist()
    if text is not None and float(model.familiarity(text, sound.condition.nearest)[0]) < SURE:
        nearest = ", ".join(f"'{name}' ({cosine:.2f})" for name, cosine in sound.condition.nearest[0])
        known = len(model.config.vocabulary)
        return [
            f"sounding: '{text}' is not among the {known} known names, so the sound may not fit; nearest are {nearest}."
        ]
    unsure = [i for i, sure in enumerate(sureness) if sure < SURE]
    what = "the text" if text is not None else "the selection"
    return [
        f"sounding: the model is not sure what {what if len(sureness) == 1 else f'mask {i + 1}'} shows (sureness "
        f"{sureness[i]:.2f} of 1), so the sound may not fit; select one whole object, or try another image."
        for i in unsure
    ]


def _same_size(masks: list[Tensor], image: Tensor) -> Tensor:
    """Masks of any sizes as one batch of the image's size; a white one if there are none."""
    import torch

    from ..encoders.patches import check_orientation

    size = (image.shape[1], image.shape[2])
    if not masks:
        return torch.ones(1, *size)
    for one in masks:
        check_orientation((one.shape[-2], one.shape[-1]), size)
    resized = [
        torch.nn.functional.interpolate(one[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        for one in masks
    ]
    return torch.cat(resized)


@app.command()
def info(
    file: Annotated[str, typer.Argument(help="'starter' or the path of a checkpoint.")] = "starter",
    as_json: JsonOption = False,
) -> None:
    """Show a checkpoint's parts, sizes, training and configuration."""
    with plain_errors(as_json=as_json):
        from ..checkpoint import describe, resolve

        described = describe(resolve(file))
        if as_json:
            show_json(described)
            return
        parts = described["parameters"]
        show(f"{described['path']}  {described['bytes'] / 1e6:.1f} MB  {', '.join(described['dtypes'])}")
        for part, count in parts.items():
            show(f"  {part:<10} {count / 1e6:8.2f} M")
        show(f"  {'total':<10} {sum(parts.values()) / 1e6:8.2f} M")
        config = described["config"]
        if naming := config.get("naming"):  # thousands of lines
            show(f"names {len(naming['names'])} kinds of objects")
            config["naming"] = {key: value for key, value in naming.items() if not isinstance(value, list)}
        for name, value in described["training"].items():
            show(f"{name}: {printable(value, 500)}")
        for line in json.dumps(config, indent=2).split("\n"):
            show(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    model: ModelOption = "starter",
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same sound.")] = 0,
) -> None:
    """One image, two objects, two sounds: images and .wav files to look at and hear."""
    with plain_errors():
        check_demo(out, device, seed)
        from ..model import load
        from .demo import OBJECTS, write_demo

        loaded = load(model, device=device)
        with progress("sampling", quiet=not sys.stderr.isatty()) as on_step:
            overview = write_demo(loaded, out, seed=seed, on_step=on_step)
        for name in OBJECTS:
            show(f"{name}: {out / name}.wav, with {name}_mask.png, {name}_attention.png and {name}_mel.png")
        show(f"All at a glance: {overview.resolve()}")


app.command()(name)
app.command()(queue)
app.command()(convert)
app.command()(fetch)

if __name__ == "__main__":
    app()
