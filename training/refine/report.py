"""The funnel as an HTML page: hours in and out of each step, scores, categories, and clips to look at and listen to.

    OUT/report/index.html, OUT/report/clips/HASH.jpg and .mp3

Every text in it (ids, labels, captions, reasons) comes from outside and is escaped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..cluster.rows import Row
from ..data.shard_format import SAMPLE_RATE
from ..data.storage import StorageError, is_file, replacing, write_atomic
from .funnel import BINS, categories, drawn, funnel, histogram
from .media import clip_frames, clip_sound
from .settings import RefineSettings
from .step import Step

if TYPE_CHECKING:
    from ..data.storage import Location

SHOWN = 20  # clips that are kept, and per step that drops some
FRAMES = 4  # side by side
SIZE = 96  # pixels
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3b7dd8; --other: #d88a3b; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .8rem; background: var(--bar); vertical-align: middle; }
.bar.test { background: var(--other); }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; overflow-wrap: anywhere; }
figure img { max-width: 100%; } figure audio { width: 100%; height: 2rem; } small { opacity: .75; }
"""


def write_report(out: Location, rows: Collection[Row], steps: Sequence[Step], settings: RefineSettings) -> Location:
    """Write the page and the clips that it shows; the same rows give the same page.

    Raises:
        FullDiskError, StorageError: no room, or an address that cannot be reached.
    """
    folder = out / "report"
    shown = drawn(rows, SHOWN)
    parts = [
        "<h1>Refinement</h1>",
        f"<p>{len(rows)} clips were listed, {sum(not row['dropped_by'] for row in rows)} are kept.</p>",
        _missing(steps),
        _funnel(rows, steps),
        _scores(rows, settings),
        _categories(rows),
        _captions(rows),
        "<h2>Kept clips</h2>",
        _clips(folder, shown.pop("", [])),
    ]
    for name, some in shown.items():
        parts += [f"<h2>Dropped by {escape(name)}</h2>", _clips(folder, some)]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Refinement</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(parts)}</body></html>'
    )
    write_atomic(folder / "index.html", page.encode("utf-8", "backslashreplace"))
    return folder / "index.html"


def _missing(steps: Sequence[Step]) -> str:
    lacking = [(step.name, step.missing()) for step in steps if step.missing()]
    if not lacking:
        return ""
    items = "".join(f"<li>{escape(name)}: {escape(what)}</li>" for name, what in lacking)
    return f"<h2>Stand-ins</h2><p>Not everything is done as in the paper:</p><ul>{items}</ul>"


def _funnel(rows: Collection[Row], steps: Sequence[Step]) -> str:
    stages = funnel(rows, steps)
    whole = max(stages[0].hours_in, 1e-9)
    lines = []
    for stage in stages:
        why = "<br>".join(f"{escape(reason)} ({count})" for reason, count in stage.reasons[:5])
        more = f"<br>and {len(stage.reasons) - 5} other reasons" if len(stage.reasons) > 5 else ""
        lines.append(
            f"<tr><td>{escape(stage.name)}</td><td class=n>{stage.clips_in}</td><td class=n>{stage.clips_out}</td>"
            f"<td class=n>{stage.hours_in:.3f}</td><td class=n>{stage.hours_out:.3f}</td>"
            f'<td><span class=bar style="width:{12 * stage.hours_out / whole:.2f}rem"></span></td>'
            f"<td><small>{why}{more}</small></td></tr>"
        )
    head = "<tr><th>step<th class=n>clips in<th class=n>out<th class=n>hours in<th class=n>out<th><th>dropped</tr>"
    return f"<h2>Funnel</h2><table>{head}{''.join(lines)}</table>"


def _scores(rows: Collection[Row], settings: RefineSettings) -> str:
    counts = histogram(rows)
    if not sum(counts):
        return ""
    lines = []
    for number, count in enumerate(counts):
        dropped = (number + 1) / BINS <= settings.matching.threshold
        bar = f'<span class="bar{" test" if dropped else ""}" style="width:{20 * count / max(counts):.2f}rem"></span>'
        lines.append(f"<tr><td class=n>{number / BINS:.2f}</td><td>{bar}</td><td class=n>{count}</td></tr>")
    text = f"The threshold is {settings.matching.threshold:g}."
    return f"<h2>Matching scores</h2><p>{text}</p><table>{''.join(lines)}</table>"


def _categories(rows: Collection[Row]) -> str:
    found = categories(rows)[:40]
    if not found:
        return ""
    most = max(train + test for _, train, test in found) or 1e-9
    lines = [
        f"<tr><td>{escape(name)}</td><td class=n>{train:.3f}</td><td class=n>{test:.3f}</td><td>"
        f'<span class=bar style="width:{20 * train / most:.2f}rem"></span>'
        f'<span class="bar test" style="width:{20 * test / most:.2f}rem"></span></td></tr>'
        for name, train, test in found
    ]
    head = "<tr><th>category<th class=n>hours, training<th class=n>test<th></tr>"
    return f"<h2>Categories of what is kept</h2><table>{head}{''.join(lines)}</table>"


def _captions(rows: Collection[Row]) -> str:
    kept = Counter(row["caption_by"] for row in rows if not row["dropped_by"])
    return (
        f"<h2>Captions</h2><p>{kept['model']} of {kept.total()} captions are a language model's, the others those of "
        "the labels.</p>"
    )


def _clips(folder: Location, rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>None.</p>"
    return f'<div class="clips">{"".join(_clip(folder, row) for row in rows)}</div>'


def _clip(folder: Location, row: Row) -> str:
    name = hashlib.sha256(f"{row['id']} {row['version']}".encode()).hexdigest()[:20]
    image = _written(folder / "clips" / f"{name}.jpg", row)
    sound = _written(folder / "clips" / f"{name}.mp3", row)
    lines = [
        f'<img src="clips/{name}.jpg" alt="frames" loading="lazy">' if image else "",
        f'<audio controls preload="none" src="clips/{name}.mp3"></audio>' if sound else "",
        f"<b>{escape(str(row['id']))}</b>",
        escape(row["reason"] or ""),
        escape(row.get("caption") or ""),
        f"<small>{escape(', '.join(row['labels']))}</small>",
        f"<small>heard: {escape(', '.join(row['tags']))}</small>" if row.get("tags") else "",
        f"<small>seen: {escape(', '.join(row['frame_captions']))}</small>" if row.get("frame_captions") else "",
        f"<small>matching {row['matching_score']:.2f}</small>" if row.get("matching_score") is not None else "",
    ]
    return f"<figure>{'<br>'.join(line for line in lines if line)}</figure>"


def _written(file: Location, row: Row) -> bool:
    """Write the frames or the sound of a clip, if it has some and they are not there yet."""
    if is_file(file):
        return True
    if not row["path"]:
        return False
    try:
        if file.suffix == ".jpg":
            frames = clip_frames(row, FRAMES / max(row.get("sound_seconds") or row["seconds"], 0.1), SIZE)
            from PIL import Image

            with replacing(file) as temporary:
                Image.fromarray(np.concatenate(frames, axis=1)).save(temporary, "JPEG", quality=80)
        else:
            import soundfile

            sound = clip_sound(row)
            with replacing(file) as temporary:
                soundfile.write(temporary, sound, SAMPLE_RATE, format="MP3")
    except (ValueError, StorageError):  # it was dropped because it cannot be read
        return False
    return True
