"""`python -m training evaluate ...`: what the paper measures, from a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors, progress

from .baselines.cli import baselines
from .study.cli import app as study_app
from .theory.cli import theory

DEFAULT_MODEL = Path("judge.safetensors")
app = command_group("Measure what the paper measures.")
app.add_typer(study_app, name="study")
app.command()(theory)
app.command()(baselines)


@app.command()
def folders(
    generated: Annotated[list[Path], typer.Option(help="Folder of generated sounds; several may be given.")],
    reference: Annotated[Path, typer.Option(help="Folder of real sounds with the same names.")],
    out: Annotated[Path, typer.Option(help="Folder for index.html, report.json, table.md and features.npz.")],
    labels: Annotated[
        Path | None, typer.Option(help="CSV: name,labels,others (classes, separated by a semicolon), for ACC.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the items' images, with the sounds' names.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks of the selected objects, likewise.")] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="What sounds are measured by, such as a classifier's file or PANNs' Cnn14; several may be given. "
            f"Without it {DEFAULT_MODEL}."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=60, help="Length that all are cut or padded to; else the model's.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, max=10_000, help="For the 95 % intervals.")] = 200,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """FAD, KAD, KL, IS, ACC and AVC of folders of sounds, with intervals; a run that was stopped is continued."""
    with plain_errors("training"):
        from .run import Folders, evaluate_folders
        from .table import table

        if not model and not DEFAULT_MODEL.is_file():
            raise ValueError(
                f"There is no {DEFAULT_MODEL}, which is taken without --model; give --model, or write it with "
                "`python -m training starter evaluate judge`."
            )
        models = model or [DEFAULT_MODEL]
        asked = Folders(generated, reference, models, out, labels, images, masks, seconds, resamples)
        typer.echo(table(evaluate_folders(asked, lambda label: progress(label, quiet))))


@app.command()
def items(
    shards: Annotated[
        list[str], typer.Option(help="Raw shards of a test set, from `prepare masks` for masks; several may be given.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for images, masks, references, labels.csv and items.json.")],
    csv: Annotated[
        list[Path] | None, typer.Option(help="AudioSet's list with the clips' labels, for ACC; several may be given.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="AudioSet's class_labels_indices.csv, for --csv.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Clips of a test set as a folder of items, which every system can be measured on."""
    with plain_errors("training"):
        from .shard_items import write_shard_items

        with progress("items", quiet) as on_step:
            typer.echo(write_shard_items(shards, out, lists=csv or (), classes=classes, on_step=on_step))


@app.command()
def matching(
    model: Annotated[Path, typer.Option(help="A trained matching network, a .safetensors file.")],
    shards: Annotated[list[str], typer.Option(help="Tokens of clips that it never saw; several may be given.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, table.md and scores.png.")],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="From which on clips match; without it the network's own.")
    ] = None,
    clips: Annotated[int, typer.Option(min=0, help="Take the first so many; 0 takes all.")] = 0,
    resamples: Annotated[int, typer.Option(min=0, max=10_000, help="For the 95 % intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of who gets whose sound.")] = 0,
    calibrated: Annotated[
        Path | None,
        typer.Option(help="Calibrate the network on these clips, write it to this file, and measure what it became."),
    ] = None,
) -> None:
    """Accuracy of audio-visual matching on matched and mismatched clips, its ROC, scores and thresholds."""
    with plain_errors("training"):
        from ..matching.calibration import calibrate
        from ..matching.checkpoint import read_matching, write_matching
        from .matching import measure, score_pairs, table, write_report

        network = read_matching(model)
        scores = score_pairs(network, shards, seed=seed, clips=clips)
        if calibrated:
            calibrate(network, scores.matched, scores.mismatched)
            write_matching(calibrated, network)
            scores = score_pairs(network, shards, seed=seed, clips=clips)
        at = network.config.threshold if threshold is None else threshold
        report = measure(scores, threshold=at, resamples=resamples, seed=seed)
        write_report({"model": (calibrated or model).name, "seed": seed, **report}, out)
        typer.echo(table(report))
