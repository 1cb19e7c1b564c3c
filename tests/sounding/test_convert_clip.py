"""CLIP in each published form against open_clip and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from sounding.convert.clip import _config, read_clip
from sounding.encoders.patches import PatchEncoder
from sounding.weights import WeightsError

from .published_weights import FILM, TINY_CLIP, built, tiny_clip

__all__ = ["tiny_clip"]

WIDTH, LAYERS = int(TINY_CLIP["width"]), int(TINY_CLIP["layers"])


@pytest.fixture
def clip_peer(tiny_clip: Path) -> Any:
    """A small CLIP of open_clip, with OpenAI's activation."""
    return open_clip.create_model("tiny-vit", force_quick_gelu=True).eval().requires_grad_(False)


class OpenAi(nn.Module):
    """What OpenAI's TorchScript archives hold: `visual`, and three numbers as buffers."""

    def __init__(self, peer: Any):
        super().__init__()
        self.visual = peer.visual
        for name, value in (("input_resolution", 48), ("context_length", 77), ("vocab_size", 64)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


def transformers_clip(peer: Any) -> CLIPVisionModelWithProjection:
    """The same weights in transformers' class."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        intermediate_size=4 * WIDTH,
        patch_size=TINY_CLIP["patch_size"],
        image_size=TINY_CLIP["image_size"],
        projection_dim=FILM,
        hidden_act="quick_gelu",
    )
    theirs, visual = CLIPVisionModelWithProjection(config).eval().requires_grad_(False), peer.visual
    vision, copy = theirs.vision_model, lambda to, source: to.load_state_dict(source.state_dict())
    vision.embeddings.class_embedding.copy_(visual.class_embedding)
    vision.embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
    vision.embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    copy(vision.pre_layrnorm, visual.ln_pre)
    copy(vision.post_layernorm, visual.ln_post)
    theirs.visual_projection.weight.copy_(visual.proj.T)
    for layer, block in zip(vision.encoder.layers, visual.transformer.resblocks, strict=True):
        copy(layer.layer_norm1, block.ln_1)
        copy(layer.layer_norm2, block.ln_2)
        copy(layer.mlp.fc1, block.mlp.c_fc)
        copy(layer.mlp.fc2, block.mlp.c_proj)
        copy(layer.self_attn.out_proj, block.attn.out_proj)
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            getattr(layer.self_attn, f"{name}_proj").weight.copy_(weight)
            getattr(layer.self_attn, f"{name}_proj").bias.copy_(bias)
    return theirs


def test_clip_patches_are_the_same_from_every_form(clip_peer: Any, tmp_path: Path) -> None:
    clip_peer.half().float()  # all forms hold what OpenAI's half precision holds
    state = clip_peer.state_dict()
    described = {"model_cfg": {"quick_gelu": True}}
    forms: dict[str, Path] = {}
    for name in ("safetensors", "bin"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        path = folder / f"open_clip_model.{name}"
        save_file(state, path) if name == "safetensors" else torch.save(state, path)
        forms[name], forms[f"{name} folder"] = path, folder
    theirs = transformers_clip(clip_peer)
    theirs.save_pretrained(tmp_path / "transformers")
    forms["transformers"] = tmp_path / "transformers"
    forms["transformers file"] = tmp_path / "transformers" / "model.safetensors"
    archive = OpenAi(open_clip.create_model("tiny-vit", force_quick_gelu=True)).eval()
    archive.visual.load_state_dict(clip_peer.visual.state_dict())
    torch.save(archive.half().state_dict(), tmp_path / "state.pt")
    forms["OpenAI state"] = tmp_path / "state.pt"

    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        hidden = theirs.vision_model(pixels).last_hidden_state
        patches = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden[:, 1:]))
        pooled = theirs(pixels).image_embeds
        torch.testing.assert_close(clip_peer.encode_image(pixels), pooled, atol=1e-5, rtol=1e-4)
    for name, path in forms.items():
        encoder = built(read_clip(path))
        assert encoder.config.quick_gelu, name
        torch.testing.assert_close(encoder.encode_pixels(pixels), patches, atol=1e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(encoder.tower(pixels)[0], pooled, atol=1e-5, rtol=1e-4, msg=name)


def test_clip_that_does_not_say_its_activation(clip_peer: Any, tmp_path: Path) -> None:
    save_file(clip_peer.state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(WeightsError, match=r"does not say whether.*--quick-gelu"):
        read_clip(tmp_path / "clip.safetensors")
    for quick in (True, False):
        assert read_clip(tmp_path / "clip.safetensors", quick_gelu=quick).config.quick_gelu == quick
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    assert not read_clip(tmp_path / "clip.safetensors").config.quick_gelu  # LAION's


@pytest.mark.parametrize(
    ("model", "width", "grid", "size"),
    [("ViT-B-32", 512, 7, 224), ("ViT-B-16", 512, 14, 224), ("ViT-L-14", 768, 16, 224), ("ViT-L-14-336", 768, 24, 336)],
)
def test_clip_sizes_are_known(model: str, width: int, grid: int, size: int) -> None:
    described = open_clip.get_model_config(model)
    with torch.device("meta"):
        state = _build_vision_tower(described["embed_dim"], CLIPVisionCfg(**described["vision_cfg"])).state_dict()
    config = _config(state, Path("clip"))
    assert (config.model, config.width, config.grid, config.image_size) == (model, width, grid, size)
    with torch.device("meta"):
        ours = PatchEncoder(config).tower.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in state.items()}


def test_other_towers_are_named(tmp_path: Path) -> None:
    save_file({"visual.layer1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"has no 'conv1.weight'.*CLIP ViT image tower"):
        read_clip(tmp_path / "resnet.safetensors")
    state = {
        "visual.conv1.weight": torch.zeros(8, 3, 4, 4),
        "visual.positional_embedding": torch.zeros(5, 8),
        "visual.proj": torch.zeros(8, 4),
    }
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=r"width 8 with 0 layers and patches of 4 at 8 pixels.*ViT-B-32"):
        read_clip(tmp_path / "small.safetensors")
