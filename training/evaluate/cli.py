"""`python -m training evaluate ...`: what the paper measures, from a terminal."""

from __future__ import annotations

from sounding.cli.terminal import command_group

from .study.cli import app as study_app
from .theory.cli import theory

app = command_group("Measure what the paper measures.")
app.add_typer(study_app, name="study")
app.command()(theory)
