"""OpenL3 as published, narrower, with random weights: files as Keras writes them."""

from __future__ import annotations

from pathlib import Path

import h5py
import torch
from torch import Tensor

from training.evaluate.models.openl3 import Tower

WIDTHS = (2, 3, 4, 5)


def write_openl3(path: Path, channels: int) -> Tower:
    """The weights of a tower of sounds (one channel) or images (three)."""
    made = openl3_tower(channels)
    _write_keras(path, made)
    return made


def openl3_tower(channels: int) -> Tower:
    made = Tower(channels, WIDTHS, swapped=channels == 3).eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5) if "var" in name else torch.nn.init.normal_(value, 0, 0.3)
    return made


def _write_keras(path: Path, made: Tower) -> None:
    """A file of weights as Keras 2 writes one: layers with and without weights, in the model's order."""
    layers: list[tuple[str, dict[str, Tensor]]] = [("input_1", {})]
    for at, (norm, conv) in enumerate(zip(made.norms, made.convs, strict=True)):
        values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        names = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
        layers.append((f"batch_normalization_{at}", dict(zip(names, values, strict=True))))
        kernel = conv.weight.permute(2, 3, 1, 0)
        name = "embedding_layer" if at == 7 else f"conv2d_{at}"
        layers += [(name, {"kernel:0": kernel, "bias:0": conv.bias}), (f"activation_{at}", {})]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, weights in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{weight}".encode() for weight in weights]
            for weight, value in weights.items():
                group.create_dataset(f"{name}/{weight}", data=value.detach().numpy())
