"""What the U-Net and the VAE are built of: residual blocks, attention, resizing (Rombach et al. 2022).

Parameters have diffusers' names and are made in its order, so its weights fit and a seed draws the same ones; outputs
are the same numbers. The classes are our own because importing diffusers takes longer than making a sound: any model of
it imports all of its transformers, and with them transformers, accelerate, torchvision and torch's compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Output(NamedTuple):
    """What a network gives, by the name that diffusers has for it."""

    sample: Tensor


class Network(nn.Module):
    """A network with one device and one precision, whose blocks can recompute their activations."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights."""
        return next(self.parameters()).dtype

    def enable_gradient_checkpointing(self) -> None:
        """Let residual and transformer blocks recompute their activations in the backward pass instead of keeping
        them.
        """
        for module in self.modules():
            if isinstance(module, (ResnetBlock, TransformerBlock)):
                module.recompute = True

    def use_plain_attention(self) -> None:
        """Let attention be plain matrix products instead of torch's fused kernel."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = False


def recomputed(module: nn.Module, run: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`run(*inputs)`, in training without its activations kept if the module is told so."""
    if module.recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(run, *inputs, use_reentrant=False))
    return run(*inputs)


class ResnetBlock(nn.Module):
    """Two convolutions around which the input is added, with the time's embedding between them if there is one."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, eps: float, time_width: int | None = None):
        super().__init__()
        self.recompute = False
        self.norm1 = nn.GroupNorm(groups, inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, maps: Tensor, time: Tensor | None = None) -> Tensor:
        """[B, inputs, h, w] and, if it takes one, a time's embedding [B, time_width] -> [B, outputs, h, w]."""
        return recomputed(self, self._run, maps, time)

    def _run(self, maps: Tensor, time: Tensor | None) -> Tensor:
        inside = self.conv1(functional.silu(self.norm1(maps)))
        if self.time_emb_proj is not None and time is not None:
            inside = inside + self.time_emb_proj(functional.silu(time))[:, :, None, None]
        inside = self.conv2(functional.silu(self.norm2(inside)))
        if self.conv_shortcut is not None:
            # Contiguous in training, where several processes need gradients of one memory layout.
            maps = self.conv_shortcut(maps.contiguous() if self.training else maps)
        return cast(Tensor, maps + inside)


class Attention(nn.Module):
    """Multi-head attention of queries [B, N, width] over a context, by default themselves."""

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        bias: bool = False,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        context_width = width if context_width is None else context_width
        self.heads, self.fused = heads, True
        if norm is not None:
            self.group_norm = norm
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_width, width, bias=bias)
        self.to_v = nn.Linear(context_width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, N, width], context [B, M, context_width] -> [B, N, width]."""
        context = rows if context is None else context
        query, key, value = self.to_q(rows), self.to_k(context), self.to_v(context)
        attend = self._fused if self.fused else self._plain
        return cast(Tensor, self.to_out[0](attend(query, key, value)))

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, _, width = query.shape
        query, key, value = (
            each.view(batch, -1, self.heads, width // self.heads).transpose(1, 2) for each in (query, key, value)
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).reshape(batch, -1, width)

    def _plain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, count, width = query.shape
        head = width // self.heads
        query, key, value = (
            each.reshape(batch, -1, self.heads, head).permute(0, 2, 1, 3).reshape(batch * self.heads, -1, head)
            for each in (query, key, value)
        )
        nothing = query.new_empty(len(query), count, key.shape[1])
        scores = torch.baddbmm(nothing, query, key.transpose(-1, -2), beta=0, alpha=head**-0.5)
        found = torch.bmm(scores.softmax(dim=-1), value)
        return found.reshape(batch, self.heads, -1, head).permute(0, 2, 1, 3).reshape(batch, -1, width)


class MapAttention(Attention):
    """Self-attention of one head over all cells of a map, around which the map is added."""

    def __init__(self, width: int, *, groups: int, eps: float):
        super().__init__(width, 1, bias=True, norm=nn.GroupNorm(groups, width, eps=eps))

    def forward(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, width, h, w] -> the same."""
        cells = self.group_norm(maps.flatten(2)).transpose(1, 2)
        return super().forward(cells).transpose(1, 2).reshape(maps.shape) + maps


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): one half of a projection, scaled by the GELU of the other."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., width] -> [..., outputs]."""
        values, gates = self.proj(rows).chunk(2, dim=-1)
        return cast(Tensor, values * functional.gelu(gates))


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, rows: Tensor) -> Tensor:
        """[..., width] -> the same."""
        return cast(Tensor, self.net[2](self.net[0](rows)))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the condition, and a gated layer, each on the norm of its input and added to it."""

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.recompute = False
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, rows: Tensor, context: Tensor | None) -> Tensor:
        """[B, N, width], condition [B, M, context_width] (without it, both attend to the rows) -> [B, N, width]."""
        return recomputed(self, self._run, rows, context)

    def _run(self, rows: Tensor, context: Tensor | None) -> Tensor:
        rows = self.attn1(self.norm1(rows)) + rows
        rows = self.attn2(self.norm2(rows), context) + rows
        return cast(Tensor, self.ff(self.norm3(rows)) + rows)


class SpatialTransformer(nn.Module):
    """A transformer block over all cells of a map, around which the map is added."""

    def __init__(self, width: int, heads: int, context_width: int, *, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context_width)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor, context: Tensor | None) -> Tensor:
        """[B, width, h, w], condition [B, M, context_width] -> [B, width, h, w]."""
        batch, width, height, across = maps.shape
        rows = self.proj_in(self.norm(maps)).permute(0, 2, 3, 1).reshape(batch, height * across, width)
        for block in self.transformer_blocks:
            rows = block(rows, context)
        back = rows.reshape(batch, height, across, width).permute(0, 3, 1, 2).contiguous()
        return cast(Tensor, self.proj_out(back) + maps)


class Downsample(nn.Module):
    """Half the size; `even` pads both sides of each axis, otherwise only its end."""

    def __init__(self, width: int, *, even: bool):
        super().__init__()
        self.even = even
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1 if even else 0)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, width, h/2, w/2]."""
        return cast(Tensor, self.conv(maps if self.even else functional.pad(maps, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double the size, or another one, by repeated cells and a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Tensor, size: torch.Size | None = None) -> Tensor:
        """[B, width, h, w] -> [B, width, 2h, 2w], or of `size`."""
        size = torch.Size(2 * side for side in maps.shape[-2:]) if size is None else size
        return cast(Tensor, self.conv(functional.interpolate(maps, size=size, mode="nearest")))
