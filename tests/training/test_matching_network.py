"""The matching network: rotary positions, non-causality, losses, its file, and what the encoders give it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.matching.calibration import calibrate, fit
from training.matching.checkpoint import CONFIG, MatchingCheckpointError, read_matching, write_matching
from training.matching.encoders import MelPatches, open_audio
from training.matching.network import MatchingConfig, MatchingNetwork, TokenConfig, rotary_angles, rotate
from training.matching.score import calibrated, clip_probability
from training.matching.tokens import frames_at, window
from training.tasks.matching import align_loss, elsewhere, matching_loss

VISUAL = TokenConfig(encoder="starter", width=6, per_step=2, rate=4.0, size=32)
AUDIO = TokenConfig(encoder="mel", width=10, per_step=1, rate=6.25)
CONFIG_TINY = MatchingConfig(
    visual=VISUAL, audio=AUDIO, seconds=1.0, width=16, layers=2, heads=2, hidden=12, feedforward=24
)


@pytest.fixture(scope="module")
def network() -> MatchingNetwork:
    torch.manual_seed(0)
    return MatchingNetwork(CONFIG_TINY).eval()


def pair(count: int = 3, frames: int = 4, steps: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, frames, 2, 6, generator=generator),
        torch.randn(count, steps, 1, 10, generator=generator),
    )


def test_rotary_positions_are_complex_rotations() -> None:
    """Su et al., equation 12 and 15: pair i of a vector at position m is multiplied by exp(j m theta_i)."""
    x, positions = torch.randn(2, 5, 8), torch.tensor([0.0, 0.5, 3.0, 7.25, 100.0])
    made = rotate(x, rotary_angles(positions, 8, 10_000.0))
    theta = 10_000.0 ** (-2 * np.arange(4) / 8)
    pairs = x.double().numpy()[..., 0::2] + 1j * x.double().numpy()[..., 1::2]
    turned = pairs * np.exp(1j * positions.double().numpy()[:, None] * theta)
    wanted = np.stack([turned.real, turned.imag], -1).reshape(2, 5, 8)
    assert np.allclose(made, wanted, atol=1e-5)


def test_rotary_products_depend_on_distances_alone() -> None:
    q, k = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)

    def product(at: float, other: float) -> float:
        a, b = (rotary_angles(torch.tensor([position]), 8, 100.0).double() for position in (at, other))
        return float(rotate(q, a) @ rotate(k, b).T)

    assert product(2.0, 5.0) == pytest.approx(product(12.0, 15.0), rel=1e-5)
    assert product(2.0, 5.0) != pytest.approx(product(2.0, 6.0), rel=1e-3)


def test_frames_and_sounds_of_one_moment_have_one_position(network: MatchingNetwork) -> None:
    angles = network._angles(4, 6, torch.device("cpu"))
    unit = angles[:, 0]  # the first pair turns by the position itself
    assert unit[0] == 0
    assert torch.allclose(unit[1:9], 8 * (torch.arange(4) + 0.5).repeat_interleave(2) / 4)
    assert torch.allclose(unit[9:], 8 * (torch.arange(6) + 0.5) / 6.25)


def test_every_token_sees_those_after_it(network: MatchingNetwork) -> None:
    """The first frame's output changes with the last step of sound, and so does the summary's with every token."""
    visual, audio = pair(1)
    x = torch.cat([network.embed_visual(visual).flatten(1, 2), network.embed_audio(audio).flatten(1, 2)], 1)
    angles = network._angles(4, 6, x.device)[1:]
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network.blocks[0](x, angles)[0, 0].sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()
    visual.requires_grad_(True)
    audio.requires_grad_(True)
    for inputs in torch.autograd.grad(network(visual, audio).sum(), (visual, audio)):
        assert (inputs.abs().sum(-1) > 0).all()


def test_pairs_do_not_depend_on_their_batch(network: MatchingNetwork) -> None:
    visual, audio = pair()
    alone = torch.cat([network(visual[i : i + 1], audio[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(visual, audio), alone, atol=1e-5)


def test_order_in_time_counts(network: MatchingNetwork) -> None:
    visual, audio = pair(1)
    assert not torch.allclose(network(visual, audio), network(visual, audio.flip(1)), atol=1e-5)


def test_long_clips_have_the_mean_of_windows(network: MatchingNetwork) -> None:
    visual, audio = pair(2, frames=8, steps=12)
    made = clip_probability(network, visual, audio)
    both = [
        network(visual[:, first : first + 4], audio[:, start : start + 6]).sigmoid()
        for first, start in ((0, 0), (4, 6))
    ]
    assert torch.allclose(made, torch.stack(both).mean(0), atol=1e-6)
    short = clip_probability(network, visual[:, :2], audio[:, :3])
    assert torch.allclose(short, network(visual[:, :2], audio[:, :3]).sigmoid(), atol=1e-6)


def test_losses_are_those_of_float64() -> None:
    matched, mismatched = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([-2.0, 4.0, 0.0])
    sigmoid = 1 / (1 + np.exp(-np.array([[3.0, -1.0, 0.5], [-2.0, 4.0, 0.0]])))
    wanted = -(np.log(sigmoid[0]).mean() + np.log(1 - sigmoid[1]).mean()) / 2
    assert float(matching_loss(matched, mismatched)) == pytest.approx(wanted, rel=1e-6)


def test_align_loss_is_that_of_float64_and_leaves_out_the_same_video() -> None:
    generator = np.random.default_rng(0)
    seen, heard = generator.normal(size=(2, 1, 4, 5))
    video = torch.tensor([[7, 7, 8, 9]])
    a, b = (x[0] / np.linalg.norm(x[0], axis=1, keepdims=True) for x in (seen, heard))
    made = align_loss(torch.tensor(a @ b.T)[None].float(), video, 0.2)
    scores, total = a @ b.T / 0.2, 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or video[0, j] != video[0, i]]
        for row in (scores[i, others], scores[others, i]):
            total += math.log(np.exp(row).sum()) - scores[i, i]
    assert float(made) == pytest.approx(total / 8, rel=1e-5)


def test_similarity_is_the_mean_of_soft_maxima_over_what_is_near() -> None:
    """Against loops in float64: tokens of 3 frames (at 0.125, 0.375, 0.625 s) with those of 6 steps of sound, the last
    of which (at 0.88 s) is within reach of no frame and has the nearest one.
    """
    config = dataclasses.replace(CONFIG_TINY, similarity=True, reach=0.2, softness=0.5)
    alike = MatchingNetwork(config)
    visual, audio = torch.randn(2, 3, 3, 2, 16), torch.randn(2, 4, 6, 1, 16)
    made = alike.similarities(visual, audio)
    assert made.shape == (2, 3, 4)
    seen, heard = (x.double() / x.double().norm(dim=-1, keepdim=True) for x in (visual, audio))
    for batch, v, s in ((0, 0, 0), (1, 2, 3), (0, 2, 1)):
        total = 0.0
        for step in range(6):
            gaps = [abs((step + 0.5) / 6.25 - (frame + 0.5) / 4) for frame in range(3)]
            near = [frame for frame in range(3) if gaps[frame] <= max(0.2, min(gaps))]
            cosines = [float(seen[batch, v, f, k] @ heard[batch, s, step, 0]) for f in near for k in range(2)]
            total += 0.5 * math.log(sum(math.exp(cosine / 0.5) for cosine in cosines) / len(cosines))
        assert float(made[batch, v, s]) == pytest.approx(total / 6, abs=1e-5)


def test_scores_begin_with_the_similarity() -> None:
    """Before any training the transformer adds nothing, and a pair as alike as can be matches."""
    alike = MatchingNetwork(dataclasses.replace(CONFIG_TINY, similarity=True)).eval()
    visual, audio = torch.randn(3, 4, 2, 16), torch.randn(3, 6, 1, 16)
    wanted = alike.similarities(visual[:, None], audio[:, None])[:, 0, 0]
    made = alike.match(visual, audio)
    assert torch.allclose(made, math.exp(2.3) * (wanted - 0.3), atol=1e-4)
    same = torch.ones(1, 4, 2, 16), torch.ones(1, 6, 1, 16)
    assert float(alike.match(*same).detach().sigmoid()) > 0.99


def test_calibration_is_the_logistic_regression_of_logits() -> None:
    """Logits that are three times too large and two too low; the mean loss at what is found is the least around."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=4000) * 2
    match = rng.random(4000) < 1 / (1 + np.exp(-true))
    given = 1 / (1 + np.exp(-(3 * true - 2)))
    slope, shift = fit(given[match], given[~match])
    assert slope == pytest.approx(1 / 3, rel=0.1)
    assert shift == pytest.approx(2 / 3, abs=0.1)
    with pytest.raises(ValueError, match="no likelier"):
        fit(given[~match], given[match])
    apart = fit(np.full(50, 0.99), np.full(50, 0.01))
    assert 1 / (1 + math.exp(-apart[0] * math.log(99) - apart[1])) == pytest.approx(51 / 52, abs=1e-3)


