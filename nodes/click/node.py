"""The node in which objects of an image are clicked: one mask per object."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...sounding.checkpoint import STARTER
from ...sounding.utils.files import replacing
from ..host.conversions import checked_image
from ..host.schemas import schema
from ..host.wires import SegmenterType
from .images import ImageFileError, annotated_path, image_names, read_image
from .masks import full_size_masks, segment_objects, sides, working_image
from .state import ClickObject, StateError, parse_points, parse_state, points_json, with_points

if TYPE_CHECKING:
    from ..host.loaded import LoadedSegmenter

IMAGE_EVENT = "sounding.click.picture"  # sent to the page where a run fails
SHOWN = "sounding_click"  # key of the node's output for the page: a reference to the image
NOTHING = "Nothing is clicked in the image, but at least one object is expected; click on one in the node."


class SoundingClick(io.ComfyNode):
    """Clicks to masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        state = io.String.Input(
            "state",
            default="",
            optional=True,
            tooltip="Click on an object; right click excludes, dragging draws a box. Kept as JSON: see the help.",
        )
        # The page shows the image instead of a text field; the value stays a string.
        state.extra_dict = {"widgetType": "SOUNDING_CLICK"}
        return schema(
            node_id="SoundingClick",
            display_name="Sound Objects (click)",
            description="Click on the objects in an image that are to sound. Each gets a mask, shown at once, and a "
            "button to hear it.",
            search_aliases=["click to segment", "points editor", "select object", "click and hear", "sam points"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=image_names(),
                    optional=True,
                    tooltip="An image in the input folder. One that is connected to image takes precedence.",
                ),
                state,
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="An image from another node. Load Image's is shown at once, others after a run.",
                ),
                SegmenterType.Input(
                    "segmenter",
                    optional=True,
                    tooltip="From Sounding Load SAM; without it, the small segmenter that comes with the pack.",
                ),
                io.String.Input(
                    "positive_coords",
                    optional=True,
                    force_input=True,
                    tooltip='More points on the first object that is on, in pixels: [{"x": 10, "y": 20}, ...].',
                ),
                io.String.Input(
                    "negative_coords",
                    optional=True,
                    force_input=True,
                    tooltip="More points outside the first object that is on, in the same form.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image."),
                io.Mask.Output(display_name="masks", tooltip="One mask per object that is on, as a batch."),
                io.String.Output(
                    display_name="names", tooltip="The objects' names, one per line, in the order of the masks."
                ),
                io.Float.Output(
                    display_name="gains", tooltip="The objects' gains in dB, as a list.", is_output_list=True
                ),
                io.String.Output(
                    display_name="positive_coords", tooltip="Points on each object, as a list.", is_output_list=True
                ),
                io.String.Output(
                    display_name="negative_coords",
                    tooltip="Points outside each object, as a list.",
                    is_output_list=True,
                ),
                io.String.Output(
                    display_name="takes",
                    tooltip="Which variant of each object's sound was picked, such as 0, 2: connect it to the "
                    "variation of the node that makes the sounds.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, picture: str | None = None) -> bool:
        """Accept any name: images uploaded later, or in other folders, are not in the list; `execute` checks them."""
        return True

    @classmethod
    def fingerprint_inputs(cls, picture: str | None = None, **others: Any) -> str:
        """Read the file again if it was replaced under the same name."""
        try:
            path = annotated_path(picture or "")
            stat = path.stat()
        except (ImageFileError, OSError):
            return str(picture)  # `execute` says what is wrong with it, unless an image is connected
        return f"{path} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(
        cls,
        picture: str | None = None,
        state: str = "",
        image: Tensor | None = None,
        segmenter: LoadedSegmenter | None = None,
        positive_coords: str | None = None,
        negative_coords: str | None = None,
    ) -> io.NodeOutput:
        """Make a mask of each clicked object."""
        clicked = parse_state(state)
        more = parse_points(positive_coords, negative_coords)
        linked = image is not None
        image = _chosen(picture) if image is None else _single(image)
        size = sides(image)
        shown = {SHOWN: [_reference(image)]} if linked else None
        try:
            objects = with_points(clicked, size, *more).on_image(*size)
            objects = tuple(each for each in objects if each.on and each.clicked)
            if not objects:
                raise StateError(NOTHING)
        except StateError:
            if shown:
                cls._show(shown)  # otherwise nobody could click on an image that a node made
            raise
        masks = _segmented(segmenter, image, objects)
        return io.NodeOutput(
            image,
            masks.to(model_management.intermediate_device()),
            "\n".join(each.name for each in objects),
            [each.gain_db for each in objects],
            [points_json(each.positive) for each in objects],
            [points_json(each.negative) for each in objects],
            ", ".join(str(each.take) for each in objects),
            ui=shown,
        )

    @classmethod
    def _show(cls, shown: dict[str, Any]) -> None:
        """Send the image to the page although the run fails."""
        from server import PromptServer

        server = PromptServer.instance
        if server.client_id is not None:
            server.send_sync(IMAGE_EVENT, {"node": cls.hidden.unique_id, "output": shown}, server.client_id)


def _chosen(picture: str | None) -> Tensor:
    if not picture:
        raise ImageFileError("There is no image, but one is expected; upload one, choose one, or connect image.")
    return read_image(annotated_path(picture))


def _single(image: Tensor) -> Tensor:
    image = checked_image(image)
    if len(image) != 1:
        raise ValueError(
            f"image is a batch of {len(image)} images, but one is expected, since clicks belong to one image; take one "
            "out with Image From Batch."
        )
    return image


def _segmented(segmenter: LoadedSegmenter | None, image: Tensor, objects: tuple[ClickObject, ...]) -> Tensor:
    """[N, H, W] float 0..1."""
    small = working_image(image.cpu())
    if segmenter is not None:
        masks = segment_objects(lambda prompt: segmenter.segment(small, prompt), objects, sides(image), sides(small))
    else:
        from ...sounding.segment import load_segmenter

        # A few megabytes, read in a moment and run on the CPU, as in the route: so the masks are the same.
        starter = load_segmenter(STARTER)
        prepared = starter.prepare(small)
        masks = segment_objects(lambda prompt: starter.segment(prepared, prompt), objects, sides(image), sides(small))
    return full_size_masks(masks, sides(image))


def _reference(image: Tensor) -> dict[str, Any]:
    """The image as a file that the page can fetch: in the host's temporary folder, named by a hash of its pixels."""
    pixels = (image[0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
    digest = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:24]
    path = Path(folder_paths.get_temp_directory()) / f"sounding_click_{digest}.png"
    if not path.exists():
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, "PNG", compress_level=1)
    return {
        "name": path.name,
        "subfolder": "",
        "type": "temp",
        "width": pixels.shape[1],
        "height": pixels.shape[0],
    }
