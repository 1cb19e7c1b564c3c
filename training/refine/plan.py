"""What a run would do, without doing it: the graph, models, resources, and its cost by the last measured rates."""

from __future__ import annotations

from collections import Counter

from ..data.storage import location
from .cost import MACHINE, MACHINES, Cost, estimate
from .lists import list_clips
from .ontology import EMPTY, read_ontology
from .outcome import Results, parts_of
from .pipeline import PASSED, RATES, read_numbers
from .settings import RefineSettings
from .steps import missing_of, steps_of


def dry_run(settings: RefineSettings) -> str:
    """A text to read; lists and models are looked for, no video is decoded.

    Raises:
        ValueError: a list, the ontology or a model is missing or of another form.
    """
    out = location(settings.out)
    ontology = read_ontology(location(settings.ontology)) if settings.ontology else EMPTY
    steps = steps_of(settings, ontology)
    listed = list_clips(settings)
    results = Results(steps, parts_of(out, steps))
    rates, passed = read_numbers(out / RATES), read_numbers(out / PASSED)
    whole = len(listed.rows) + len(listed.out)
    why = Counter(row["dropped_by"] for row in listed.out)
    lines = [
        f"lists: {whole} clips, {why['lists']} without a video or excluded"
        + (f", {listed.twice} more listed twice" if listed.twice else ""),
        f"labels: {why['labels']} dropped, {len(listed.rows)} go on",
    ]
    done_by = Counter[str]()  # open clips that have a step's results
    arriving = 0.0
    for piece in listed.rows.pieces():
        for row in filter(results.is_open, results.apply(piece)):
            arriving += 1
            done_by.update(row["done"])
    costs: list[Cost] = []
    unknown = False
    for position, step in enumerate(steps):
        # Open clips that have this step's results already still go through it, at no cost.
        todo = max(0.0, arriving - done_by[step.name])
        asked = step.resources
        lines.append(
            f"{'-> ' if position else ''}{step.name}: {asked.batch} clips at once, up to {asked.workers} workers of "
            f"{asked.cpus:g} CPUs" + (f" and {asked.gpus:g} GPUs" if asked.gpus else "")
        )
        if step.model():
            lines.append(f"   model: {step.model()}")
        if step.missing():
            lines.append(f"   stand-in: {step.missing()}")
        measured = len(results.found[step.name])
        cost = "not measured yet"
        if step.name in rates:
            seconds = todo * rates[step.name]
            costs.append(Cost(step.name, seconds, asked))
            cost = f"{rates[step.name]:.3g} s per clip, {_hours(seconds)} of one worker"
        elif todo:
            unknown = True
        known = f", if as many pass as did before ({passed[step.name]:.0%})" if step.name in passed else ""
        lines.append(f"   {measured} clips measured, at most {round(todo)} to do; {cost}{known}")
        arriving *= passed.get(step.name, 1.0)
    shards = "no features (shards.model is empty)"
    if settings.shards.model:
        asked = settings.shards.resources
        shards = f"features by {settings.shards.model}"
        if settings.engine.kind == "ray":
            shards += f" (up to {asked.workers} workers of {asked.cpus:g} CPUs and {asked.gpus:g} GPUs)"
    lines.append(f"-> split ({settings.split.test_hours:g} h of test) -> raw shards, {shards} -> manifest, report")
    there = {step.name for step in steps}
    lines += [f"not as in the paper: {name} is {what}" for name, what in missing_of(steps) if name not in there]
    engine = settings.engine
    place = (
        "this process" if engine.kind == "local" else engine.address or f"{engine.cpus or 'all'} CPUs of this machine"
    )
    more = " and the steps that are not measured yet" if unknown else ""
    total = sum(each.seconds for each in costs)
    lines.append(f"engine: {engine.kind} ({place}); in all {_hours(total)} of one worker{more}")
    if total and engine.kind == "ray":
        cpus, gpus = MACHINE
        found = {machines: estimate(costs, machines, cpus, gpus) for machines in MACHINES}
        times = ", ".join(
            f"{machines}: {_hours(3600 * each.hours)} (waiting for {each.waits_for})"
            for machines, each in found.items()
        )
        lines.append(f"on machines of {cpus} CPUs and {gpus} GPU{more}, {times}")
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
