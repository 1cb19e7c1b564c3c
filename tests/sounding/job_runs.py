"""Runs of `sounding generate --jobs` on the tiny checkpoint."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from sounding.cli.app import app

SHORT = ("--model", "tiny.safetensors", "--device", "cpu", "--steps", "2", "--seconds", "0.5")


def write_jobs(folder: Path, *jobs: dict[str, Any] | str, name: str = "jobs.jsonl") -> Path:
    """A jobs file; texts are written as they are."""
    lines = [job if isinstance(job, str) else json.dumps({"image": "picture.png", **job}) for job in jobs]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def run(folder: Path, *arguments: str, jobs: str = "jobs.jsonl", **settings: Any) -> Result:
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, ["generate", "--jobs", jobs, *SHORT, *arguments], **settings)


def told(result: Result) -> list[dict[str, Any]]:
    """The results on standard output."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def kept(folder: Path, name: str = "jobs.results.jsonl") -> list[dict[str, Any]]:
    """The results in the file."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
