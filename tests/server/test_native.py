"""Our model as the host's own MODEL, CONDITIONING and VAE, against our own sampler and decoder, without a server.

The host's parts run in a process of their own, once for all tests. Its noisy latents are ours times
sqrt(1 + sigma^2), and its "simple" schedule takes our time steps where the number of steps divides 1000.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.config import DiffusionConfig, SoundingConfig
from sounding.model import SoundingModel

from .comfyui import ROOT, run_beside

pytestmark = pytest.mark.server

CLOSE = 1e-5  # of the largest number; 1.3e-6 is measured: float32 through ten steps, in another order of operations
APART = 1e-3

PROBE = """
import copy, dataclasses, importlib.util, json, sys
from pathlib import Path

import torch
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.hooks, comfy.sample, comfy.samplers, comfy.sd

root, *checkpoints = map(Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("pack", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
from pack.nodes.host.loaded import LoadedModel
from pack.nodes.native import SoundingNative
from pack.sounding.audio.resampling import resample
from pack.sounding.diffusion import build_noise_schedule, draw_noise

STEPS, CFG, SEED = 10, 3.0, 7

def noise_of(*seeds, frames=32):
    return draw_noise((8, frames, 16), list(seeds))

def condition_of(loaded, rows=1):
    generator = torch.Generator().manual_seed(1)
    image, mask = torch.rand(1, 32, 32, 3, generator=generator), torch.rand(rows, 8, 8, generator=generator)
    model = loaded.on_device("patches", "grounding")
    condition = model.ground(model.see(image), mask=mask, image_size=(32, 32))
    # Untrained grounding hardly tells masks apart.
    return dataclasses.replace(condition, tokens=torch.randn(condition.tokens.shape, generator=generator))

def native(loaded, condition, **more):
    return SoundingNative.execute(loaded, condition, **more).result

def ours(loaded, condition, noise, sampler, **more):
    more = {"steps": STEPS, "cfg": CFG, **more}
    return loaded.on_device("grounding", "unet").sample(condition, noise, sampler=sampler, **more)

def host(parts, noise, sampler="dpmpp_2m", schedule="simple", steps=STEPS, latent=None, **more):
    model, positive, negative, _ = parts
    latent = torch.zeros_like(noise) if latent is None else latent
    return comfy.sample.sample(
        model, noise, steps, CFG, sampler, schedule, positive, negative, latent, seed=SEED, disable_pbar=True, **more
    )

def custom(parts, noise, sampler, sigmas):
    model, positive, negative, _ = parts
    chosen = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        model, noise, CFG, chosen, sigmas, positive, negative, torch.zeros_like(noise), disable_pbar=True, seed=SEED
    )

def apart(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())

def message(call, *args, **more):
    try:
        call(*args, **more)
    except ValueError as error:
        return str(error)

def ddim(loaded, condition, noise, sigmas):
    # Song et al. 2021, equation 12 with sigma 0, in their own variables and double precision.
    model, config = loaded.on_device("grounding", "unet"), loaded.config.diffusion
    schedule = build_noise_schedule(config).alphas_cumprod.double()
    all_sigmas = ((1 - schedule) / schedule).sqrt()
    x, tokens = noise.double(), condition.tokens
    null = model.grounding.null_condition(1).expand_as(tokens)
    for now, then in zip(sigmas[:-1].double(), sigmas[1:].double()):
        step = int((all_sigmas - now).abs().argmin())
        alpha, after = 1 / (1 + now**2), 1 / (1 + then**2)
        made = [model.unet(x.float(), torch.tensor(step), encoder_hidden_states=each).sample.double()
                for each in (tokens, null)]
        guided = CFG * made[0] + (1 - CFG) * made[1]
        if config.prediction == "v_prediction":
            clean = alpha.sqrt() * x - (1 - alpha).sqrt() * guided
            guided = alpha.sqrt() * guided + (1 - alpha).sqrt() * x
        else:
            clean = (x - (1 - alpha).sqrt() * guided) / alpha.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * guided
    return x

def sampling(path):
    found = {}
    loaded = LoadedModel(path, "fp32")
    condition, noise = condition_of(loaded), noise_of(SEED)
    before = ours(loaded, condition, noise, "dpm++")
    parts = native(loaded, condition)
    model = parts[0]
    assert torch.equal(before, ours(loaded, condition, noise, "dpm++"))
    found["dpm++"] = apart(host(parts, noise), before)
    found["karras"] = apart(host(parts, noise, schedule="karras"), ours(loaded, condition, noise, "dpm++ karras"))
    table = model.get_model_object("model_sampling").sigmas
    times = torch.linspace(1000, 0, STEPS + 1)[:-1].round().long() - 1
    sigmas = torch.cat([table[times], table[:1]])
    found["ddim"] = apart(custom(parts, noise, "ddim", sigmas) / (1 + table[0] ** 2).sqrt(),
                          ours(loaded, condition, noise, "ddim"))
    for schedule in ("ddim_uniform", "normal", "sgm_uniform"):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), schedule, STEPS)
        found[schedule] = apart(host(parts, noise, "ddim", schedule),
                                ddim(loaded, condition, noise * (sigmas[0] ** 2 / (1 + sigmas[0] ** 2)).sqrt()
                                     if schedule == "ddim_uniform" else noise, sigmas))
    latent = noise_of(3)
    found["denoise"] = apart(host(parts, noise, steps=5, denoise=0.5, latent=latent),
                             ours(loaded, condition, noise, "dpm++", denoise=0.5, latents=latent))
    mask = torch.zeros(1, 32, 16)
    mask[:, 16:] = 1
    renewed = host(parts, noise, latent=latent, noise_mask=mask)
    found["kept"] = apart(renewed[:, :, :16], latent[:, :, :16])
    found["renewed"] = apart(renewed[:, :, 16:], latent[:, :, 16:])
    block = comfy.sample.prepare_noise(torch.zeros(1, 8, 128, 16), SEED)
    found["seed"] = bool(torch.equal(block, noise_of(SEED, frames=128)))
    return found

