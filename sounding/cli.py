"""`sounding generate | info | demo | queue | convert | fetch`: the library from a terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_queue import queue
from .cli_weights import convert, fetch
from .terminal import JsonOption, plain_errors, progress

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(
    help="Select an object in a picture and hear it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option(help="'starter' or the path of a .safetensors checkpoint.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def numbered(path: Path, number: int) -> Path:
    """`sound.wav` -> `sound_1.wav`."""
    return path.with_name(f"{path.stem}_{number}{path.suffix}")


@app.command()
def generate(
    image: Annotated[Path, typer.Option(help="The picture.")],
    out: Annotated[Path, typer.Option(help="Sound file to write (.wav, .flac, .ogg).")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="White where the object is. Several make several tracks and their mix. Without mask "
            "and text the whole picture sounds."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="What to listen for, instead of a mask.")] = None,
    model: ModelOption = "starter",
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the checkpoint's own without it.")] = None,
    cfg: Annotated[
        float | None, typer.Option(help="Guidance scale, 1 is none; the checkpoint's own without it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same sound.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="ddim, dpm++ or 'dpm++ karras'; the checkpoint's own without it.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sounds to make, from seed, seed + 1, and so on.")] = 1,
    device: DeviceOption = "auto",
    attention_map: Annotated[Path | None, typer.Option(help="Picture of what was listened to.")] = None,
    level: Annotated[
        bool, typer.Option(help="One loudness, no DC, no clicks at the ends; off gives the vocoder's own samples.")
    ] = True,
    gain: Annotated[
        list[float] | None, typer.Option(help="With several masks: dB of each track in the mix, one a mask.")
    ] = None,
    window: Annotated[
        float, typer.Option(help="Longer sounds are made in overlapping windows of so many seconds.")
    ] = 20.48,
    as_json: JsonOption = False,
) -> None:
    """Make the sound of what a mask or a text selects in a picture."""
    with plain_errors():
        import torch

        from .audio import audio_format, mix_tracks, write_audio
        from .audio import level as level_sounds
        from .diffusion import item_seeds
        from .model import PARTS, load
        from .pictures import image_format, overlay, read_image, read_mask, write_image

        started = time.monotonic()
        if mask and text is not None:
            raise ValueError("Both --mask and --text came, but one is expected; leave one of them out.")
        if batch > 1 and mask and len(mask) > 1:
            raise ValueError("--batch came with several masks, but one is expected; leave --batch out or use one mask.")
        if gain and len(gain) != len(mask or []):
            raise ValueError(
                f"--gain came {len(gain)} times with {len(mask or [])} masks, but one a mask is expected; leave it out "
                "or give as many."
            )
        audio_format(out)
        if attention_map is not None:
            image_format(attention_map)
        picture = read_image(image)
        masks = [read_mask(path) for path in mask or []]
        selection = None if text is not None else _same_size(masks, picture)
        loaded = load(model, device=device, parts=[part for part in PARTS if part != "query" or text is not None])
        condition = loaded.ground(
            loaded.see(picture), mask=selection, text=text, image_size=(picture.shape[1], picture.shape[2])
        )
        noise = loaded.noise(seconds, item_seeds(seed, range(max(batch, len(condition)))))
        with progress("sampling", as_json) as on_step:
            latents = loaded.sample(
                condition, noise, steps=steps, cfg=cfg, scheduler=scheduler, window=window, on_step=on_step
            )
        tracks = loaded.vocode(loaded.decode(latents), seconds).cpu()
        rate = loaded.config.audio.sample_rate
        if level:
            tracks = level_sounds(tracks, rate)
        files = [out] if len(tracks) == 1 else [numbered(out, i + 1) for i in range(len(tracks))]
        for path, track in zip(files, tracks, strict=True):
            write_audio(path, track, rate)
        report: dict[str, object] = {
            "files": [str(path) for path in files],
            "model": loaded.config.name,
            "sample_rate": rate,
            "samples": tracks.shape[-1],
            "seed": seed,
            "sureness": [round(float(sure), 3) for sure in condition.sureness],
        }
        written = list(files)
        if len(condition) > 1:
            write_audio(out, mix_tracks(tracks, rate, gain), rate)
            written.append(out)
            report["mix"] = str(out)
        if attention_map is not None:
            maps = condition.attention_map((picture.shape[1], picture.shape[2]))
            write_image(attention_map, torch.cat(list(overlay(picture, maps)), dim=1))
            written.append(attention_map)
            report["attention_map"] = str(attention_map)
        report["elapsed"] = round(time.monotonic() - started, 3)
        typer.echo(json.dumps(report) if as_json else "\n".join(str(path) for path in written))


def _same_size(masks: list[Tensor], picture: Tensor) -> Tensor:
    """Masks of any sizes as one batch of the picture's size; a white one if there are none."""
    import torch

    size = (picture.shape[1], picture.shape[2])
    if not masks:
        return torch.ones(1, *size)
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
    """Show a checkpoint's parts, sizes and configuration."""
    with plain_errors():
        from .checkpoint import describe, resolve

        described = describe(resolve(file))
        if as_json:
            typer.echo(json.dumps(described))
            return
        parts = described["parameters"]
        typer.echo(f"{described['path']}  {described['bytes'] / 1e6:.1f} MB  {', '.join(described['dtypes'])}")
        for part, count in parts.items():
            typer.echo(f"  {part:<10} {count / 1e6:8.2f} M")
        typer.echo(f"  {'total':<10} {sum(parts.values()) / 1e6:8.2f} M")
        typer.echo(json.dumps(described["config"], indent=2))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    model: ModelOption = "starter",
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same sound.")] = 0,
) -> None:
    """One picture, two objects, two sounds: pictures and .wav files to look at and hear."""
    with plain_errors():
        from .demo import OBJECTS, write_demo
        from .model import load

        loaded = load(model, device=device)
        with progress("sampling", quiet=not sys.stderr.isatty()) as on_step:
            overview = write_demo(loaded, out, seed=seed, on_step=on_step)
        for name in OBJECTS:
            typer.echo(f"{name}: {out / name}.wav, with {name}_mask.png, {name}_attention.png and {name}_mel.png")
        typer.echo(f"All at a glance: {overview.resolve()}")


app.command()(queue)
app.command()(convert)
app.command()(fetch)

if __name__ == "__main__":
    app()
