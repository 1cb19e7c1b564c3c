"""ComfyUI nodes: each converts the host's types, calls `sounding` once and converts back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .click.node import SoundingClick
from .click.routes import register_routes
from .condition import SoundingEncodeImage, SoundingGroundMask, SoundingGroundText
from .decode import SoundingDecode, SoundingVocode
from .host.folders import register_folder
from .host.sam_folders import register_sam_folders
from .inpaint import SoundingInpaint
from .intensity import SoundingIntensity
from .latent import SoundingEmptyLatent, SoundingEncodeAudio, SoundingSampler
from .load import SoundingLoadModel
from .mix import SoundingMixTracks
from .name import SoundingNameObject
from .native import SoundingNative
from .object import SoundingThisObject
from .save import SoundingSave, SoundingSaveStems
from .segment import SoundingLoadSam, SoundingSamMask
from .soundscape import SoundingSoundscape
from .video import SoundingVideo

NODES: list[type[io.ComfyNode]] = [
    SoundingThisObject,
    SoundingClick,
    SoundingNameObject,
    SoundingLoadModel,
    SoundingEncodeImage,
    SoundingGroundMask,
    SoundingGroundText,
    SoundingEmptyLatent,
    SoundingSampler,
    SoundingDecode,
    SoundingVocode,
    SoundingEncodeAudio,
    SoundingInpaint,
    SoundingIntensity,
    SoundingVideo,
    SoundingNative,
    SoundingMixTracks,
    SoundingSoundscape,
    SoundingSave,
    SoundingSaveStems,
    SoundingLoadSam,
    SoundingSamMask,
]


class SoundingExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes. Model folders and the route are registered here, since old hosts never call `on_load`."""
        register_folder()
        register_sam_folders()
        register_routes()
        return list(NODES)
