"""What the page is told while a node runs: the bar of its steps, and a text on the node."""

from __future__ import annotations

from comfy.utils import ProgressBar
from comfy_api.latest import io

from ...sounding.diffusion import OnStep


def progress_bar() -> OnStep:
    """A step callback for the host's progress bar; it raises when the user stops the run."""
    bar: ProgressBar | None = None

    def on_step(done: int, steps: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(steps)
        bar.update_absolute(done, steps)

    return on_step


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Show a text on a node, where a page follows the run.

    Args:
        node: the class as the host runs it, with the hidden unique_id and dynprompt.
        text: one or several lines.
    """
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or server.client_id is None:
        return
    node_id = node.hidden.unique_id
    if node.hidden.dynprompt is not None:
        node_id = node.hidden.dynprompt.get_display_node_id(node_id)  # the page does not know nodes out of expansions
    server.send_progress_text(text, node_id, server.client_id)
