"""`sounding name`: what is it that a mask shows?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import MAX_BATCH, DeviceOption, check_device
from .terminal import JsonOption, plain_errors, show, show_json

if TYPE_CHECKING:
    pass


def name(
    image: Annotated[Path, typer.Option(help="The image.")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="White where the object is; several name several objects. Without it, the whole image."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A checkpoint; where it gives no names, as 'starter', the namer in the box does.")
    ] = "starter",
    top: Annotated[int, typer.Option(min=1, max=100, help="How many of the likeliest names are listed.")] = 5,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Name what masks show in an image, or say "unknown"."""
    with plain_errors(as_json=as_json):
        check_device(device)
        if len(mask or []) > MAX_BATCH:
            raise ValueError(f"--mask came {len(mask or [])} times, but at most {MAX_BATCH} are expected.")
        from ..images.files import read_image, read_mask
        from ..naming.load import namer_of
        from ..utils.devices import device_of

        pixels = read_image(image)
        masks = [read_mask(path) for path in mask or []]
        namer = namer_of(model, device=device_of(device))
        named = [one for selected in masks or (None,) for one in namer.name(pixels, selected, top=top)]
        if as_json:
            show_json(
                {
                    "objects": [
                        {
                            "name": one.name,
                            "probability": round(one.probability, 4),
                            "top": [[name, round(probability, 4)] for name, probability in one.top],
                        }
                        for one in named
                    ]
                }
            )
            return
        for number, one in enumerate(named):
            likeliest = ", ".join(f"{name} {probability:.0%}" for name, probability in one.top)
            which = f"{(mask or [])[number]}: " if len(named) > 1 else ""
            show(f"{which}{one.name} ({likeliest})")
