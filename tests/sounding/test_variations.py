"""Near variants of a sound: noise between that of two seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sounding.diffusion import BLOCK, draw_noise, draw_varied_noise, vary_noise
from sounding.model import SoundingModel

SHAPE = (8, 200, 16)


def slerp(a: np.ndarray, b: np.ndarray, strength: float) -> np.ndarray:
    """Shoemake's formula on two vectors."""
    angle = np.arccos(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - strength) * angle) * a + np.sin(strength * angle) * b) / np.sin(angle)


def test_the_ends_are_the_two_seeds_own_noise() -> None:
    own, other = draw_noise(SHAPE, [7]), draw_noise(SHAPE, [8])
    assert torch.equal(draw_varied_noise(SHAPE, [7], [8], 0.0), own)
    assert torch.equal(draw_varied_noise(SHAPE, [7], [8], 1.0), other)
    assert torch.equal(draw_varied_noise(SHAPE, [7], [None], 0.5), own)
    assert torch.allclose(draw_varied_noise(SHAPE, [7], [7], 0.5), own, atol=1e-5)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_between_lies_the_sphere(strength: float) -> None:
    own, other = draw_noise(SHAPE, [7])[..., :BLOCK, :], draw_noise(SHAPE, [8])[..., :BLOCK, :]
    varied = draw_varied_noise(SHAPE, [7], [8], strength)
    flat = [each.double().numpy().ravel() for each in (own, other, varied[..., :BLOCK, :])]
    np.testing.assert_allclose(flat[2], slerp(flat[0], flat[1], strength), atol=1e-5)
    assert float(varied.std()) == pytest.approx(1, abs=0.02)
    assert float(varied.mean()) == pytest.approx(0, abs=0.02)


def test_items_do_not_depend_on_each_other_nor_beginnings_on_the_length() -> None:
    many = draw_varied_noise(SHAPE, [7, 8, 9], [1, None, 3], 0.4)
    assert torch.equal(many[2:], draw_varied_noise(SHAPE, [9], [3], 0.4))
    assert torch.equal(many[1:2], draw_noise(SHAPE, [8]))
    longer = draw_varied_noise((8, 600, 16), [9], [3], 0.4)
    assert torch.equal(longer[:, :, :200], many[2:])


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strengths_beyond_the_ends_are_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="variation_strength is"):
        vary_noise(torch.ones(1, 2), torch.ones(1, 2), strength)


def test_sounds_vary_with_the_strength(tiny_model: SoundingModel) -> None:
    image, masks = torch.rand(1, 32, 32, 3), torch.zeros(2, 32, 32)
    masks[0, :16], masks[1, 16:] = 1, 1

    def sounds(**settings: object) -> torch.Tensor:
        made = tiny_model.generate(image=image, mask=masks, seconds=0.5, steps=3, seed=7, level=False, **settings)  # type: ignore[arg-type]
        return made.waveform

    own = sounds()
    assert torch.equal(sounds(variation=20, variation_strength=0.0), own)
    near, far = (sounds(variation=[None, 21], variation_strength=strength) for strength in (0.1, 1.0))
    assert torch.equal(near[0], own[0])
    assert torch.equal(sounds(variation=20, variation_strength=0.1)[1], near[1])
    assert 0 < (near[1] - own[1]).norm() < (far[1] - own[1]).norm()
    with pytest.raises(ValueError, match="There are 1 variations for 2 sounds"):
        sounds(variation=[1])
