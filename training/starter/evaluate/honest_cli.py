"""The command of judges that share no recording with the generator; imported by `cli.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors

from .options import DataOption, JsonOption, JudgeOption, check_out, write_figures

log = logging.getLogger("training")


def honest(
    items: Annotated[Path, typer.Option(help="Folder that `python -m training starter evaluate items` wrote.")],
    generated: Annotated[
        list[Path] | None, typer.Option(help="Folder of sounds NAME.wav of a system; several may be given.")
    ] = None,
    data: DataOption = Path("data/stamps"),
    second: Annotated[Path, typer.Option(help="Made by `python -m training starter second-recordings`.")] = Path(
        "data/second"
    ),
    embedding: Annotated[
        Path | None,
        typer.Option(help="Published model of sounds, such as YAMNet's model.onnx; without it log-mel statistics."),
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Classifier of `starter evaluate judge`, to be shown beside the others.")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch/--no-scratch", help="Train the small classifier on second recordings.")
    ] = True,
    model: Annotated[
        str | None, typer.Option(help="'starter' or a checkpoint: measure recordings through its VAE and vocoder, too.")
    ] = None,
    folder: JudgeOption = Path("runs/evaluate"),
    out: JsonOption = None,
) -> None:
    """Are sounds recognised by judges that never heard the starter's own recordings? Beside those recordings."""
    with plain_errors("training"):
        from ...data.object_set import ObjectSet
        from ...evaluate.features import open_features
        from ...evaluate.items import read_items, read_seconds
        from ..second_recordings import SecondRecordings
        from .honest import (
            Figures,
            Sounds,
            kind_figures,
            object_figures,
            open_probe,
            open_second_judge,
            read_sounds,
            retrieval_figures,
            table,
        )
        from .retrieval import MelStatistics, PublishedEmbedding

        check_out(out)
        read, seconds = read_items(items), read_seconds(items) or 2.56
        objects, others = ObjectSet(data), SecondRecordings(second)
        published = open_features(embedding) if embedding else None
        known = open_features(judge) if judge else None
        systems = [read_sounds("recordings", items / "reference", read, objects, seconds)]
        systems += [read_sounds(path.name, path, read, objects, seconds) for path in generated or ()]
        if model:
            import torch

            from sounding.model import load

            from .sounds import copies

            loaded = load(model)
            waveforms = torch.cat([copies(loaded, part) for part in systems[0].waveforms.split(16)])
            systems.insert(1, Sounds("recordings, VAE and vocoder", waveforms, systems[0].labels))
        figures: dict[str, Figures] = {}

        def note(name: str, found: Figures) -> None:
            figures[name] = found
            log.info("%s %s", name, found)

        if known:
            if known.classes != tuple(entry.name for entry in objects.entries):
                raise ValueError(f"{judge} has {len(known.classes)} classes, but those of {data} are expected.")
            note("the starter's recordings", {each.name: object_figures(known, each) for each in systems})
        if published:
            probe = open_probe(others, published)
            found = {each.name: kind_figures(probe, others, objects, each) for each in systems}
            note("second recordings, on the embedding", found)
        if scratch:
            trained = open_second_judge(others, folder)
            found = {each.name: kind_figures(trained, others, objects, each) for each in systems}
            note("second recordings, from scratch", found)
        by = PublishedEmbedding(published) if published else MelStatistics()
        note("retrieval", retrieval_figures(by, objects, systems))
        write_figures(figures, out)
        typer.echo(table(figures))
