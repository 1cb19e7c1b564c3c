"""The matching network (appendix B.1, figure 8): visual and audio tokens in, a logit out.

Each modality passes a 3-layer MLP to one width. A learned summary token and all tokens of both modalities then go
through a non-causal transformer whose rotary positions (Su et al., 2024) are times, so that a frame and the sound of
the same moment have the same position. The summary token's output is the score.

With `similarity`, which is ours, the score begins with how alike the tokens behind the MLPs are, moment by moment (late
interaction: Khattab & Zaharia, 2020; Yao et al., 2022), and the transformer adds to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.utils.fields import Checked, Range, Text

Width = Annotated[int, Range(1, 16_384)]


@dataclass(frozen=True)
class TokenConfig(Checked):
    """What an encoder makes of a clip: `per_step` tokens of `width` numbers, `rate` times per second.

    Attributes:
        encoder: by what `encoders` finds it, such as "starter" or "mel".
        fingerprint: of its weights and of how it is used; "" where nothing is known of it.
        size: side of the square frames that it sees, in pixels; 0 for sounds.
    """

    encoder: Annotated[str, Text(4096)]
    width: Width
    per_step: Annotated[int, Range(1, 1024)] = 1
    rate: Annotated[float, Range(0.1, 1000)] = 8.0
    size: Annotated[int, Range(0, 4096)] = 0
    fingerprint: Annotated[str, Text(64)] = ""

    def steps(self, seconds: float) -> int:
        """Whole steps in `seconds`, at least one; a hair below a whole number counts as one."""
        return max(1, int(seconds * self.rate + 1e-6))


@dataclass(frozen=True)
class MatchingConfig(Checked):
    """A matching network; the defaults are the paper's where it says them.

    Attributes:
        visual: the frames' tokens.
        audio: the sound's tokens.
        seconds: length of the windows that it is trained on; longer clips are scored window by window.
        width: of all tokens behind the MLPs.
        layers: of the transformer.
        heads: of its attention.
        hidden: width inside of the 3-layer MLPs.
        feedforward: width inside of the transformer's feed-forward layers.
        positions_per_second: unit of the rotary positions.
        rotary_base: of their wavelengths.
        similarity: the score begins with the similarity of the tokens; the paper's does not.
        reach: seconds from the sound to the frames that it is compared with.
        softness: temperature of the maximum over their tokens.
        slope, shift: the score of a clip is the sigmoid of slope * x + shift, with x the logit of its probability;
            `calibration` finds them.
        threshold: score from which on a clip counts as matching.
    """

    visual: TokenConfig
    audio: TokenConfig
    seconds: Annotated[float, Range(0.1, 600)] = 10.0
    width: Width = 768
    layers: Annotated[int, Range(1, 64)] = 6
    heads: Annotated[int, Range(1, 128)] = 12
    hidden: Width = 768
    feedforward: Width = 3072
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    positions_per_second: Annotated[float, Range(0.01, 1000)] = 8.0
    rotary_base: Annotated[float, Range(1, 1e9)] = 10_000.0
    similarity: bool = False
    reach: Annotated[float, Range(0, 600)] = 0.6
    softness: Annotated[float, Range(1e-4, 100)] = 0.1
    slope: Annotated[float, Range(1e-3, 1e3)] = 1.0
    shift: Annotated[float, Range(-1e3, 1e3)] = 0.0
    threshold: Annotated[float, Range(0, 1)] = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} with {self.heads} heads, but a multiple of {2 * self.heads} is expected: "
                "rotary positions turn pairs of numbers in each head."
            )


def rotary_angles(positions: Tensor, width: int, base: float) -> Tensor:
    """Angles [N, width / 2] of positions [N]: position times base^(-2i / width), equation 15 of Su et al."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    return positions[:, None].float() * base**-exponents


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [..., N, W] with each pair (2i, 2i + 1) turned by angles [N, W / 2], equation 34 of Su et al."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cosine, sine = angles.cos().to(x), angles.sin().to(x)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


