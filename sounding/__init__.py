"""Sounding Objects: select an object in an image and hear it.

    model = sounding.load("starter")
    sound = model.generate(image=image, mask=mask, seconds=5.0, seed=7)
    sound.waveform  # [1, 1, samples] at sound.sample_rate, 16 kHz

After "Sounding that Object: Interactive Object-Aware Image to Audio Generation" (ICML 2025). Importing this
package is cheap: heavy libraries load with the first model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import GenerationConfig, SoundingConfig

if TYPE_CHECKING:
    from .checkpoint import CheckpointError
    from .grounding import Condition
    from .model import Sound, SoundingModel, load

__version__ = "0.1.0"
__all__ = ["CheckpointError", "Condition", "GenerationConfig", "Sound", "SoundingConfig", "SoundingModel", "load"]

_HOMES = {
    "CheckpointError": "checkpoint",
    "Condition": "grounding",
    "Sound": "model",
    "SoundingModel": "model",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
