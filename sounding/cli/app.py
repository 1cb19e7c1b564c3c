"""The command `sounding`: generate, name, info, demo, queue, convert, fetch."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..utils.messages import printable
from .generate import generate
from .name import name
from .options import DeviceOption, ModelOption, check_demo
from .queue import queue
from .terminal import JsonOption, command_group, plain_errors, progress, show, show_json
from .weights import convert, fetch

# Before it ends, Python looks through all that was ever imported once more, which takes a second.
atexit.register(gc.freeze)

app = command_group("Select an object in an image and hear it.")


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


app.command()(generate)
app.command()(name)
app.command()(queue)
app.command()(convert)
app.command()(fetch)

if __name__ == "__main__":
    app()
