"""How sure the model is that it knows what was selected, as nodes report it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sounding.grounding import SURE
from .host.progress import show_text

SURENESS = "sounding_sureness"  # key of a node's output for the page: one entry per selection
UNSURE = ": it may sound like something else; select it more clearly, or use a model that knows it."


def report(
    node: type[io.ComfyNode],
    sureness: Tensor,
    names: Sequence[str] | None = None,
    nearest: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """What a run reports to the page and the history, for `io.NodeOutput(ui=...)`; the node shows the text at once.

    Args:
        node: the class as the host runs it, with the hidden unique_id and dynprompt.
        sureness: [B] of `Condition.sureness`.
        names: of the selections, if they have any.
        nearest: for selections by text, the known names nearest to each; reported where the model is not sure.

    Returns:
        `{"sounding_sureness": [{"sureness": 0.37, "sure": false}, ...], "text": [...]}`, one line per selection.
    """
    shares = [round(float(each), 3) for each in sureness]
    entries: list[dict[str, Any]] = [{"sureness": share, "sure": share >= SURE} for share in shares]
    text = []
    for place, share in enumerate(shares):
        what = "this" if len(shares) == 1 else f"selection {place + 1}"
        if names:
            entries[place]["name"] = names[place]
            what = repr(names[place])
        said = f"{share:.0%} sure of {what}"
        if share < SURE and nearest and nearest[place]:
            entries[place]["nearest"] = list(nearest[place])
            said += f"; nearest known words are {', '.join(nearest[place])}"
        text.append(said + ("" if share >= SURE else UNSURE))
    show_text(node, "\n".join(text))
    return {SURENESS: entries, "text": text}
