"""What is it? Masked objects to names, and names to prompts."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sounding.naming.load import boxed_namer
from ..sounding.naming.names import Named
from .host.conversions import checked_image, checked_mask
from .host.loaded import LoadedModel
from .host.progress import show_text
from .host.schemas import schema
from .host.wires import ModelType
from .templates import ALLOWED, Template

NAMES = "sounding_names"  # key of the node's output for the page and the history: one entry per object
MOST = 20
PLACEHOLDER = re.compile(r"Object \d+")  # the click node's names of objects that have none


class SoundingNameObject(io.ComfyNode):
    """Image and masks to names and prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingNameObject",
            display_name="Sounding Name Object",
            description="Names what each mask shows, and writes a prompt for each object: for any text-to-audio model. "
            "Works out of the box, without a download.",
            search_aliases=["what is it", "classify", "object to prompt", "caption", "recognize", "tagger"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Image.Input("image", tooltip="The image."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on an object, at any size; each mask of a batch gets a name of its own. Without a "
                    "mask, the whole image is named.",
                ),
                ModelType.Input(
                    "model",
                    optional=True,
                    tooltip="A model that has names of its own (converted with CLIP). Without it, the small one in the "
                    "box names 630 kinds of things.",
                ),
                io.String.Input(
                    "template",
                    default="the sound of {name}",
                    tooltip=f"The prompt. Its fields are {ALLOWED}: the object's name, all likely names, and how "
                    "likely the name is, 0 to 1.",
                ),
                io.String.Input(
                    "if_unknown",
                    default="ambient background sound",
                    tooltip="The prompt where no name is likely enough, with the same fields; {name} is the likeliest "
                    "name there.",
                ),
                io.Int.Input("top", default=3, min=1, max=MOST, tooltip="How many likely names {names} lists."),
                io.String.Input(
                    "names",
                    optional=True,
                    force_input=True,
                    tooltip="Names that are given, one per line: connect those of Sound Objects (click). Objects "
                    "without a name (an empty line, Object 1) are named here.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="names", tooltip="The name of each object, as a list.", is_output_list=True
                ),
                io.Float.Output(
                    display_name="probabilities",
                    tooltip="How likely each name is, 0 to 1, as a list.",
                    is_output_list=True,
                ),
                io.String.Output(
                    display_name="prompts",
                    tooltip="The prompt of each object, as a list: what follows runs once per object.",
                    is_output_list=True,
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        template: str,
        if_unknown: str,
        top: int = 3,
        mask: Tensor | None = None,
        model: LoadedModel | None = None,
        names: str | None = None,
    ) -> io.NodeOutput:
        """Name each object, and fill the template."""
        usual, unknown = Template.parse(template, "template"), Template.parse(if_unknown, "if_unknown")
        image = checked_image(image)
        if mask is not None:
            mask = checked_mask(mask)
            mask = mask.expand(max(len(mask), len(image)), -1, -1) if len(mask) == 1 else mask
        if model is not None:
            found = model.name(image, mask, top)
        else:  # a few megabytes, read in a moment and run on the CPU
            found = boxed_namer().name(image.cpu(), None if mask is None else mask.cpu(), top=top)
        found = with_given(found, names)
        prompts = []
        for each in found:
            likely = [name for name, _ in each.top[:top]]
            if each.known:
                prompts.append(usual.fill(each.name, likely, each.probability))
            else:
                prompts.append(unknown.fill(likely[0], likely, each.probability))
        ui = report(cls, found, prompts)
        return io.NodeOutput([each.name for each in found], [each.probability for each in found], prompts, ui=ui)


def given_name(name: str) -> Named:
    """A name that somebody gave: certain, and the only one."""
    return Named(name, 1.0, ((name, 1.0),))


def with_given(found: list[Named], names: str | None) -> list[Named]:
    """The objects with the names that somebody gave them, which are certain.

    Args:
        found: one per object.
        names: one line per object; an empty one and "Object 1" are no names. None gives none.

    Raises:
        ValueError: another number of lines than objects.
    """
    if names is None or not names.strip():
        return found
    lines = [line.strip() for line in names.split("\n")]
    if len(lines) == len(found) + 1 and not lines[-1]:  # a line break at the end
        lines.pop()
    if len(lines) != len(found):
        raise ValueError(
            f"names has {len(lines)} {'line' if len(lines) == 1 else 'lines'} for {len(found)} objects, but one per "
            "object is expected; connect the names of the node that the masks come from."
        )
    return [
        each if not line or PLACEHOLDER.fullmatch(line) else given_name(line)
        for line, each in zip(lines, found, strict=True)
    ]


def report(node: type[io.ComfyNode], found: list[Named], prompts: list[str]) -> dict[str, Any]:
    """What a run reports to the page and the history, for `io.NodeOutput(ui=...)`; the node shows the text at once.

    Args:
        node: the class as the host runs it, with the hidden unique_id and dynprompt.
        found: one per object.
        prompts: likewise.

    Returns:
        `{"sounding_names": [{"name": "dog", "probability": 0.8, "top": [["dog", 0.8], ...]}], "text": [...]}`.
    """
    text = []
    for each, prompt in zip(found, prompts, strict=True):
        likely = ", ".join(f"{name} {share:.0%}" for name, share in each.top)
        sure = "as given" if each == given_name(each.name) else f"{each.probability:.0%}"
        said = f"{each.name}, {sure}" if each.known else f"{each.name}; perhaps {likely}"
        text.append(f"{said}: {prompt}")
    show_text(node, "\n".join(text))
    entries = [
        {"name": each.name, "probability": each.probability, "top": [list(one) for one in each.top]} for each in found
    ]
    return {NAMES: entries, "text": text}