class Block(nn.Module):
    """Pre-norm self-attention over all tokens, and a feed-forward layer."""

    def __init__(self, config: MatchingConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.to_out = nn.Linear(config.width, config.width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.feedforward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, config.width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """[B, N, width] with the angles [N, head width / 2] of their positions -> [B, N, width]."""
        q, k, v = self.to_qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # No mask: every token sees those before and after it.
        mixed = functional.scaled_dot_product_attention(
            rotate(q, angles), rotate(k, angles), v, dropout_p=self.dropout if self.training else 0.0
        )
        x = x + functional.dropout(self.to_out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + self.feedforward(x)


class MatchingNetwork(nn.Module):
    """See the module."""

    def __init__(self, config: MatchingConfig):
        super().__init__()
        self.config = config
        self.visual, self.audio = (_projection(tokens.width, config) for tokens in (config.visual, config.audio))
        # Which of a step's tokens, and of which modality, each one is.
        self.visual_slots = nn.Parameter(torch.randn(config.visual.per_step, config.width) * 0.02)
        self.audio_slots = nn.Parameter(torch.randn(config.audio.per_step, config.width) * 0.02)
        self.summary = nn.Parameter(torch.randn(config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1)
        if config.similarity:
            self.log_scale = nn.Parameter(torch.tensor(2.3))  # e^2.3 = 10 per unit of similarity
            self.offset = nn.Parameter(torch.tensor(0.3))  # similarity from which on a pair matches
            nn.init.zeros_(self.head.weight)  # the transformer says nothing at first
            nn.init.zeros_(self.head.bias)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Logits [B] of visual tokens [B, F, K, W] with audio tokens [B, A, M, V]; any numbers of steps F and A."""
        return self.match(self.embed_visual(visual), self.embed_audio(audio))

    def embed_visual(self, visual: Tensor) -> Tensor:
        """[B, F, K, W] -> [B, F, K, width]."""
        return self.visual(visual) + self.visual_slots

    def embed_audio(self, audio: Tensor) -> Tensor:
        """[B, A, M, V] -> [B, A, M, width]."""
        return self.audio(audio) + self.audio_slots

    def match(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Logits [B] of embedded tokens [B, F, K, width] and [B, A, M, width]."""
        summary = self.summary.to(visual).expand(len(visual), 1, -1)
        x = torch.cat([summary, visual.flatten(1, 2), audio.flatten(1, 2)], dim=1)
        angles = self._angles(visual.shape[1], audio.shape[1], x.device)
        for block in self.blocks:
            x = block(x, angles)
        logits: Tensor = self.head(self.norm(x[:, 0]))[:, 0]
        if self.config.similarity:
            alike = self.similarities(visual[:, None], audio[:, None])[:, 0, 0]
            logits = logits + self.log_scale.exp() * (alike - self.offset)
        return logits

    def similarities(self, visual: Tensor, audio: Tensor) -> Tensor:
        """How alike embedded tokens [B, V, F, K, width] and [B, S, A, M, width] are: [B, V, S], each of the V with each
        of the S.

        Each token of sound has the soft maximum of its cosines with the tokens of the frames within reach, or of the
        nearest one; the similarity is the mean over all tokens of sound.
        """
        config = self.config
        seen, heard = (nn.functional.normalize(tokens.float(), dim=-1) for tokens in (visual, audio))
        gaps = (self._times(config.audio, heard.shape[2])[:, None] - self._times(config.visual, seen.shape[2])).abs()
        near = (gaps <= gaps.amin(dim=1, keepdim=True).clamp(min=config.reach)).to(seen.device)  # [A, F]
        cosines = torch.einsum("bvfkw,bsamw->bvsamfk", seen, heard) / config.softness
        cosines = cosines.masked_fill(~near[:, None, :, None], -torch.inf).flatten(5)
        counts = near.sum(dim=1)[:, None] * seen.shape[3]  # so that more tokens are not more alike
        return config.softness * (cosines.logsumexp(dim=-1) - counts.log()).mean(dim=(3, 4))

    @staticmethod
    def _times(tokens: TokenConfig, count: int) -> Tensor:
        """Seconds from the window's beginning to the middle of each step."""
        return (torch.arange(count) + 0.5) / tokens.rate

    def _angles(self, frames: int, steps: int, device: torch.device) -> Tensor:
        """Of the summary (at position 0), the frames and the steps of sound, each at the middle of what it is of.

        Times count from the window's beginning, wherever that lies between two steps, or matches would be told by it.
        """
        config, times = self.config, [torch.zeros(1, device=device)]
        for tokens, count in ((config.visual, frames), (config.audio, steps)):
            times.append(self._times(tokens, count).to(device).repeat_interleave(tokens.per_step))
        positions = torch.cat(times) * config.positions_per_second
        return rotary_angles(positions, config.width // config.heads, config.rotary_base)


def _projection(width: int, config: MatchingConfig) -> nn.Sequential:
    """The 3-layer MLP of one modality. Encoders' scales differ, so it begins with a norm."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, config.hidden),
        nn.GELU(),
        nn.Linear(config.hidden, config.hidden),
        nn.GELU(),
        nn.Linear(config.hidden, config.width),
    )
