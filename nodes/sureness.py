"""What nodes say of how sure the model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sounding.grounding import SURE
from .host.progress import show_text

SURENESS = "sounding_sureness"  # the key of what nodes tell the page of a run: an entry per selection
UNSURE = ": it may sound like something else; select it more clearly, or use a model that knows it."


def report(
    node: type[io.ComfyNode],
    sureness: Tensor,
    names: Sequence[str] | None = None,
    nearest: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """What the page and the history get of a run, for `io.NodeOutput(ui=...)`; the node shows its text at once.

    Args:
        node: the class as the host runs it, with the hidden unique_id and dynprompt.
        sureness: [B] of `Condition.sureness`.
        names: of the selections, where they have some.
        nearest: known names that each of them is nearest to, where they are words; said of those that are not known.

    Returns:
        `{"sounding_sureness": [{"sureness": 0.37, "sure": false}, ...], "text": [...]}`, with a line per selection.
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
