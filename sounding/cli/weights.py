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


class Which(str, Enum):
    """Of the published weights, without naming each of them."""

    recommended = "recommended"


def convert(
    which: Annotated[
        Which | None, typer.Argument(help="recommended: what `sounding fetch recommended` got, as published.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The .safetensors to write; of recommended: weights/recommended.safetensors.")
    ] = None,
    audioldm: Annotated[Path | None, typer.Option(help="AudioLDM: diffusers folder, or the original .ckpt.")] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="CLIP ViT-B/32, B/16 or L/14: open_clip's or OpenAI's file, or a transformers folder."),
    ] = None,
    clap: Annotated[Path | None, typer.Option(help="Another CLAP than AudioLDM's: folder, or LAION's .pt.")] = None,
    vocoder: Annotated[Path | None, typer.Option(help="Another HiFi-GAN: folder, or a generator's file.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with CLAP's tokenizer, to travel in the file.")] = None,
    condition: Annotated[
        Conditioning | None,
        typer.Option(
            help="attention: the paper's U-Net, to be trained. film: AudioLDM exactly as published, as in recommended."
        ),
    ] = None,
    query: Annotated[Query, typer.Option(help="What asks the patches in training.")] = Query.text,
    ema: Annotated[bool, typer.Option(help="Take an original checkpoint's averaged U-Net.")] = True,
    heads: Annotated[
        HeadsFrom | None,
        typer.Option(
            help="Attention's heads in an AudioLDM folder: config as it says (so diffusers), authors as trained, as in "
            "recommended."
        ),
    ] = None,
    quick_gelu: Annotated[
        bool | None, typer.Option("--quick-gelu/--no-quick-gelu", help="CLIP's activation, if its file does not say.")
    ] = None,
    names: Annotated[bool, typer.Option(help="Embed names of objects with CLIP's text tower, in minutes.")] = True,
    vocabulary: Annotated[Path | None, typer.Option(help="Text file with more names of objects, one per line.")] = None,
    seed: Annotated[int, typer.Option(help="Of what starts anew.")] = 0,
    dtype: Annotated[Precision, typer.Option(help="Of the weights in the file.")] = Precision.float16,
    name: Annotated[str | None, typer.Option(help="Of the model, in the file's header.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one checkpoint of published weights; film and recommended work at once, attention needs training."""
    with plain_errors(as_json=as_json):
        out, audioldm, clip = _places(which, out, audioldm, clip)
        check_file(out)
        import torch

        from ..convert.assemble import convert as run
        from ..weights.catalogue import recommended_licence

        film = condition == Conditioning.film or (condition is None and which is not None)
        with progress("names", quiet=as_json or not sys.stderr.isatty()) as on_names:
            report = run(
                out,
                audioldm=audioldm,
                clip=clip,
                clap=clap,
                vocoder=vocoder,
                tokenizer=tokenizer,
                condition="film" if film else "attention",
                query=query.value,
                ema=ema,
                heads="authors" if heads == HeadsFrom.authors or (heads is None and which) else "config",
                quick_gelu=quick_gelu,
                names=names,
                vocabulary=vocabulary,
                on_names=on_names,
                seed=seed,
                dtype=getattr(torch, dtype.value),
                name=name or (which.value if which else None),
                licence=recommended_licence() if which else "",
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
        if which is not None and "sounding" not in out.resolve().parent.name:
            show("ComfyUI finds it in ComfyUI/models/sounding: move it there, or name that place with --out.")


def _places(which: Which | None, out: Path | None, audioldm: Path | None, clip: Path | None) -> tuple[Path, Path, Path]:
    """What to write and to read; those of the recommended weights are known.

    Raises:
        ValueError: a place is missing, or `sounding fetch recommended` has not been run.
    """
    from ..weights.catalogue import FOLDER, RECOMMENDED

    if which is not None:
        defaults = dict(zip(("audioldm", "clip"), (FOLDER / name for name in RECOMMENDED), strict=True))
        out = out or FOLDER / f"{which.value}.safetensors"
        audioldm, clip = audioldm or defaults["audioldm"], clip or defaults["clip"]
        for folder in (audioldm, clip):
            if not folder.exists():
                raise ValueError(
                    f"{folder} is not there; run `sounding fetch {which.value}` first, in this folder, or name the "
                    "weights with --audioldm and --clip."
                )
    if out is None or audioldm is None or clip is None:
        places = {"--out": out, "--audioldm": audioldm, "--clip": clip}
        missing = [option for option, place in places.items() if place is None]
        raise ValueError(
            f"convert got no {' and no '.join(missing)}, but each is needed; give them, or `sounding convert "
            "recommended`."
        )
    return out, audioldm, clip


def fetch(
    name: Annotated[str | None, typer.Argument(help="Which weights, or recommended; without it, the list.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; without it, weights/NAME. Of recommended: a folder for both."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be downloaded, and stop.")] = False,
) -> None:
    """Download published weights: resumed after a break, checked, into a folder that is shown."""
    with plain_errors():
        from ..weights.catalogue import CATALOGUE, FOLDER, NC, RECOMMENDED, find
        from ..weights.download import download

        if name is None:
            for entry in CATALOGUE:
                size, checked = f"{entry.size / 1e9:6.2f} GB", f"checked by {entry.checked_by}"
                show(f"{entry.name:<16} {size}  {entry.licence:<18} {entry.what}; {checked}")
            show(f"{Which.recommended.value:<16} {', '.join(RECOMMENDED)}: what `sounding convert recommended` needs")
            return
        together = name == Which.recommended.value
        entries = [find(each) for each in (RECOMMENDED if together else (name,))]
        folders = [(to or FOLDER) / entry.name if together or to is None else to for entry in entries]
        for entry, folder in zip(entries, folders, strict=True):
            if not dry_run:
                check_folder(folder, "--to")
            show(f"{entry.what}; {entry.licence}; about {entry.size / 1e9:.2f} GB to {folder.resolve()}")
        if any(entry.licence == NC for entry in entries):
            show(f"{NC}: no commercial use, and what is made from these weights stays under the same licence.")
        for entry, folder in zip(entries, folders, strict=True):
            for file in entry.files:
                if dry_run:
                    show(f"  {file.address()} -> {folder / file.path}")
                    continue
                with progress(file.path, quiet=not sys.stderr.isatty()) as on_bytes:
                    show(f"  {download(file, folder, on_bytes)}")
