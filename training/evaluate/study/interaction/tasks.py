"""The plan of an interaction study: which participant does which tasks, by which method, in which order.

Every participant does every task under every condition. Conditions come in blocks, whose order is counterbalanced over
participants, since who does a task for the second time is faster; tasks within a block come in random order.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sounding.utils.messages import shown

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")  # as nodes/click/study_log.py takes names
MAX_SENTENCE = 300
MAX_TASKS, MAX_CONDITIONS, MAX_PARTICIPANTS = 200, 10, 500
COLUMNS = ("task", "image", "sentence")


@dataclass(frozen=True)
class Task:
    """An image of ComfyUI's input folder, and what a participant is asked to make of it."""

    name: str
    image: str
    sentence: str


def read_tasks(path: Path, images: Path) -> list[Task]:
    """Tasks from a CSV file with the columns task, image and sentence.

    Args:
        path: the file.
        images: ComfyUI's input folder, in which the images are.

    Raises:
        ValueError: a line that no task can be read from, or an image that is not there.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}, but {', '.join(COLUMNS)} are expected.")
        tasks = [_task(row, f"{path}, line {reader.line_num}", images) for row in reader]
    names = [each.name for each in tasks]
    if not 0 < len(tasks) <= MAX_TASKS or len(set(names)) < len(names):
        raise ValueError(f"{path} has {len(tasks)} tasks, but 1 to {MAX_TASKS} of different names are expected.")
    return tasks


def _task(row: Mapping[str, str | None], where: str, images: Path) -> Task:
    name, image, sentence = ((row[column] or "").strip() for column in COLUMNS)
    _check_key(name, f"{where}: task")
    if not 0 < len(sentence) <= MAX_SENTENCE or not sentence.isprintable():
        raise ValueError(f"{where}: sentence is {shown(sentence)}, but 1 to {MAX_SENTENCE} characters are expected.")
    folder = images.resolve()
    if not image or not (folder / image).resolve().is_relative_to(folder) or not (folder / image).is_file():
        raise ValueError(f"{where}: image is {shown(image)}, but a file in {images} is expected; put it there.")
    return Task(name, image, sentence)


def _check_key(name: str, what: str) -> None:
    if not KEY.fullmatch(name):
        raise ValueError(f"{what} is {shown(name)}, but up to 40 letters, digits, dots, - and _ are expected.")


def read_conditions(given: Sequence[str]) -> dict[str, str]:
    """Conditions and what participants are told of them, from `name` or `name=instruction`.

    Raises:
        ValueError: a name of another form, a name twice, or too many.
    """
    pairs = [each.partition("=")[::2] for each in given]
    for name, instruction in pairs:
        _check_key(name, "A condition")
        if len(instruction) > MAX_SENTENCE or not (instruction or " ").isprintable():
            raise ValueError(f"The instruction of {name} has more than {MAX_SENTENCE} characters, or a line break.")
    conditions = dict(pairs)
    if not 0 < len(conditions) == len(pairs) <= MAX_CONDITIONS:
        raise ValueError(f"{len(pairs)} conditions are given, but 1 to {MAX_CONDITIONS} different ones are expected.")
    return conditions


def make_plan(
    study: str, tasks: Sequence[Task], conditions: Mapping[str, str], participants: int, seed: int
) -> dict[str, Any]:
    """The plan as the click node's page reads it (`web/study/files.js`).

    Args:
        study: its name, which the log keeps.
        tasks: what each participant does under each condition.
        conditions: name -> what participants are told.
        participants: how many, called P01, P02 and so on.
        seed: of the orders.

    Raises:
        ValueError: a name of another form, or more participants than are expected.
    """
    _check_key(study, "--study")
    if not 1 <= participants <= MAX_PARTICIPANTS:
        raise ValueError(f"--participants is {participants}, but 1 to {MAX_PARTICIPANTS} are expected.")
    rng = np.random.default_rng(seed)
    names = list(conditions)
    orders = balanced_orders(len(names))
    digits = max(2, len(str(participants)))
    plan: dict[str, list[dict[str, str]]] = {}
    rows: list[int] = []
    for number in range(participants):
        if not rows:  # each order once before any comes again
            rows = rng.permutation(len(orders)).tolist()
        plan[f"P{number + 1:0{digits}d}"] = [
            {
                "task": tasks[place].name,
                "condition": names[condition],
                "sentence": tasks[place].sentence,
                "instruction": conditions[names[condition]],
                "image": tasks[place].image,
            }
            for condition in orders[rows.pop()]
            for place in rng.permutation(len(tasks))
        ]
    return {"version": 1, "study": study, "seed": seed, "participants": plan}


def balanced_orders(count: int) -> list[list[int]]:
    """Orders of `count` conditions: each is as often at each position, and after each other one (Williams, 1949)."""
    first = [0]
    for step in range(1, count):
        first.append((step + 1) // 2 if step % 2 else count - step // 2)
    orders = [[(condition + shift) % count for condition in first] for shift in range(count)]
    return orders if count % 2 == 0 else orders + [order[::-1] for order in orders]
