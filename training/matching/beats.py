"""BEATs (Chen et al., 2022), the paper's audio encoder: SpeechBrain's implementation with Microsoft's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.resampling import resample
from sounding.weights import WeightsError
from sounding.weights.pytorch import load_pytorch

from .encoders import BEATS, fingerprint
from .network import TokenConfig

RATE = 16_000
PATCH = 16  # frames of 10 ms, and mel bands, of a patch
BANDS = 128 // PATCH  # patches over frequency
WINDOW, HOP = 400, 160  # samples of its filter bank's frames
LEAST = WINDOW + (PATCH - 1) * HOP  # samples of one patch


class BeatsTokens:
    """BEATs' last layer: eight tokens, one per 16 mel bands, 6.25 times per second.

    Args:
        path: BEATs_iter3_plus_AS2M.pt, say: what Microsoft published, with its "cfg" and its "model".

    Raises:
        ValueError: no such checkpoint, or SpeechBrain is missing.
    """

    def __init__(self, path: Path, *, device: str = "cpu"):
        try:
            from speechbrain.lobes.models.beats import BEATs
        except ImportError as error:
            raise ValueError(f"BEATs needs SpeechBrain ({error}); install it with `pip install speechbrain`.") from None
        checked = load_pytorch(path)  # bounds and harmlessness; SpeechBrain reads the file once more by itself
        if not isinstance(checked, dict) or not {"cfg", "model"} <= checked.keys():
            raise WeightsError(f"{path} is not a checkpoint of BEATs (no cfg and model in it); get Microsoft's.")
        try:
            self.network: Any = BEATs(str(path), freeze=True).to(device)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            said = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} is not a checkpoint of BEATs ({said}); get Microsoft's.") from None
        self.network.predictor = None  # of fine-tuned ones; tokens are wanted
        self.device = device
        self.config = TokenConfig(
            encoder=f"{BEATS}{path}",
            width=int(self.network.cfg.encoder_embed_dim),
            per_step=BANDS,
            rate=RATE / (PATCH * HOP),
            fingerprint=fingerprint(self.network, repr(sorted(checked["cfg"].items()))),
        )

    @torch.inference_mode()
    def encode(self, waveform: Tensor, rate: int) -> Tensor:
        """See `encoders.AudioEncoder`."""
        sound = resample(waveform.cpu(), rate, RATE).float()
        # Its frames begin every 10 ms but last 25 ms; the silence makes whole steps of all of the sound.
        steps = max(1, len(sound) // (PATCH * HOP))
        wanted = LEAST + (steps - 1) * PATCH * HOP
        sound = functional.pad(sound, (0, max(0, wanted - len(sound))))[:wanted]
        # Without lengths SpeechBrain's code asks for a mask that it has not made.
        tokens = self.network.extract_features(sound[None].to(self.device), torch.ones(1, device=self.device))[0][0]
        return tokens.float().view(steps, BANDS, -1).cpu()
