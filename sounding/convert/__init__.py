"""Published weights to one checkpoint of ours: AudioLDM, CLIP, CLAP and HiFi-GAN, in the forms their publishers ship.

`assemble.convert` is the main path. One module per family of weights maps published names to those of our parts
(`audioldm`, `clip`, `clap`, `hifigan`), and returns each part as `Converted`; `sounding.weights` reads the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Converted:
    """One part: its section of our configuration, and its tensors named as our module names them."""

    config: Any
    tensors: dict[str, Tensor]
