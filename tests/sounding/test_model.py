"""The main path on a tiny model of the real classes: shapes, seeds, what decides the sound, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sounding.audio.mel import MelSpectrogram, normalize
from sounding.audio.resampling import fit_length
from sounding.config import SoundingConfig
from sounding.model import SoundingModel

P = 25
RATE = 16_000


def picture(batch: int = 1, height: int = 60, width: int = 80, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def half(side: str, height: int = 60, width: int = 80) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask if side == "left" else 1 - mask


def generate(model: SoundingModel, **options: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"image": picture(), "seconds": 0.3, "steps": 2, **options}
    if "mask" not in options and "text" not in options:
        settings["mask"] = half("left")
    return model.generate(**settings).waveform


def test_shapes_of_each_stage(tiny_model: SoundingModel) -> None:
    patches = tiny_model.see(picture(2))
    assert patches.shape == (2, P, 16)
    condition = tiny_model.ground(patches, mask=torch.cat([half("left"), half("right")]))
    assert condition.weights.shape == (2, P)
    assert condition.tokens.shape == (2, 1, 16)
    noise = tiny_model.noise(0.64, [1, 2])
    assert noise.shape == (2, 8, 16, 16)
    latents = tiny_model.sample(condition, noise, steps=2)
    assert latents.shape == (2, 8, 16, 16)
    mel = tiny_model.decode(latents)
    assert mel.shape == (2, 64, 64)
    assert tiny_model.vocode(mel).shape == (2, 1, 64 * 160)
    assert tiny_model.vocode(mel, seconds=0.5).shape == (2, 1, RATE // 2)


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.64, 1.0, 1.28])
def test_sound_is_as_long_as_asked(tiny_model: SoundingModel, seconds: float) -> None:
    sound = generate(tiny_model, seconds=seconds, steps=1)
    assert sound.shape == (1, 1, round(seconds * RATE))
    assert sound.dtype == torch.float32
    assert torch.isfinite(sound).all()
    assert sound.std() > 1e-4


def test_decode_and_encode_are_the_autoencoders(tiny_model: SoundingModel) -> None:
    """By hand from the parts: level, log-mel, normalisation, scale."""
    waveform = 0.3 * torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    latents = tiny_model.encode(waveform)
    assert latents.shape == (2, 8, 16, 16)  # 0.625 s, padded to 0.64 s
    config = tiny_model.config.vae
    mel = MelSpectrogram(tiny_model.config.audio)(fit_length(normalize(waveform), 10_240))
    moments = tiny_model.vae.quant_conv(tiny_model.vae.encoder(mel[:, None]))
    torch.testing.assert_close(latents, moments[:, :8] * config.scale, atol=1e-4, rtol=1e-4)
    decoded = tiny_model.vae.decoder(tiny_model.vae.post_quant_conv(latents / config.scale))[:, 0]
    torch.testing.assert_close(tiny_model.decode(latents), decoded, atol=1e-4, rtol=1e-4)


def test_mel_normalisation_is_undone(
    tiny_model: SoundingModel, tiny_config: SoundingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = tiny_model.noise(0.32, [0])
    raw = tiny_model.decode(latents)
    shifted = replace(tiny_config, vae=replace(tiny_config.vae, mel_mean=-5.0, mel_std=2.5))
    monkeypatch.setattr(tiny_model, "config", shifted)
    torch.testing.assert_close(tiny_model.decode(latents), raw * 2.5 - 5)


def test_same_seed_same_sound(tiny_model: SoundingModel) -> None:
    first = generate(tiny_model, seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, generate(tiny_model, seed=3))
    assert not torch.allclose(first, generate(tiny_model, seed=4), atol=1e-3)


def test_an_item_does_not_depend_on_its_batch(tiny_model: SoundingModel) -> None:
    together = generate(tiny_model, batch=3, seed=5)
    assert together.shape[0] == 3
    for index in range(3):
        alone = generate(tiny_model, seed=5 + index)[0]
        torch.testing.assert_close(together[index], alone, atol=1e-4, rtol=1e-3)


def test_masks_in_a_batch_sound_as_alone(tiny_model: SoundingModel) -> None:
    both = generate(tiny_model, mask=torch.cat([half("left"), half("right")]), seed=5)
    for index, side in enumerate(("left", "right")):
        alone = generate(tiny_model, mask=half(side), seed=5 + index)[0]
        torch.testing.assert_close(both[index], alone, atol=1e-4, rtol=1e-3)


def test_the_masked_object_decides_the_condition(tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects side by side: the condition follows the selected one, whichever side it is on."""
    image = torch.zeros(1, 160, 160, 3)
    image[:, 40:120, 10:70, 0] = 1.0  # a red one
    image[:, 60:100, 100:150, 2] = 1.0  # a blue one, smaller
    red, blue = torch.zeros(1, 160, 160), torch.zeros(1, 160, 160)
    red[:, 40:120, 10:70], blue[:, 60:100, 100:150] = 1, 1
    patches = tiny_model.see(image)
    # a peaked attention, so that what is not selected gets no weight
    monkeypatch.setattr(tiny_model.grounding.weight_std, "data", torch.tensor(0.12))
    conditions = {
        name: tiny_model.ground(patches, mask=mask, clamp=True)
        for name, mask in (("red", red), ("blue", blue), ("both", torch.maximum(red, blue)))
    }
    columns = torch.arange(P) % 5
    assert conditions["red"].weights[0, columns < 2].sum() > conditions["red"].weights[0, columns > 2].sum() * 2
    assert conditions["blue"].weights[0, columns > 2].sum() > conditions["blue"].weights[0, columns < 2].sum() * 2
    assert not torch.allclose(conditions["red"].tokens, conditions["blue"].tokens, atol=1e-4)
    # what is not selected may change (as patches) without a trace, as far as its weight is zero
    unweighted = conditions["blue"].weights[0] == 0
    assert unweighted.any()
    changed = patches.clone()
    changed[:, unweighted] += 1
    again = tiny_model.ground(changed, mask=blue, clamp=True)
    torch.testing.assert_close(again.tokens, conditions["blue"].tokens)


