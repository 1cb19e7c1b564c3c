"""The example for ComfyUI's own sampler on the real server: its sound is that of our own nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from .comfyui import Graph
from .graphs import node

pytestmark = pytest.mark.server


def test_ksampler_and_our_sampler_make_the_same_sound(server, tiny_graph):
    """The host's nodes and ours in one graph, from one seed; a latent of 128 frames is one block of our noise."""
    graph: Graph = tiny_graph("native_sampling", seed=11, seconds=5.12, steps=5)
    graph |= {
        "ours": node(
            "SoundingSampler",
            model=["1", 0],
            condition=["5", 0],
            latent=["6", 0],
            seed=11,
            steps=5,
            cfg=graph["8"]["inputs"]["cfg"],
            scheduler="dpm++",
            denoise=1.0,
        ),
        "heard": node("VAEDecodeAudio", samples=["ours", 0], vae=["7", 3]),
        "saved": node("SaveAudio", audio=["heard", 0], filename_prefix="ours"),
        "mel": node("SoundingDecode", model=["1", 0], latent=["8", 0]),
        "back": node("VAEEncodeAudio", audio=["9", 0], vae=["7", 3]),
        "again": node("SoundingDecode", model=["1", 0], latent=["back", 0]),
        "drawn": node("PreviewImage", images=["mel", 1]),
        "drawn again": node("PreviewImage", images=["again", 1]),
    }
    entry = server.run(graph)
    sounds = server.sounds(entry)
    (samples, rate), (own, own_rate) = sounds["10"][0], sounds["saved"][0]
    assert rate == own_rate
    assert samples.shape == own.shape == (round(5.12 * rate),)
    assert np.abs(samples).max() > 0.01
    assert np.abs(samples - own).max() < 1e-3 * np.abs(own).max()
    assert len(entry["outputs"]["drawn"]["images"]) == len(entry["outputs"]["drawn again"]["images"]) == 1


def test_core_nodes_change_models_conditionings_and_schedules(server, tiny_graph):
    """A merge, a LoRA of another model, rescaled guidance, a combined conditioning, and three ways of sampling."""
    lora = server.folder / "models" / "loras" / "foreign.safetensors"
    lora.parent.mkdir(exist_ok=True)
    save_file({f"lora_unet_mid_block_x.lora_{end}.weight": torch.ones(2, 2) for end in ("up", "down")}, lora)
    graph: Graph = tiny_graph("native_sampling", seed=11, seconds=0.5, steps=4)
    positive, negative, latent = ["both", 0], ["7", 2], ["6", 0]
    graph |= {
        "load again": node("SoundingLoadModel", checkpoint="tiny.safetensors", dtype="fp32"),
        "other": node("SoundingNative", model=["load again", 0], condition=["5", 0], negative=["5", 0]),
        "merged": node("ModelMergeSimple", model1=["7", 0], model2=["other", 0], ratio=0.5),
        "lora": node("LoraLoaderModelOnly", model=["merged", 0], lora_name=lora.name, strength_model=1.0),
        "rescaled": node("RescaleCFG", model=["lora", 0], multiplier=0.5),
        "both": node("ConditioningCombine", conditioning_1=["7", 1], conditioning_2=["other", 1]),
        "kept": node("ModelSave", model=["merged", 0], filename_prefix="merged"),
        "noise": node("RandomNoise", noise_seed=3),
        "guider": node("CFGGuider", model=["rescaled", 0], positive=positive, negative=negative, cfg=3.0),
        "sampler": node("KSamplerSelect", sampler_name="euler_ancestral"),
        "sigmas": node("BasicScheduler", model=["rescaled", 0], scheduler="exponential", steps=3, denoise=1.0),
        "custom": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=latent,
        ),
        "advanced": node(
            "KSamplerAdvanced",
            model=["rescaled", 0],
            positive=positive,
            negative=negative,
            latent_image=["custom", 0],
            add_noise="enable",
            noise_seed=5,
            steps=4,
            cfg=3.0,
            sampler_name="dpmpp_2m_sde",
            scheduler="karras",
            start_at_step=2,
            end_at_step=4,
            return_with_leftover_noise="disable",
        ),
        "decoded": node("VAEDecodeAudio", samples=["advanced", 0], vae=["other", 3]),
        "saved": node("SaveAudio", audio=["decoded", 0], filename_prefix="changed"),
    }
    entry = server.run(graph)
    ((samples, rate),) = server.sounds(entry)["saved"]
    ((plain, _),) = server.sounds(entry)["10"]
    assert samples.shape == plain.shape
    assert len(samples) / rate == pytest.approx(0.56)
    assert np.abs(samples - plain).max() > 0.01 * np.abs(plain).max() > 0
    assert list((server.folder / "output").glob("merged*.safetensors"))