def test_calibrated_scores_keep_their_order(network: MatchingNetwork) -> None:
    """And a pair that is as likely among matches as among mismatches has the threshold."""
    visual, audio = pair()
    before = clip_probability(network, visual, audio)
    other = MatchingNetwork(CONFIG_TINY).eval()
    other.load_state_dict(network.state_dict())
    scores = np.array([0.5, 0.7, 0.4]), np.array([0.3, 0.1, 0.45])
    slope, shift = fit(*scores)
    config = calibrate(other, *scores)
    assert (config.slope, config.shift) == pytest.approx((slope, shift + math.log(0.6 / 0.4)))
    made = clip_probability(other, visual, audio)
    assert torch.allclose(made, (config.slope * torch.logit(before) + config.shift).sigmoid(), atol=1e-5)
    assert made.argsort().tolist() == before.argsort().tolist()
    assert float(calibrated(torch.tensor([-shift / slope]).sigmoid(), config)) == pytest.approx(config.threshold)
    again = calibrate(other, *scores)
    assert again.slope == pytest.approx(slope**2)
    assert again.shift == pytest.approx(slope * config.shift + shift + math.log(0.6 / 0.4))


@pytest.mark.parametrize(
    ("start", "share", "wanted"),
    [(2.0, 0.0, 0.0), (2.0, 1.0, 4.0), (2.0, 0.75, 3.5), (0.0, 0.0, 1.0), (0.0, 1.0, 4.0), (3.5, 1.0, 2.5)],
)
def test_another_time_is_far_enough(start: float, share: float, wanted: float) -> None:
    assert elsewhere(start, 4.0, 1.0, share) == pytest.approx(wanted)


