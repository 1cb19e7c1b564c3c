"""Sounding Objects as a ComfyUI pack: the entry point, and the folder that the browser gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to get the nodes. Imported here, so that this file can be imported without ComfyUI."""
    from .nodes import SoundingExtension

    return SoundingExtension()
