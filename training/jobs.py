"""`python -m training jobs`: jobs files of `sounding generate --jobs`, done by workers of Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors, progress, show_json

from .cluster.options import AddressOption, CpusOption, GpusOption, MostWorkersOption, RayOption, chosen_engine


def jobs(
    source: Annotated[Path, typer.Argument(help="File of one JSON object per line, see `sounding generate --jobs`.")],
    out_dir: Annotated[Path | None, typer.Option(help="Folder of all sounds, which none of them leaves.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="File of results; without it SOURCE.results.jsonl, beside sounds or jobs.")
    ] = None,
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    seconds: Annotated[float, typer.Option(help="Length of sounds whose lines name none.")] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps, likewise; else the checkpoint's own.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale, likewise.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm++ or 'dpm++ karras', likewise.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    ray: RayOption = False,
    address: AddressOption = "",
    most_workers: MostWorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Sounds of a jobs file by workers of Ray, as `sounding generate --jobs` makes them; goes on after a stop."""
    with plain_errors("training"):
        from sounding.cli.jobs import SOME_FAILED, results_file, shown_result
        from sounding.cli.options import check_folder
        from sounding.jobs.job import distinct, parse_job, read_lines, setting_of
        from sounding.jobs.results import FAILED

        from .job_stage import ROWS, JobStage, do_jobs

        chosen = chosen_engine(ray, address, most_workers, cpus, gpus, device)
        if chosen is None:
            raise ValueError(f"--ray is missing; without workers it is `sounding generate --jobs {source}`.")
        if out_dir is not None:
            check_folder(out_dir, "--out-dir")
        written = results_file(source, out_dir, results)
        given = {"seconds": seconds, "steps": steps, "cfg": cfg, "sampler": sampler}
        defaults = {key: value for key, value in given.items() if value is not None}
        setting = setting_of(model, defaults, out_dir)
        texts = dict(read_lines(source))
        parsed = distinct([parse_job(line, text, setting) for line, text in texts.items()])
        engine, resources = chosen
        stage = JobStage(model, device, defaults, out_dir, written, replace(resources, batch=ROWS))
        with progress("jobs", quiet) as on_step:
            made = do_jobs(replace(engine, block=ROWS), stage, parsed, texts, on_step)
        for result in made:
            show_json(shown_result(result))
        if any(result["status"] == FAILED for result in made):
            raise typer.Exit(SOME_FAILED)