def rows(path):
    found = {}
    loaded = LoadedModel(path, "fp32")
    condition, noise = condition_of(loaded, rows=2), noise_of(7, 8)
    parts = native(loaded, condition)
    found["paired"] = apart(host(parts, noise), ours(loaded, condition, noise, "dpm++"))
    swapped = host(parts, noise.flip(0))
    found["differ"] = apart(swapped.flip(0), host(parts, noise))
    avoided = native(loaded, condition_of(loaded), negative=condition_of(loaded))
    assert torch.equal(avoided[1][0][0], avoided[2][0][0])
    found["too few"] = message(host, parts, noise[:1])
    found["foreign latent"] = message(host, parts, torch.randn(1, 4, 64, 64))
    found["audio latent"] = message(host, parts, torch.zeros(1, 64, 1024))
    found["foreign conditioning"] = message(host, (parts[0], [[torch.randn(1, 77, 768), {}]], *parts[2:]), noise)
    long = noise_of(7, frames=520)
    one = native(loaded, condition_of(loaded))
    found["windows"] = apart(host(one, long, steps=2), ours(loaded, condition_of(loaded), long, "dpm++", steps=2))
    return found

def sounds(path):
    found = {}
    loaded = LoadedModel(path, "fp32")
    vae = native(loaded, condition_of(loaded))[3]
    assert isinstance(vae, comfy.sd.VAE)
    latents = noise_of(1, 2, frames=32)
    made = vae.decode(latents)
    model = loaded.on_device("vae", "vocoder")
    own = model.vocode(model.decode(latents))
    found["rate"], found["shape"], found["own shape"] = vae.audio_sample_rate, list(made.shape), list(own.shape)
    rate, own_rate = vae.audio_sample_rate, loaded.config.audio.sample_rate
    found["decoded"] = apart(made.movedim(-1, 1), resample(own, own_rate, rate))
    assert torch.equal(vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2), made)
    stereo = torch.randn(1, 20000, 2, generator=torch.Generator().manual_seed(0)) / 10
    encoded = vae.encode(stereo)
    found["encoded"] = apart(encoded, model.encode(resample(stereo.mean(dim=-1), rate, own_rate)))
    found["image"] = message(vae.decode, torch.zeros(1, 4, 64, 64))
    return found

