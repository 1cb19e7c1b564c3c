"""The command of a judge that shares no recording with the generator; imported by `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors

from .options import (
    BatchOption,
    CfgOption,
    ClampOption,
    JsonOption,
    SamplerOption,
    SecondsOption,
    StepsOption,
    check_out,
    check_sampler,
    write_figures,
)


def honest(
    checkpoint: Annotated[str, typer.Option("--checkpoint", "--model", help="'starter' or a checkpoint.")] = "starter",
    data: Annotated[
        Path, typer.Option(help="The test set of `python -m training starter data`, which the judge learns from.")
    ] = Path("data/starter/test"),
    train_data: Annotated[Path, typer.Option(help="The set that the checkpoint learned.")] = Path("data/starter/train"),
    yamnet: Annotated[
        Path | None,
        typer.Option(
            help="YAMNet's model.onnx, its folder, or another model of sounds; without it log-mel statistics."
        ),
    ] = None,
    per_object: Annotated[int, typer.Option(min=1, help="Scenes per kind.")] = 2,
    seeds: Annotated[int, typer.Option(min=2, help="Sounds per scene, by mask and by caption each.")] = 2,
    stream: Annotated[
        int | None,
        typer.Option(
            min=0, help="Random stream of the scenes; without it the one of development, 20261128 is that of tests."
        ),
    ] = None,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    sampler: SamplerOption = None,
    clamp: ClampOption = None,
    batch: BatchOption = 16,
    out: JsonOption = None,
) -> None:
    """Are sounds recognised by a judge that never heard what the model learned? Beside the recordings that it did."""
    with plain_errors("training"):
        from sounding.model import load

        from ...evaluate.features import open_features
        from .honest import HonestSettings, evaluate, table
        from .retrieval import MelStatistics, PublishedEmbedding
        from .sounds import HELD_OUT

        check_sampler(sampler)
        check_out(out)
        settings = HonestSettings(
            seconds=seconds,
            steps=steps,
            cfg=cfg,
            sampler=sampler,
            clamp=clamp,
            batch=batch,
            per_object=per_object,
            seeds=seeds,
            stream=HELD_OUT if stream is None else stream,
        )
        embedding = PublishedEmbedding(open_features(yamnet)) if yamnet else MelStatistics()
        figures = evaluate(load(checkpoint), train_data, data, embedding, settings)
        write_figures(figures, out)
        typer.echo(table(figures))
