"""ComfyUI nodes: each converts the host's types, calls `sounding` once and converts back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .click_node import SoundingClick
from .click_routes import register_routes
from .condition_nodes import SoundingEncodeImage, SoundingGroundMask, SoundingGroundText
from .files import register_folder
from .latent_nodes import SoundingDecode, SoundingEmptyLatent, SoundingEncodeAudio, SoundingSampler, SoundingVocode
from .load_node import SoundingLoadModel
from .mix_node import SoundingMixTracks
from .object_node import SoundingThisObject
from .sam_files import register_sam_folders
from .segment_nodes import SoundingLoadSam, SoundingSamMask

NODES: list[type[io.ComfyNode]] = [
    SoundingThisObject,
    SoundingClick,
    SoundingLoadModel,
    SoundingEncodeImage,
    SoundingGroundMask,
    SoundingGroundText,
    SoundingEmptyLatent,
    SoundingSampler,
    SoundingDecode,
    SoundingVocode,
    SoundingEncodeAudio,
    SoundingMixTracks,
    SoundingLoadSam,
    SoundingSamMask,
]


class SoundingExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes. Models folders and the route are registered here: old hosts never call `on_load`."""
        register_folder()
        register_sam_folders()
        register_routes()
        return list(NODES)