def patches(path, other):
    found = {}
    loaded, second = LoadedModel(path, "fp32"), LoadedModel(other, "fp32")
    condition, noise = condition_of(loaded), noise_of(SEED)
    parts = native(loaded, condition)
    plain, own = host(parts, noise), ours(loaded, condition, noise, "dpm++")
    foreign = {f"lora_unet_input_blocks_1_1_proj_in.lora_{end}.weight": torch.ones(4, 4) for end in ("up", "down")}
    patched, _ = comfy.sd.load_lora_for_models(parts[0], None, foreign, 1.0, 0.0)
    found["foreign lora"] = apart(host((patched, *parts[1:]), noise), plain)
    name, weight = next((n, w) for n, w in loaded._model.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
    lora = {f"{key}.lora_up.weight": torch.ones(len(weight), 1),
            f"{key}.lora_down.weight": torch.ones(1, weight.shape[1]), f"{key}.alpha": torch.tensor(1.0)}
    down = {k.replace("to_k", "to_v"): v for k, v in lora.items()}
    patched, _ = comfy.sd.load_lora_for_models(parts[0], None, {**lora, **down}, 1.0, 0.0)
    found["own lora"] = apart(host((patched, *parts[1:]), noise), plain)
    assert torch.equal(ours(loaded, condition, noise, "dpm++"), own), "a LoRA of a clone reaches our own sampler"
    found["after lora"] = apart(host(parts, noise), plain)

    hooked, _, hooks = comfy.hooks.load_hook_lora_for_models(parts[0], None, {**lora, **down}, 1.0, 0.0)
    positive = comfy.hooks.set_hooks_for_conditioning(parts[1], hooks)
    found["hooked"] = apart(host((hooked, positive, *parts[2:]), noise), plain)
    found["after hook"] = apart(host(parts, noise), plain)

    merged, theirs = parts[0].clone(), native(second, condition_of(second))[0].get_key_patches("diffusion_model.")
    for key, patch in theirs.items():
        merged.add_patches({key: patch}, 0.5, 0.5)
    found["merged"] = apart(host((merged, *parts[1:]), noise), plain)
    expected = LoadedModel(path, "fp32")
    mixed = expected.on_device("unet").unet
    for weight, one in zip(mixed.parameters(), second.on_device("unet").unet.parameters()):
        weight.data = (weight.data + one.data) / 2
    found["merged right"] = apart(host((merged, *parts[1:]), noise), ours(expected, condition, noise, "dpm++"))
    copied = copy.deepcopy(parts[0].model)
    assert copied.diffusion_model is not parts[0].model.diffusion_model
    assert sorted(copied.state_dict()) == sorted(parts[0].model.state_dict())
    parts[0].detach()
    parts[0].partially_load(parts[0].load_device, 1)
    assert parts[0].loaded_size() == parts[0].model_size(), "a part of the U-Net stays where it was"
    return found

with torch.inference_mode():
    tiny, film, other = checkpoints
    found = {"sampling": sampling(tiny), "film": sampling(film), "rows": rows(tiny), "sounds": sounds(tiny),
             "patches": patches(tiny, other)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(
    comfyui: Path, tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the probe found, for the tiny model, and for one with FiLM that predicts v on another noise schedule."""
    folder = tmp_path_factory.mktemp("native")
    width = tiny_config.grounding.condition_width
    film = dataclasses.replace(
        tiny_config,
        unet=dataclasses.replace(tiny_config.unet, film_width=width),
        diffusion=DiffusionConfig(prediction="v_prediction", beta_schedule="linear"),
    )
    paths = [tiny_checkpoint]
    for name, config in (("film", film), ("other", tiny_config)):
        torch.manual_seed(1)
        paths.append(folder / f"{name}.safetensors")
        SoundingModel(config).save_pretrained(paths[-1], dtype=torch.float32)
    ran = run_beside(comfyui, PROBE, ROOT, *paths)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("checkpoint", ["sampling", "film"])
@pytest.mark.parametrize("name", ["dpm++", "karras", "ddim", "denoise"])
def test_the_hosts_samplers_make_our_latents(measured, checkpoint, name):
    """dpmpp_2m and ddim, from the same noise, with the condition attended to or by FiLM, and for both predictions."""
    assert measured[checkpoint][name] < CLOSE


@pytest.mark.parametrize("checkpoint", ["sampling", "film"])
@pytest.mark.parametrize("schedule", ["ddim_uniform", "normal", "sgm_uniform"])
def test_the_hosts_schedules_are_followed(measured, checkpoint, schedule):
    """Against DDIM as its authors write it, over the host's own steps."""
    assert measured[checkpoint][schedule] < CLOSE


def test_five_seconds_of_one_seed_are_the_same_sound(measured):
    """A latent as long as one of our blocks of noise has the host's own noise."""
    assert measured["sampling"]["seed"]


def test_a_noise_mask_keeps_the_rest(measured):
    assert measured["sampling"]["kept"] < CLOSE
    assert measured["sampling"]["renewed"] > APART


def test_selections_and_latents_are_paired(measured):
    rows = measured["rows"]
    assert rows["paired"] < CLOSE
    assert rows["differ"] > APART, "both rows have the same condition"


def test_long_latents_are_denoised_in_windows(measured):
    assert measured["rows"]["windows"] < CLOSE


def test_what_does_not_fit_is_said_before_sampling(measured):
    rows = measured["rows"]
    assert "2 selections, but the latent has 1 rows; set batch_size of Sounding Empty Latent to 2" in rows["too few"]
    assert "(1, 4, 64, 64), but [B, 8, frames, 16] is expected" in rows["foreign latent"]
    assert "(1, 64, 1024), but [B, 8, frames, 16] is expected" in rows["audio latent"]
    assert "(1, 77, 768), but [B, N, 16] is expected" in rows["foreign conditioning"]


def test_the_vae_is_vae_and_vocoder(measured):
    """At our rate where the host asks the VAE for it, else at 44.1 kHz, which older hosts take for granted."""
    sounds = measured["sounds"]
    rows, _, samples = sounds["own shape"]
    assert sounds["rate"] in (16_000, 44_100)
    assert sounds["shape"] == [rows, samples * sounds["rate"] // 16_000, 1]
    assert sounds["decoded"] < CLOSE
    assert sounds["encoded"] < CLOSE
    assert "(1, 4, 64, 64), but [B, 8, frames, 16] is expected" in sounds["image"]


def test_loras_of_other_models_change_nothing(measured):
    assert measured["patches"]["foreign lora"] == 0


def test_loras_and_hooks_of_this_unet_change_only_their_clone(measured):
    patches = measured["patches"]
    assert patches["own lora"] > APART
    assert patches["hooked"] > APART
    assert patches["after lora"] == patches["after hook"] == 0


def test_two_models_are_merged(measured):
    assert measured["patches"]["merged"] > APART
    assert measured["patches"]["merged right"] < CLOSE
