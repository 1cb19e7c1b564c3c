"""Points, a box or words to a mask."""

from __future__ import annotations

import torch
from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..sounding.checkpoint import STARTER, CheckpointError
from ..sounding.segment import Prompt, load_segmenter
from .host.conversions import checked_image
from .host.folders import STARTER_LABEL
from .host.loaded import LoadedSegmenter
from .host.sam_folders import sam_names, sam_path
from .host.schemas import schema
from .host.wires import SegmenterType


class SoundingLoadSam(io.ComfyNode):
    """The segmenter that comes with the pack, or one from disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingLoadSam",
            display_name="Sounding Load SAM",
            description="Loads what turns clicks into masks: the small segmenter in the box, SAM, SAM 2 or SAM 3.",
            search_aliases=["segment anything", "sam loader", "sam2", "sam3", "segmenter"],
            inputs=[
                io.Combo.Input(
                    "segmenter_name",
                    options=sam_names(),
                    default=STARTER_LABEL,
                    tooltip="The small one in the box; Meta's SAM files (sam_vit_b_01ec64.pth, ...) from models/sams; "
                    "or transformers folders of SAM 2 and SAM 3 from models/sam2 and models/sam3.",
                ),
            ],
            outputs=[SegmenterType.Output(display_name="segmenter", tooltip="For Sounding SAM Mask.")],
        )

    @classmethod
    def fingerprint_inputs(cls, segmenter_name: str | None = None) -> str:
        """Read the model again if it was replaced under the same name, and only then."""
        if segmenter_name in (None, STARTER_LABEL):
            return STARTER_LABEL
        try:
            path = sam_path(str(segmenter_name))
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            return " ".join(f"{file} {file.stat().st_mtime_ns} {file.stat().st_size}" for file in files)
        except (CheckpointError, OSError):
            return str(segmenter_name)  # `execute` says what is wrong with it

    @classmethod
    def execute(cls, segmenter_name: str) -> io.NodeOutput:
        """Read the model."""
        return io.NodeOutput(open_segmenter(segmenter_name))


def open_segmenter(name: str) -> LoadedSegmenter:
    """Load a segmenter that `sam_names` offers.

    Raises:
        ValueError: no such model, or a file of another kind.
    """
    return LoadedSegmenter(load_segmenter(STARTER if name == STARTER_LABEL else sam_path(name)))


class SoundingSamMask(io.ComfyNode):
    """Points, a box or words to the mask of one object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingSamMask",
            display_name="Sounding SAM Mask",
            description="Selects one object by points, a box or words. The image is encoded once; another click "
            "then takes only a moment.",
            search_aliases=["segment", "click to mask", "points to mask", "sam detector", "text to mask"],
            inputs=[
                SegmenterType.Input("segmenter", tooltip="From Sounding Load SAM."),
                io.Image.Input("image", tooltip="The image. Each image of a batch gets a mask of its own."),
                io.String.Input(
                    "positive_coords",
                    default="",
                    tooltip='Points on the object, in pixels, as points editors write them: [{"x": 10, "y": 20}, ...].',
                ),
                io.String.Input(
                    "negative_coords",
                    default="",
                    optional=True,
                    tooltip="Points outside the object, in the same form.",
                ),
                io.String.Input(
                    "box",
                    default="",
                    optional=True,
                    tooltip="A box around the object, in pixels: [x0, y0, x1, y1], or as points editors write it.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    optional=True,
                    tooltip="What to select, such as 'dog'; only SAM 3 understands words. Selects everything that "
                    "they name.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="White on the object, with hard edges."),
                io.Mask.Output(
                    display_name="soft_mask",
                    tooltip="The sigmoid of the model's raw logits. For Sounding Ground by Mask, as in the paper.",
                ),
                io.Float.Output(display_name="score", tooltip="The model's own score of the mask, 0 to 1."),
            ],
        )

    @classmethod
    def execute(
        cls,
        segmenter: LoadedSegmenter,
        image: Tensor,
        positive_coords: str,
        negative_coords: str = "",
        box: str = "",
        text: str = "",
    ) -> io.NodeOutput:
        """Encode each image once and ask for the object."""
        prompt = Prompt.from_strings(positive_coords, negative_coords, box, text)
        found = [segmenter.segment(one[None], prompt) for one in checked_image(image)]
        device = model_management.intermediate_device()
        soft = torch.stack([one.mask for one in found]).to(device)
        hard = torch.stack([one.logits > 0 for one in found]).float().to(device)
        return io.NodeOutput(hard, soft, sum(one.score for one in found) / len(found))
