"""Our model as the host's own types, for its samplers, schedulers and audio nodes."""

from __future__ import annotations

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..sounding.grounding import Condition
from .host.loaded import LoadedModel
from .host.schemas import schema
from .host.wires import ConditionType, ModelType


class SoundingNative(io.ComfyNode):
    """MODEL, CONDITIONING and VAE out of a model and a condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingNative",
            display_name="Sounding to Native Model",
            description="Turns the model and a selection into ComfyUI's own MODEL, CONDITIONING and VAE, for KSampler, "
            "VAE Decode Audio and other core nodes. Several masks make one conditioning with a row per mask: set "
            "batch_size of Sounding Empty Latent to their number.",
            search_aliases=["ksampler", "core sampler", "native audio model", "vae decode audio", "custom sampler"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                ConditionType.Input("condition", tooltip="What is to sound, from a Sounding Ground node."),
                ConditionType.Input(
                    "negative",
                    optional=True,
                    tooltip="What is not to be heard, from a Sounding Ground node; without it guidance leads away from "
                    "the condition of no object, as in Sounding Sampler.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For KSampler and other core samplers."),
                io.Conditioning.Output(display_name="positive", tooltip="What is to sound, one row per selection."),
                io.Conditioning.Output(display_name="negative", tooltip="What guidance leads away from."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="From latents to sound and back, for VAE Decode Audio and VAE Encode Audio; the vocoder is "
                    "inside.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, condition: Condition, negative: Condition | None = None) -> io.NodeOutput:
        """Wrap the parts, which stay where the host's memory management keeps them."""
        from .host.native_vae import NativeVae  # imports the host's model classes

        positive = _checked(condition, "condition", model)
        if negative is None:
            null = model.on_device("grounding").grounding.null_condition(1)
        else:
            null = _checked(negative, "negative", model)
        device = model_management.intermediate_device()
        return io.NodeOutput(
            model.native_model(),
            *([[tokens.to(device).float(), {}]] for tokens in (positive, null)),
            NativeVae(model),
        )


def _checked(condition: Condition, name: str, model: LoadedModel) -> Tensor:
    """A condition's tokens [B, N, D], if they are this model's."""
    width = model.config.grounding.condition_width
    if condition.tokens.shape[-1] != width:
        raise ValueError(
            f"{name} is {condition.tokens.shape[-1]} wide, but this model expects {width}; use one model for all nodes "
            "of a chain."
        )
    return condition.tokens
