"""Intensity over time: keyframes of texts and of masks, their gains, and what is silent."""

from __future__ import annotations

import pytest
import torch

from sounding.audio.curves import curve_gain, curve_of_masks, read_curve, with_curve

RATE = 1000


def test_keyframes_are_read_in_any_order_and_spelling() -> None:
    expected = [(0.0, 0.0), (1.5, 1.0), (4.0, 0.2)]
    for text in ("0:0, 1.5:1, 4:0.2", "4:.2;0:0\n1.5 : 1", " 0:0 1.5:1  4:2e-1,"):
        assert read_curve(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "There are 0 keyframes"),
        ("1.5", "'1.5' is no keyframe; write seconds and gains such as 0:0, 1.5:1"),
        ("0:1:2", "'0:1:2' is no keyframe"),
        ("a:1", "'a:1' is no keyframe"),
        ("-1:1", "A keyframe is 1 at -1 s"),
        ("0:17", "A keyframe is 17 at 0 s, but gains of 0 to 16"),
        ("nan:1", "A keyframe is 1 at nan s"),
        ("0:nan", "A keyframe is nan at 0 s"),
        ("1:0, 1:1", "There are two keyframes at 1 s"),
        ("0:1," * 10_001, "There are 10001 keyframes"),
    ],
)
def test_what_is_no_curve_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_curve(text)


def test_gains_are_linear_between_keyframes_and_constant_outside() -> None:
    gain = curve_gain([(1.0, 0.0), (2.0, 1.0), (3.0, 0.5)], 5 * RATE, RATE)
    assert not gain[: RATE + 1].any()
    torch.testing.assert_close(gain[1500], torch.tensor(0.5))
    torch.testing.assert_close(gain[2500], torch.tensor(0.75))
    assert (gain[3000:] == 0.5).all()
    sound = with_curve(torch.ones(2, 1, 5 * RATE), RATE, [(1.0, 0.0), (2.0, 1.0)])
    assert not sound[..., :RATE].any()
    assert torch.equal(sound[0, 0, 2000:], torch.ones(3 * RATE))


def test_a_loops_curve_goes_on_over_its_end() -> None:
    gain = curve_gain([(1.0, 1.0), (3.0, 0.0), (99.0, 5.0)], 4 * RATE, RATE, loop=True)
    torch.testing.assert_close(gain[[0, 3500, 2000]], torch.tensor([0.5, 0.25, 0.5]))
    assert (gain.roll(1) - gain).abs().max() < 2e-3
    assert (curve_gain([(9.0, 0.7)], 4 * RATE, RATE, loop=True) == 0.7).all()


def test_an_absent_object_is_silent_and_half_as_far_is_twice_as_loud() -> None:
    masks = torch.zeros(8, 10, 10)
    masks[2:6, 4:6, 4:6] = 1
    masks[4:6, 3:7, 3:7] = 1
    keyframes = curve_of_masks(masks, 4.0)
    assert keyframes[0] == (0.125, 0.0)
    assert [gain for _, gain in keyframes] == pytest.approx([0, 0, 0.5, 0.5, 1, 1, 0, 0])
    gain = curve_gain(keyframes, 2 * RATE, RATE)
    assert not gain[:375].any()
    assert not gain[1625:].any()
    assert float(gain[1250]) == pytest.approx(1)
    assert not curve_gain(curve_of_masks(masks * 0, 25.0), RATE, RATE).any()  # absent throughout
    with pytest.raises(ValueError, match=r"The frame rate is 0, but 0\.1 to 240"):
        curve_of_masks(masks, 0)


def test_keyframes_from_elsewhere_are_checked() -> None:
    for keyframes in ([], [(0.0, float("nan"))], [(float("inf"), 1.0)], [(0.0, -1.0)]):
        with pytest.raises(ValueError, match="one or more of finite numbers are expected"):
            curve_gain(keyframes, RATE, RATE)
