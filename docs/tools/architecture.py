"""The tables of docs/architecture.md, from the code itself: `python docs/tools/architecture.py` writes them.

Nothing is computed: modules and inputs lie on the meta device, where only shapes are known.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from sounding.networks.build import build_unet

PAGE = Path(__file__).parent.parent / "architecture.md"
# What is listed of each part, in the order in which it runs.
BLOCKS = {
    "patches": ["tower.conv1", "tower.transformer", "tower.ln_post"],
    "query": ["tower.text_model.embeddings", "tower.text_model.encoder", "tower.text_projection"],
    "grounding": ["to_query", "to_key", "to_value", "mlp"],
    "unet": [
        *("time_embedding", "conv_in", *(f"down_blocks.{i}" for i in range(4)), "mid_block"),
        *(f"up_blocks.{i}" for i in range(4)),
        "conv_out",
    ],
    "vae": ["encoder", "quant_conv", "post_quant_conv", "decoder"],
    "vocoder": ["conv_pre", *(f"upsampler.{i}" for i in range(5)), "resblocks", "conv_post"],
}


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(weight.numel() for weight in module.parameters())


def text(shape: Any) -> str:
    """A shape in Markdown."""
    return f"[{', '.join(map(str, shape))}]"


def run(model: SoundingModel) -> dict[str, tuple[str, str]]:
    """Each part once, at the length of the training's clips: part -> (what goes in, what comes out)."""
    config = model.config
    frames = config.latent_frames(config.train_seconds) * config.vae.stride
    image = torch.empty(1, 3, config.patches.image_size, config.patches.image_size)
    words = torch.zeros(1, 8, dtype=torch.long)
    patches = model.patches.encode_pixels(image)
    clap = model.query.tower  # as a whole it looks at its input's numbers
    query = clap.text_projection(clap.text_model.encoder(clap.text_model.embeddings(input_ids=words))[0][:, 0])
    condition = model.grounding.by_query(query, patches).tokens
    mel = torch.empty(1, 1, frames, config.audio.mel_bands)
    latents = model.vae.encode(mel).latent_dist.mean
    noise = model.unet(latents, torch.zeros(1, dtype=torch.long), condition).sample
    decoded = model.vae.decode(latents).sample
    waveform = model.vocoder(decoded[:, 0])
    return {
        "patches": (f"image {text(image.shape)}", f"patches {text(patches.shape)}"),
        "query": (f"tokens {text(words.shape)}", f"query {text(query.shape)}"),
        "grounding": (
            f"query {text(query.shape)}, patches {text(patches.shape)}",
            f"condition {text(condition.shape)}",
        ),
        "unet": (f"latents {text(latents.shape)}, step, condition", f"noise {text(noise.shape)}"),
        "vae": (f"mel {text(mel.shape)} / latents", f"latents {text(latents.shape)} / mel {text(decoded.shape)}"),
        "vocoder": (f"mel {text(decoded[:, 0].shape)}", f"waveform {text(waveform.shape)}"),
    }


def rows(part: str, module: nn.Module, shapes: dict[str, str]) -> Iterator[str]:
    """Lines on a part's blocks, and on what is in none of them."""
    rest = parameters(module)
    for block in BLOCKS[part]:
        found = module.get_submodule(block)
        rest -= parameters(found)
        name = f"{type(found).__name__} x {len(found)}" if isinstance(found, nn.ModuleList) else type(found).__name__
        yield f"| {part} | `{block}` | {name} | {shapes.get(block, '')} | {parameters(found):,} |"
    if rest:
        names = [
            name for name, _ in module.named_parameters() if not name.startswith(tuple(f"{b}." for b in BLOCKS[part]))
        ]
        shown = ", ".join(f"`{name}`" for name in names[:5])
        yield f"| {part} | {shown}{', ...' if len(names) > 5 else ''} | | | {rest:,} |"


def tables() -> str:
    """Both tables in Markdown."""
    config = SoundingConfig()
    with torch.device("meta"), torch.inference_mode():
        model = SoundingModel(config)
        shapes: dict[str, dict[str, str]] = {part: {} for part in BLOCKS}

        def watch(part: str, block: str) -> Any:
            def seen(module: nn.Module, inputs: Any, output: Any) -> None:
                while not isinstance(output, Tensor):
                    output = output[0]
                shapes[part][block] = text(output.shape)

            return seen

        for part, blocks in BLOCKS.items():
            for block in blocks:
                getattr(model, part).get_submodule(block).register_forward_hook(watch(part, block))
        ends = run(model)
        film = dataclasses.replace(config, unet=dataclasses.replace(config.unet, film_width=512))
        published = parameters(build_unet(film))
    counts = {part: parameters(getattr(model, part)) for part in BLOCKS}
    lines = ["| part | class | in | out | parameters |", "| --- | --- | --- | --- | --- |"]
    for part, (given, made) in ends.items():
        lines.append(f"| {part} | {type(getattr(model, part)).__name__} | {given} | {made} | {counts[part]:,} |")
    learning = counts["grounding"] + counts["unet"]
    lines += [
        f"| all | | | | {sum(counts.values()):,} |",
        f"| of these learn in the paper's training | grounding, unet | | | {learning:,} |",
        f"| AudioLDM-S's U-Net as published, for comparison | with FiLM | | | {published:,} |",
        "",
        "| part | block | class | out | parameters |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in BLOCKS:
        lines += rows(part, getattr(model, part), shapes[part])
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with its tables replaced."""
    return re.sub(r"(?s)(<!-- tables -->\n).*(\n<!-- end -->)", lambda found: found[1] + tables() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
