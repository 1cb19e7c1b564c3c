"""`python -m training prepare matching`: raw shards of clips into tokens for audio-visual matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sounding.cli.terminal import plain_errors

if TYPE_CHECKING:
    from ..data.source import Source

VisualOption = Annotated[
    str, typer.Option(help="'starter', a checkpoint, or CLIP's weights (a folder or file; the paper: ViT-B/16).")
]
AudioOption = Annotated[str, typer.Option(help="'mel', or 'beats:FILE' with Microsoft's checkpoint (the paper).")]
RateOption = Annotated[float, typer.Option(help="Frames per second that the visual encoder sees.")]
CellsOption = Annotated[int, typer.Option(help="Visual tokens per side of a frame: patches are averaged over them.")]
SideOption = Annotated[int, typer.Option(help="Side of the frames that the encoder sees; 0 takes its own.")]
BandsOption = Annotated[int, typer.Option(help="With 'mel': groups of bands, a token each.")]


def matching(
    raw: Annotated[list[str], typer.Option(help="Folder of raw shards, or a pattern; several may be given.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards; an unfinished one is gone on with.")],
    visual: VisualOption = "weights/clip-b16",
    audio: AudioOption = "beats:weights/BEATs_iter3_plus_AS2M.pt",
    rate: RateOption = 8.0,
    cells: CellsOption = 1,
    size: SideOption = 0,
    bands: BandsOption = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    shard_size: Annotated[int, typer.Option(help="Samples per shard.")] = 1000,
) -> None:
    """Visual and audio tokens of clips, computed once to train and evaluate a matching network on."""
    with plain_errors("training"):
        from .encoders import open_audio, open_visual
        from .tokens import ShardClips, TokenSource

        seeing = open_visual(visual, cells=cells, rate=rate, size=size, device=device)
        hearing = open_audio(audio, bands=bands, device=device)
        make(TokenSource(ShardClips(raw), seeing, hearing), out, shard_size)


def make(source: Source, out: Path, shard_size: int) -> None:
    """Make the shards, and say what came of it."""
    from sounding.cli.terminal import progress

    from ..data.shard_writer import make_shards

    with progress("tokens", False) as on_step:
        assert on_step is not None
        show = on_step
        index = make_shards(
            source, out, shard_size=shard_size, on_progress=lambda done, skipped: show(done, len(source))
        )
    typer.echo(f"{index.samples} clips in {len(index.shards)} shards in {out}, {len(index.skipped)} skipped")
    for skipped in index.skipped[:5]:
        typer.echo(f"  {skipped.id}: {skipped.why}")
