"""`sounding convert` and `sounding fetch`: other people's weights."""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import check_file, check_folder
from .terminal import JsonOption, plain_errors, progress, show, show_json


class Conditioning(str, Enum):
    """How the U-Net is told what to sound like."""

    attention = "attention"
    film = "film"


class Query(str, Enum):
    """What asks the patches in training."""

    text = "text"
    audio = "audio"


class HeadsFrom(str, Enum):
    """Of attention in an AudioLDM folder."""

    config = "config"
    authors = "authors"


class Precision(str, Enum):
    """Of the weights in the file."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


def convert(
    out: Annotated[Path, typer.Option(help="The .safetensors to write.")],
    audioldm: Annotated[Path, typer.Option(help="AudioLDM: diffusers folder, or the original .ckpt.")],
    clip: Annotated[
        Path,
        typer.Option(help="CLIP ViT-B/32, B/16 or L/14: open_clip's or OpenAI's file, or a transformers folder."),
    ],
    clap: Annotated[Path | None, typer.Option(help="Another CLAP than AudioLDM's: folder, or LAION's .pt.")] = None,
    vocoder: Annotated[Path | None, typer.Option(help="Another HiFi-GAN: folder, or a generator's file.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with CLAP's tokenizer, to travel in the file.")] = None,
    condition: Annotated[
        Conditioning,
        typer.Option(help="attention: the paper's U-Net, to be trained. film: AudioLDM exactly as published."),
    ] = Conditioning.attention,
    query: Annotated[Query, typer.Option(help="What asks the patches in training.")] = Query.text,
    ema: Annotated[bool, typer.Option(help="Take an original checkpoint's averaged U-Net.")] = True,
    heads: Annotated[
        HeadsFrom,
        typer.Option(
            help="Attention's heads in an AudioLDM folder: config as it says (so diffusers), authors as trained."
        ),
    ] = HeadsFrom.config,
    quick_gelu: Annotated[
        bool | None, typer.Option("--quick-gelu/--no-quick-gelu", help="CLIP's activation, if its file does not say.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what starts anew.")] = 0,
    dtype: Annotated[Precision, typer.Option(help="Of the weights in the file.")] = Precision.float16,
    name: Annotated[str | None, typer.Option(help="Of the model, in the file's header.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one checkpoint of published weights; it needs training before it responds to images."""
    with plain_errors(as_json=as_json):
        check_file(out)
        import torch

        from ..convert.assemble import convert as run

        report = run(
            out,
            audioldm=audioldm,
            clip=clip,
            clap=clap,
            vocoder=vocoder,
            tokenizer=tokenizer,
            condition=condition.value,
            query=query.value,
            ema=ema,
            heads=heads.value,
            quick_gelu=quick_gelu,
            seed=seed,
            dtype=getattr(torch, dtype.value),
            name=name,
        )
        if as_json:
            show_json(dataclasses.asdict(report) | {"path": str(report.path)})
            return
        for part, source in report.used.items():
            show(f"  {part:<10} from {source}")
        for part, parameters in report.anew.items():
            show(f"  {part:<10} starts anew ({parameters / 1e6:.2f} M parameters)")
        for note in report.notes:
            show(note)
        show(str(report.path))


def fetch(
    name: Annotated[str | None, typer.Argument(help="Which weights; without it, the list.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write to; without it, weights/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be downloaded, and stop.")] = False,
) -> None:
    """Download published weights: resumed after a break, checked, into a folder that is shown."""
    with plain_errors():
        from ..weights.download import CATALOGUE, download, find

        if name is None:
            for entry in CATALOGUE:
                size, checked = f"{entry.size / 1e9:6.2f} GB", f"checked by {entry.checked_by}"
                show(f"{entry.name:<16} {size}  {entry.licence:<18} {entry.what}; {checked}")
            return
        entry = find(name)
        folder = to or Path("weights") / entry.name
        if not dry_run:
            check_folder(folder, "--to")
        show(f"{entry.what}; {entry.licence}; about {entry.size / 1e9:.2f} GB to {folder.resolve()}")
        for file in entry.files:
            if dry_run:
                show(f"  {file.address()} -> {folder / file.path}")
                continue
            with progress(file.path, quiet=not sys.stderr.isatty()) as on_bytes:
                show(f"  {download(file, folder, on_bytes)}")