def test_the_condition_decides_the_sound(tiny_model: SoundingModel) -> None:
    left, right = (generate(tiny_model, mask=half(side), seed=1) for side in ("left", "right"))
    assert not torch.allclose(left, right, atol=1e-6)
    unguided = [generate(tiny_model, mask=half(side), seed=1, cfg=0.0) for side in ("left", "right")]
    torch.testing.assert_close(*unguided)  # at 0 only the null condition speaks


def test_several_masks_on_one_picture(tiny_model: SoundingModel) -> None:
    masks = torch.cat([half("left"), half("right"), torch.ones(1, 60, 80)])
    condition = tiny_model.ground(tiny_model.see(picture()), mask=masks)
    assert len(condition) == 3
    np.testing.assert_allclose(condition.weights.mean(dim=1).numpy(), 1 / P, rtol=1e-4)
    assert torch.allclose(condition.weights[2], torch.tensor(1 / P))
    assert generate(tiny_model, mask=masks).shape == (3, 1, 4800)


def test_a_blend_is_the_sound_of_one_mask_of_all_objects(tiny_model: SoundingModel) -> None:
    """Beside a sound per mask, for both of which the image is encoded once."""
    masks, seen = torch.cat([half("left"), half("right") * 0.5]), []
    with tiny_model.patches.register_forward_pre_hook(lambda part, inputs: seen.append(len(inputs[0]))):
        blend = generate(tiny_model, mask=masks, blend=True)
        assert generate(tiny_model, mask=masks).shape == (2, *blend.shape[1:])
    assert seen == [1, 1]
    assert torch.equal(blend, generate(tiny_model, mask=torch.maximum(masks[:1], masks[1:])))
    for options in ({"text": "a dog"}, {"image": picture(2), "mask": masks}):
        with pytest.raises(ValueError, match=r"blend came with .* but masks of one image are expected"):
            generate(tiny_model, blend=True, **options)


def test_one_mask_serves_many_pictures(tiny_model: SoundingModel) -> None:
    assert generate(tiny_model, image=picture(2), mask=half("left")).shape[0] == 2


def test_text_attends(tiny_model: SoundingModel) -> None:
    patches = tiny_model.see(picture())
    condition = tiny_model.ground(patches, text=["a dog barks", "rain on a roof"])
    np.testing.assert_allclose(condition.weights.sum(dim=1).numpy(), 1, rtol=1e-5)
    maps = condition.attention_map((60, 80))
    assert maps.shape == (2, 60, 80)
    assert maps.min() == 0
    assert maps.max() == 1
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)
    single = tiny_model.ground(patches, text="a dog barks")
    torch.testing.assert_close(single.weights, condition.weights[:1])
    assert generate(tiny_model, text="a dog barks").shape == (1, 1, 4800)


def test_audio_queries_refuse_text_but_take_masks(tiny_config: SoundingConfig) -> None:
    grounding = replace(tiny_config.grounding, query="audio")
    model = SoundingModel(replace(tiny_config, grounding=grounding)).requires_grad_(False)
    with pytest.raises(ValueError, match=r"audio queries.*use a mask"):
        generate(model, text="a dog")
    assert generate(model).shape == (1, 1, 4800)


