"""An image from another model goes straight on to its sound: a core sampler and decoder in the same graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from .graphs import node

pytestmark = pytest.mark.server

WIDTH, CONTEXT = 320, 1024  # by these ComfyUI knows the U-Net of Stable Diffusion 2


def norm(width: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (width,), "bias": (width,)}


def linear(inner: int, outer: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {"weight": (outer, inner)} | ({"bias": (outer,)} if bias else {})


def conv(inner: int, outer: int, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return {"weight": (outer, inner, kernel, kernel), "bias": (outer,)}


def below(parts: dict[str, dict[str, tuple[int, ...]]], before: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{before}{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def residual(inner: int) -> dict[str, tuple[int, ...]]:
    parts = {
        "in_layers.0": norm(inner),
        "in_layers.2": conv(inner, WIDTH),
        "emb_layers.1": linear(4 * WIDTH, WIDTH),
        "out_layers.0": norm(WIDTH),
        "out_layers.3": conv(WIDTH, WIDTH),
    }
    return below(parts | ({"skip_connection": conv(inner, WIDTH, 1)} if inner != WIDTH else {}))


def transformer() -> dict[str, tuple[int, ...]]:
    block = {f"norm{i}": norm(WIDTH) for i in (1, 2, 3)}
    for name, context in (("attn1", WIDTH), ("attn2", CONTEXT)):
        block[f"{name}.to_q"] = linear(WIDTH, WIDTH, bias=False)
        block |= {f"{name}.to_{letter}": linear(context, WIDTH, bias=False) for letter in "kv"}
        block[f"{name}.to_out.0"] = linear(WIDTH, WIDTH)
    block |= {"ff.net.0.proj": linear(WIDTH, 8 * WIDTH), "ff.net.2": linear(4 * WIDTH, WIDTH)}
    ends = {"norm": norm(WIDTH), "proj_in": linear(WIDTH, WIDTH), "proj_out": linear(WIDTH, WIDTH)}
    return below(ends) | below(block, "transformer_blocks.0.")


def unet() -> dict[str, tuple[int, ...]]:
    """Stable Diffusion 2's U-Net with a single level of a single layer."""
    return below(
        {
            "time_embed.0": linear(WIDTH, 4 * WIDTH),
            "time_embed.2": linear(4 * WIDTH, 4 * WIDTH),
            "input_blocks.0.0": conv(4, WIDTH),
            "input_blocks.1.0": residual(WIDTH),
            "input_blocks.1.1": transformer(),
            "middle_block.0": residual(WIDTH),
            "middle_block.1": transformer(),
            "middle_block.2": residual(WIDTH),
            "output_blocks.0.0": residual(2 * WIDTH),
            "output_blocks.0.1": transformer(),
            "output_blocks.1.0": residual(2 * WIDTH),
            "output_blocks.1.1": transformer(),
            "out.0": norm(WIDTH),
            "out.2": conv(WIDTH, 4),
        }
    )


def tiny_autoencoder() -> dict[str, dict[str, tuple[int, ...]]]:
    """TAESD's two files: blocks of three convolutions, with stages that halve or double the size between them."""
    block = below({f"conv.{i}": conv(64, 64) for i in (0, 2, 4)})
    stage = {"weight": (64, 64, 3, 3)}
    encoder: dict[str, dict[str, tuple[int, ...]]] = {"0": conv(3, 64), "1": block}
    for first in (2, 6, 10):
        encoder |= {str(first): stage} | {str(first + i): block for i in (1, 2, 3)}
    decoder: dict[str, dict[str, tuple[int, ...]]] = {"1": conv(4, 64)}
    for first in (3, 8, 13):
        decoder |= {str(first + i): block for i in (0, 1, 2)} | {str(first + 4): stage}
    return {
        "encoder": below(encoder | {"14": conv(64, 4)}),
        "decoder": below(decoder | {"18": block, "19": conv(64, 3)}),
    }


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        drawn = torch.randn(shape, generator=generator)
        weights[name] = drawn * fan**-0.5 if fan else 0.1 * drawn + float("norm" in name)
    return weights


def test_a_sampled_image_sounds(server, tiny_graph):
    """Weights are random, so the image is of nothing; other seeds make other images, and those other sounds."""
    models = server.folder / "models"
    files = {"diffusion_models/small.safetensors": unet()}
    files |= {f"vae_approx/taesd_{part}.safetensors": shapes for part, shapes in tiny_autoencoder().items()}
    for name, shapes in files.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(random_weights(shapes), models / name)
    graph = tiny_graph("generated_picture", seed=1)
    graph |= {
        "unet": node("UNETLoader", unet_name="small.safetensors", weight_dtype="default"),
        "nothing": node("LotusConditioning"),  # an empty prompt, worked out beforehand
        "empty": node("EmptyLatentImage", width=320, height=240, batch_size=1),
        "sample": node(
            "KSampler",
            model=["unet", 0],
            positive=["nothing", 0],
            negative=["nothing", 0],
            latent_image=["empty", 0],
            seed=5,
            steps=2,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "vae": node("VAELoader", vae_name="taesd"),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
    }
    graph["13"]["inputs"]["image"] = graph["12"]["inputs"]["images"] = ["picture", 0]
    sounds, images = [], []
    for seed in (5, 6):
        graph["sample"]["inputs"]["seed"] = seed
        entry = server.run(graph)
        ((samples, _),) = server.sounds(entry)["14"]
        sounds.append(samples)
        images.append(server.get("/view", **entry["outputs"]["12"]["images"][0]).content)
    assert images[0] != images[1]
    assert np.abs(sounds[0]).max() > 0
    assert np.abs(sounds[0] - sounds[1]).max() > 1e-4
