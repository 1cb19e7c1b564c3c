"""How sure the model is that it knows what was selected, as nodes report it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sounding.grounding import SURE, Condition
from .host.progress import show_text

SURENESS = "sounding_sureness"  # key of a node's output for the page: one entry per selection
UNSURE = ": it may sound like something else; select it more clearly, or use a model that knows it."


def report(node: type[io.ComfyNode], condition: Condition) -> dict[str, Any]:
    """What a run reports to the page and the history, for `io.NodeOutput(ui=...)`; the node shows the text at once.

    Args:
        node: the class as the host runs it, with the hidden unique_id and dynprompt.
        condition: one selection per row. Known names near to a text are reported where the model is not sure of it.

    Returns:
        `{"sounding_sureness": [{"sureness": 0.37, "sure": false, "source": "mask"}, ...], "text": [...]}`, one line per
        selection; with `"name"` where the selection is a sentence.
    """
    shares = [round(float(each), 3) for each in condition.sureness]
    entries: list[dict[str, Any]] = []
    text = []
    for place, (share, source) in enumerate(zip(shares, condition.sources, strict=True)):
        entry: dict[str, Any] = {"sureness": share, "sure": share >= SURE, "source": source}
        what = "this" if len(shares) == 1 else f"selection {place + 1}"
        if condition.sentences and condition.sentences[place]:
            entry["name"] = condition.sentences[place]
            what = repr(condition.sentences[place])
        said = f"{share:.0%} sure of {what}"
        if share < SURE and condition.nearest and condition.nearest[place]:
            entry["nearest"] = [name for name, _ in condition.nearest[place]]
            said += f"; nearest known words are {', '.join(entry['nearest'])}"
        entries.append(entry)
        text.append(said + ("" if share >= SURE else UNSURE))
    show_text(node, "\n".join(text))
    return {SURENESS: entries, "text": text}
