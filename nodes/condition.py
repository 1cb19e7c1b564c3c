"""From an image and a selection in it to the condition of the sampler."""

from __future__ import annotations

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..sounding.conditioning import parts_to_ground
from ..sounding.config import Masks
from ..sounding.grounding import Condition
from ..sounding.images.drawing import overlay
from .host.conversions import checked_image, checked_mask
from .host.loaded import LoadedModel
from .host.schemas import OWN, masks_by, masks_input, schema, text_input
from .host.wires import ConditionType, ModelType, Patches, PatchesType
from .sureness import report

CLAMP = {"checkpoint default": None, "on": True, "off": False}


class SoundingEncodeImage(io.ComfyNode):
    """An image as a grid of patch embeddings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingEncodeImage",
            display_name="Sounding Encode Image",
            description="Encodes an image once; any number of masks and texts can then select something in it.",
            search_aliases=["see picture", "encode image", "patch embeddings", "clip vision"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                io.Image.Input("image", tooltip="The image, of any size; a batch is fine."),
            ],
            outputs=[PatchesType.Output(display_name="patches", tooltip="The image as the model sees it.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, image: Tensor) -> io.NodeOutput:
        """Run the patch encoder."""
        image = checked_image(image)
        embeddings = model.on_device("patches").see(image).to(model_management.intermediate_device())
        return io.NodeOutput(Patches(model, embeddings, image))


class SoundingGroundMask(io.ComfyNode):
    """A mask instead of attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingGroundMask",
            display_name="Sounding Ground by Mask",
            description="Selects what is to sound by a mask. Each mask of a batch makes a sound of its own.",
            search_aliases=["mask to sound", "select object", "segment to sound"],
            inputs=[
                PatchesType.Input("patches", tooltip="From Sounding Encode Image."),
                io.Mask.Input(
                    "mask",
                    tooltip="White on the object, at any size: it is stretched over the image. Each mask of a batch "
                    "makes a sound of its own.",
                ),
                io.Combo.Input(
                    "clamp",
                    options=list(CLAMP),
                    default="checkpoint default",
                    optional=True,
                    tooltip="on cuts off the negative weights that patches outside the mask can get, and rescales the "
                    "rest.",
                ),
                text_input("text", "Which of its sounds is meant, such as 'barking twice'; may be left empty."),
                masks_input(),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[ConditionType.Output(display_name="condition", tooltip="The selection, for Sounding Sampler.")],
        )

    @classmethod
    def execute(
        cls, patches: Patches, mask: Tensor, clamp: str = "checkpoint default", text: str = "", by: str = OWN
    ) -> io.NodeOutput:
        """Bring the mask to the statistics of attention weights and gather the patches, or name what it shows."""
        if clamp not in CLAMP:
            raise ValueError(f"clamp is {clamp!r}, but one of {', '.join(CLAMP)} is expected.")
        texts = [text.strip()] if text.strip() else None
        condition = _grounded(patches, checked_mask(mask), texts, by=masks_by(by), clamp=CLAMP[clamp])
        return io.NodeOutput(_kept(condition), ui=report(cls, condition))


class SoundingGroundText(io.ComfyNode):
    """Attention with a text as its query."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingGroundText",
            display_name="Sounding Ground by Text",
            description="Selects what is to sound by words, and shows where in the image the model finds it.",
            search_aliases=["text to sound", "attention map", "find object"],
            inputs=[
                PatchesType.Input("patches", tooltip="From Sounding Encode Image."),
                io.Image.Input("image", tooltip="The same image, to draw the attention on."),
                io.String.Input(
                    "text", multiline=True, default="a dog", tooltip="What to listen for, such as 'a dog'."
                ),
                io.Boolean.Input(
                    "one_sound_a_line",
                    default=False,
                    optional=True,
                    tooltip="On: each line of the text makes a sound of its own. Off: all of it is one sentence.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to look: the text selects only among what is white. Without it, anywhere.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[
                ConditionType.Output(display_name="condition", tooltip="The selection, for Sounding Sampler."),
                io.Mask.Output(
                    display_name="attention",
                    tooltip="Where the model looks, least to most as 0 to 1, in the image's size.",
                ),
                io.Image.Output(display_name="overlay", tooltip="The attention drawn on the image."),
            ],
        )

    @classmethod
    def execute(
        cls,
        patches: Patches,
        image: Tensor,
        text: str,
        one_sound_a_line: bool = False,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Encode the text, and let it attend to the patches."""
        image = checked_image(image)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        texts = lines if one_sound_a_line else [" ".join(lines)]
        condition = _grounded(patches, None if mask is None else checked_mask(mask), texts)
        if len(image) not in (1, len(condition)):
            raise ValueError(
                f"There are {len(image)} images and {len(condition)} selections, but equal numbers (or one image) "
                "are expected; connect the image that went into Sounding Encode Image."
            )
        attention = condition.attention_map((image.shape[1], image.shape[2]))
        device = model_management.intermediate_device()
        return io.NodeOutput(
            _kept(condition),
            attention.to(device),
            overlay(image, attention).to(device),
            ui=report(cls, condition),
        )


def _grounded(
    patches: Patches,
    mask: Tensor | None,
    texts: list[str] | None,
    *,
    by: Masks | None = None,
    clamp: bool | None = None,
) -> Condition:
    """`SoundingModel.ground`, with the parts that it needs on their devices."""
    needed = parts_to_ground(patches.model.config, mask=mask is not None, text=texts is not None, by=by)
    return patches.model.on_device(*needed).ground(
        patches.embeddings,
        mask=mask,
        text=texts,
        by=by,
        image=patches.image,
        image_size=patches.image_size,
        clamp=clamp,
    )


def _kept(condition: Condition) -> Condition:
    """The condition where results between nodes are kept."""
    return condition.to(model_management.intermediate_device())
