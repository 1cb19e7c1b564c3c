"""Load a checkpoint."""

from __future__ import annotations

from comfy_api.latest import io

from ..sounding.checkpoint import CheckpointError
from .host.folders import STARTER_LABEL, checkpoint_names, checkpoint_path
from .host.loaded import LoadedModel
from .host.memory import AUTO, DTYPES
from .host.schemas import schema
from .host.wires import ModelType


class SoundingLoadModel(io.ComfyNode):
    """A checkpoint from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingLoadModel",
            display_name="Sounding Load Model",
            description="Loads the model that turns an object in an image into its sound.",
            search_aliases=["sound checkpoint", "object sound model", "foley model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    default=STARTER_LABEL,
                    tooltip="The small model in the box, or a .safetensors file from models/sounding.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *DTYPES],
                    default=AUTO,
                    optional=True,
                    tooltip="Precision of the weights. auto takes what suits the device. On a CPU bf16 is for the "
                    "U-Net, if the processor is fast in it; auto takes it for models of full size.",
                ),
            ],
            outputs=[ModelType.Output(display_name="model", tooltip="The model, for all other Sounding nodes.")],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, dtype: str = AUTO) -> str:
        """Read the file again if it was replaced under the same name, and only then."""
        try:
            path = checkpoint_path(checkpoint or STARTER_LABEL)
            stat = path.stat()
        except (CheckpointError, OSError):
            return f"{checkpoint} {dtype}"  # `execute` says what is wrong with it
        return f"{path} {stat.st_mtime_ns} {stat.st_size} {dtype}"

    @classmethod
    def execute(cls, checkpoint: str, dtype: str = AUTO) -> io.NodeOutput:
        """Open the file; its parts are read when nodes use them."""
        return io.NodeOutput(LoadedModel(checkpoint_path(checkpoint), dtype))