NAN = torch.full((1, 60, 80, 3), torch.nan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": NAN}, "image has values that are not finite"),
        ({"image": torch.zeros(1, 3, 60, 80)}, r"image has shape \(1, 3, 60, 80\)"),
        ({"image": torch.zeros(60, 80)}, r"image has shape \(60, 80\)"),
        ({"mask": torch.zeros(1, 60, 80)}, "mask is empty"),
        ({"mask": torch.cat([half("left"), torch.zeros(1, 60, 80)])}, "mask is empty"),
        ({"mask": NAN[..., 0]}, "mask has values nan"),
        ({"mask": torch.full((1, 60, 80), 255.0)}, r"mask has values 255\.\.255"),
        ({"mask": torch.zeros(1, 60, 80, 3)}, "mask has shape"),
        ({"mask": torch.ones(2, 60, 80), "text": ["a", "b", "c"]}, "2 masks and 3 texts"),
        ({"mask": None, "text": None}, "generate got neither mask nor text"),
        ({"text": ""}, "a sentence is expected"),
        ({"text": []}, "a sentence is expected"),
        ({"mask": torch.ones(2, 60, 80), "batch": 2}, "batch is 2 with 2 selections"),
        ({"batch": 0}, "batch is 0"),
        ({"image": picture(2), "mask": torch.ones(3, 60, 80)}, "2 images and 3 masks"),
        ({"image": picture(2), "text": ["a", "b", "c"]}, "2 images and 3 texts"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "heun"}, "sampler is 'heun'"),
    ],
)
def test_bad_input_gets_one_sentence(tiny_model: SoundingModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        generate(tiny_model, **options)
    assert "expected" in str(error.value) or "need" in str(error.value) or "should" in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_conditions_and_noises_must_fit(tiny_model: SoundingModel) -> None:
    condition = tiny_model.ground(tiny_model.see(picture()), mask=torch.ones(2, 60, 80))
    with pytest.raises(ValueError, match="2 conditions and 3 noises"):
        tiny_model.sample(condition, tiny_model.noise(0.3, [1, 2, 3]), steps=1)
    assert tiny_model.sample(condition, tiny_model.noise(0.3, [1]), steps=1).shape[0] == 2


@pytest.mark.parametrize("geometry", ["crop", "pad"])
def test_a_small_mask_is_placed_by_the_pictures_size(
    tiny_config: SoundingConfig, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch, geometry: str
) -> None:
    """A mask of another size and shape than its picture weighs the same patches as a full-sized one."""
    config = replace(tiny_config, patches=replace(tiny_config.patches, geometry=geometry))  # type: ignore[arg-type]
    monkeypatch.setattr(tiny_model, "config", config)
    large = torch.zeros(1, 160, 320)
    large[:, 32:96, 160:224] = 1
    small = torch.nn.functional.interpolate(large[None], (80, 80), mode="area")[0]
    weights = [
        tiny_model.ground(torch.zeros(1, P, 16), mask=mask, image_size=(160, 320)).weights for mask in (large, small)
    ]
    torch.testing.assert_close(weights[0], weights[1], atol=0.01, rtol=0)
    assert not torch.allclose(
        weights[0], tiny_model.ground(torch.zeros(1, P, 16), mask=small, image_size=(80, 80)).weights, atol=0.01
    )


def test_parts_are_announced_before_they_are_used(tiny_model: SoundingModel) -> None:
    used: list[str] = []
    handles = [
        getattr(tiny_model, part).register_forward_pre_hook(lambda module, inputs, part=part: check(part))
        for part in ("patches", "unet", "vocoder")
    ]

    def check(part: str) -> None:
        assert part in used[-2:], part

    try:
        generate(tiny_model, on_use=used.extend)
        assert used == ["patches", "grounding", "grounding", "unet", "vae", "vocoder"]
        used.clear()
        generate(tiny_model, text="a dog", on_use=used.extend)
        assert used == ["patches", "query", "grounding", "grounding", "unet", "vae", "vocoder"]
    finally:
        for handle in handles:
            handle.remove()


def test_progress_is_reported_and_may_cancel(tiny_model: SoundingModel) -> None:
    calls: list[tuple[int, int]] = []
    generate(tiny_model, steps=3, on_step=lambda *counts: calls.append(counts))
    assert calls == [(1, 3), (2, 3), (3, 3)]

    def cancel(done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tiny_model, on_step=cancel)


def test_half_precision_stays_close(tiny_model: SoundingModel, tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config).requires_grad_(False)
    model.load_state_dict(tiny_model.state_dict())
    model.to(torch.bfloat16)
    condition, reference = (m.ground(m.see(picture()), mask=half("left")) for m in (model, tiny_model))
    assert condition.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(condition.tokens.float(), reference.tokens, atol=0.05, rtol=0.05)
    noise = model.noise(0.3, [0])
    latents, expected = (m.sample(c, noise, steps=5) for m, c in ((model, condition), (tiny_model, reference)))
    assert latents.dtype == torch.float32
    assert (latents - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()
    assert model.vocode(model.decode(latents)).dtype == torch.float32


def test_parts_may_have_precisions_of_their_own(tiny_model: SoundingModel, tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config).requires_grad_(False)
    model.load_state_dict(tiny_model.state_dict())
    model.unet.to(torch.bfloat16)
    model.patches.to(torch.bfloat16)
    assert torch.isfinite(generate(model)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_makes_the_same_sound(tiny_model: SoundingModel, tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config).requires_grad_(False)
    model.load_state_dict(tiny_model.state_dict())
    with torch.backends.cudnn.flags(allow_tf32=False):  # convolutions on a GPU else keep ten bits, a CPU's all of them
        sound = generate(model.to("cuda")).cpu()
    torch.testing.assert_close(sound, generate(tiny_model), atol=5e-3, rtol=0)
