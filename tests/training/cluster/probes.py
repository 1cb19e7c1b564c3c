"""Stages that say where they run, and a second step of matching for runs that compare both scorers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import ClassVar

from ray import cloudpickle

from training.cluster.rows import Column, Row
from training.cluster.settings import Resources
from training.refine.steps.matching import MatchingStep

COLUMNS = {"id": Column("text", ""), "said": Column("texts", "by each probe that a row came through")}

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


class Probe:
    """Adds to a row what its process may use, and how many rows came before in it."""

    def __init__(self, name: str, gpus: float = 0.0, cpus: float = 0.3):
        self.name, self.gpus_setting = name, f"{name}.gpus"
        self.resources = Resources(cpus=cpus, gpus=gpus, workers=1, batch=1)
        self.came = 0

    def __call__(self, rows: list[Row]) -> list[Row]:
        import torch

        self.came += len(rows)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        said = f"{self.name}: {torch.get_num_threads()} threads, GPUs {visible!r}, {self.came} rows, {os.getcwd()}"
        return [{**row, "said": [*(row["said"] or []), said]} for row in rows]


class Keeps:
    """Writes what rows say into a file: what engines hand back is nothing."""

    name, gpus_setting, resources = "keeps", "keeps.gpus", Resources(cpus=0.1, batch=100)

    def __init__(self, file: str):
        self.file = file

    def __call__(self, rows: list[Row]) -> list[Row]:
        with open(self.file, "a") as file:
            file.writelines(f"{row['id']} {said}\n" for row in rows for said in row["said"])
        return rows


class NamesStep(MatchingStep):
    """Matching under another name, which drops nothing."""

    name = "names"
    columns: ClassVar[dict[str, Column]] = {"names_score": MatchingStep.columns["matching_score"]}

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        return [{"names_score": found["matching_score"]} for found in super().measure(rows)]

    def verdict(self, row: Row) -> str:
        return ""