def test_no_other_time_in_a_short_clip() -> None:
    assert elsewhere(0.5, 1.0, 1.0, 0.5) is None


def test_windows_are_the_nearest_steps() -> None:
    tokens = torch.arange(20)[:, None, None]
    assert window(tokens, VISUAL, 1.3, 1.0)[:, 0, 0].tolist() == [5, 6, 7, 8]
    assert window(tokens, VISUAL, 4.9, 1.0)[:, 0, 0].tolist() == [16, 17, 18, 19]
    with pytest.raises(ValueError, match="20 steps of starter tokens, but windows of 6 s need 24"):
        window(tokens, VISUAL, 0, 6.0)


def test_frames_are_those_shown_at_the_middle_of_steps() -> None:
    assert frames_at(8, 2.0, VISUAL) == list(range(8))
    assert frames_at(2, 2.0, VISUAL) == [0] * 4 + [1] * 4
    assert frames_at(1, 2.0, VISUAL) == [0] * 8


def test_mel_patches_are_where_the_sound_is() -> None:
    encoder = MelPatches(bands=4)
    sound = torch.zeros(16_000)
    sound[8000:] = 0.1 * torch.sin(2 * math.pi * 200 * torch.arange(8000) / 16_000)  # in the lowest bands
    tokens = encoder.encode(sound, 16_000)
    assert tokens.shape == (6, 4, 256)
    assert float(tokens.max()) == 1.0
    assert tokens[:2].max() == -2.0  # silence
    assert tokens[5, 0].mean() > tokens[5, 3].mean()
    assert torch.allclose(tokens, encoder.encode(0.5 * sound, 16_000), atol=1e-3)  # the level does not count
    with pytest.raises(ValueError, match="divisor of 64"):
        MelPatches(bands=3)
    with pytest.raises(ValueError, match="mel or beats:FILE"):
        open_audio("clap")


def test_what_cannot_be_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        dataclasses.replace(CONFIG_TINY, width=18)
    with pytest.raises(ValueError, match="layers"):
        dataclasses.replace(CONFIG_TINY, layers=0)


def test_a_file_holds_the_same_network(network: MatchingNetwork, tmp_path: Path) -> None:
    write_matching(tmp_path / "a.safetensors", network, record={"training.code": "1"})
    again = read_matching(tmp_path / "a.safetensors")
    assert again.config == network.config
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    assert torch.allclose(again(*pair()), network(*pair()), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def hostile(network: MatchingNetwork, tmp_path: Path, change: str) -> Path:
    file = tmp_path / "b.safetensors"
    write_matching(file, network)
    tensors, config = load_file(file), dataclasses.asdict(network.config)
    if change == "missing":
        del tensors["head.weight"]
    elif change == "foreign":
        tensors["extra"] = torch.zeros(1)
    elif change == "shape":
        tensors["head.weight"] = torch.zeros(1, 17)
    elif change == "nan":
        tensors["head.bias"] = torch.full((1,), torch.nan)
    elif change == "integers":
        tensors["head.bias"] = torch.zeros(1, dtype=torch.int64)
    elif change == "huge":
        config |= {"width": 16_384, "hidden": 16_384, "feedforward": 16_384, "layers": 64}
    elif change == "key":
        config["rung"] = 1
    elif change == "range":
        config["threshold"] = 7
    text = {"json": "{", "nested": "[" * 100_000, "list": "[]"}.get(change, json.dumps(config))
    save_file(tensors, file, metadata={} if change == "kind" else {CONFIG: text})
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif change == "header":
        file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])
    elif change == "text":
        file.write_text("no checkpoint")
    return file


HOSTILE = (
    ("missing", "foreign", "shape", "nan", "integers", "huge", "key", "range"),
    ("json", "nested", "list", "kind", "cut", "header", "text"),
)


@pytest.mark.parametrize("change", [change for changes in HOSTILE for change in changes])
def test_other_files_are_refused(network: MatchingNetwork, tmp_path: Path, change: str) -> None:
    with pytest.raises(MatchingCheckpointError, match="is not a matching network") as raised:
        read_matching(hostile(network, tmp_path, change))
    assert len(str(raised.value)) < 800


def test_no_file_is_refused_as_well(tmp_path: Path) -> None:
    with pytest.raises(MatchingCheckpointError, match="is not a matching network"):
        read_matching(tmp_path / "none.safetensors")
