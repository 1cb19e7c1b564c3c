"""`python -m training evaluate baselines`: sounds of all systems for a folder of items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors, progress

from ...cluster.options import AddressOption, CpusOption, GpusOption, MostWorkersOption, RayOption, chosen_engine


def baselines(
    items: Annotated[
        Path | None, typer.Option(help="Folder of items, as `python -m training starter evaluate items` writes it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets SYSTEM/NAME.wav.")] = None,
    system: Annotated[list[str] | None, typer.Option(help="A system of --list; several may be given.")] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show all systems, what they need, and whether they can run.")
    ] = False,
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    audioldm: Annotated[Path | None, typer.Option(help="Folder of AudioLDM, such as cvssp/audioldm-s-full-v2.")] = None,
    audioldm2: Annotated[Path | None, typer.Option(help="Folder of AudioLDM 2, such as cvssp/audioldm2.")] = None,
    blip: Annotated[
        Path | None, typer.Option(help="Folder of BLIP, such as Salesforce/blip-image-captioning-large.")
    ] = None,
    clap: Annotated[Path | None, typer.Option(help="Folder of CLAP, such as laion/clap-htsat-unfused.")] = None,
    separator: Annotated[
        Path | None, typer.Option(help="File of `python -m training starter evaluate separator`.")
    ] = None,
    library: Annotated[Path | None, typer.Option(help="Folder of sounds to retrieve from.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=60, help="Length of each sound; without it that of the items, else 10.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; without it each system's own.")] = None,
    cfg: Annotated[float | None, typer.Option(min=0, help="Guidance of sounding models; else the model's own.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler of sounding models; else the model's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all sounds; each item has its own noise.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items, the first ones.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    ray: RayOption = False,
    address: AddressOption = "",
    most_workers: MostWorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Sounds of the paper's baselines and of ours for a folder of items; a run that was stopped is continued."""
    with plain_errors("training"):
        from .systems import Weights, chosen, listing

        weights = Weights(model, audioldm, audioldm2, blip, clap, separator, library)
        if show:
            typer.echo(listing(weights))
            return
        if items is None or out is None:
            raise ValueError("--items and --out are expected, a folder of items and one for sounds (or --list).")
        systems = chosen(list(system or ()), weights)
        engine = chosen_engine(ray, address, most_workers, cpus, gpus, device)
        from sounding.utils.devices import device_of

        from ..items import read_items, read_seconds
        from .baseline import Settings
        from .run import check_settings, describe, generate, write_settings
        from .systems import Loaded

        read = read_items(items)[:limit]
        settings = Settings(seconds or read_seconds(items) or 10.0, steps, cfg, sampler, seed)
        described = {each.name: describe(each, weights, settings) for each in systems}
        for name, description in described.items():
            check_settings(out / name, description)
        for name, description in described.items():
            write_settings(out / name, description)  # whether that can be written should be known now
        if engine is not None:
            from .stage import SoundStage, generate_by

            stage = SoundStage(items, weights, settings, device, out, engine[1])
            with progress("sounds", quiet) as on_step:
                lost = generate_by(engine[0], stage, [each.name for each in systems], read, on_step)
            for name, failed in lost.items():
                typer.echo(f"{out / name}: {len(read) - len(failed)} of {len(read)} items")
            return
        loaded = Loaded(weights, settings, device_of(device), out)
        built = {each.name: each.build(loaded, settings) for each in systems}
        for name, baseline in built.items():
            with progress(name, quiet) as on_step:
                failed = generate(baseline, read, out / name, on_step)
            typer.echo(f"{out / name}: {len(read) - len(failed)} of {len(read)} items")
