"""Matching end to end at the smallest size: tokens, groups of windows, a run, its file, scores, figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from training.__main__ import app
from training.data.settings import DataSettings
from training.data.shard_writer import make_shards
from training.engine.loader import collate
from training.evaluate.intervals import draw_weights
from training.evaluate.matching import Scores, area, in_circle, measure, score_pairs, thresholds
from training.initialization import initialize
from training.matching.calibration import fit
from training.matching.checkpoint import read_matching
from training.matching.encoders import MelPatches
from training.matching.network import MatchingNetwork, TokenConfig
from training.matching.score import Matcher, clip_probability
from training.matching.tokens import ShardClips, TokenSource, open_tokens
from training.recipe import RECIPES, Recipe, read_recipe
from training.registry import TASKS
from training.run import prepare, run
from training.starter.matching_scenes import VideoSceneSource
from training.tasks.matching import MatchingItems, MatchingObjective, MatchingSettings

SETTINGS = MatchingSettings(
    seconds=1.0, width=16, layers=1, heads=2, hidden=12, feedforward=24, dropout=0.0, group=4, align=0.5, hard=0.5
)


class Colours:
    """A visual encoder: mean colours of the left and the right half."""

    config = TokenConfig(encoder="colours", width=3, per_step=2, rate=4.0, size=48, fingerprint="c0")

    def encode(self, frames: Tensor) -> Tensor:
        halves = frames.float().unflatten(2, (2, -1)).mean(dim=(1, 3)) / 255
        return halves


@pytest.fixture(scope="module")
def tokens(stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of six clips with two takes of their sound each, made by way of raw shards."""
    folder = tmp_path_factory.mktemp("matching")
    source = VideoSceneSource(stamps_folder, clips=6, split="train", seconds=2.5, frames=10, size=48, takes=2)
    make_shards(source, folder / "raw", shard_size=4)
    source_of_tokens = TokenSource(ShardClips(folder / "raw"), Colours(), MelPatches())
    index = make_shards(source_of_tokens, folder / "tokens", shard_size=4)
    assert (index.samples, index.bare) == (12, ())
    return folder / "tokens"


def recipe(tokens: Path, out: Path, *overrides: str) -> Recipe:
    changes = ["loop.steps=3", "loop.epochs=0", "loop.batch=2", "loop.warmup=0", "loop.precision=fp32", "dtype=fp32"]
    changes += [f"data.shards={tokens}", "data.workers=0", f"out={out}", "loop.trackers=none"]
    changes += [f"matching.{key}={getattr(SETTINGS, key)}" for key in ("seconds", "width", "layers", "heads", "group")]
    changes += [f"matching.{key}={getattr(SETTINGS, key)}" for key in ("hidden", "feedforward", "align", "hard")]
    return read_recipe(RECIPES / "matching.yaml", overrides=[*changes, *overrides])


@pytest.fixture(scope="module")
def trained(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe(tokens, tmp_path_factory.mktemp("runs")))


def test_tokens_are_those_of_the_encoders(tokens: Path, stamps_folder: Path) -> None:
    shards, visual, audio = open_tokens(tokens)
    assert visual == Colours.config
    assert audio == MelPatches().config
    row = shards[1]
    clip = ShardClips(tokens.parent / "raw").make(1)
    frames = torch.stack([torch.from_numpy(image) for image in clip.images])
    assert torch.allclose(row["visual_tokens"].float(), Colours().encode(frames), atol=1e-3)
    assert clip.waveform is not None
    heard = MelPatches().encode(torch.from_numpy(clip.waveform), 16_000)
    assert row["audio_tokens"].shape == heard.shape == (15, 1, 1024)
    assert torch.allclose(row["audio_tokens"].float(), heard, atol=2e-3)


def test_too_few_frames_are_refused(tokens: Path) -> None:
    class Quick(Colours):
        config = TokenConfig(encoder="colours", width=3, per_step=2, rate=8.0, size=48)

    with pytest.raises(ValueError, match=r"10 frames in 2\.5 s, but 8 per second"):
        TokenSource(ShardClips(tokens.parent / "raw"), Quick(), MelPatches()).make(0)


def test_items_are_windows_of_one_moment(tokens: Path) -> None:
    items = MatchingItems(DataSettings(shards=str(tokens)), SETTINGS)
    hard = 0
    for index in range(12):
        item = items.item(index, np.random.default_rng(index))
        assert item["visual"].shape == (4, 4, 2, 3)
        assert item["audio"].shape == (4, 6, 1, 1024)
        assert int(item["video"][0]) == index // 2
        for slot, clip in enumerate(item["id"].split()):
            number = items.shards.ids().index(clip)
            assert items.video[number] == item["video"][slot]
            row = items.shards[number]
            starts = []
            for name, field, config in (
                ("visual", "visual_tokens", items.visual),
                ("audio", "audio_tokens", items.audio),
            ):
                whole, part = row[field].float(), item[name][slot]
                at = [i for i in range(len(whole) - len(part) + 1) if torch.equal(whole[i : i + len(part)], part)]
                assert at, "the window is no part of its clip"
                starts.append([i / config.rate for i in at])
            assert min(abs(a - b) for a in starts[0] for b in starts[1]) <= 0.5 / 4 + 0.5 / 6.25
        first, second = (item["video"].tolist()[i::2] for i in (0, 1))
        hard += sum(a == b for a, b in zip(first, second, strict=True))
        assert len(set(item["video"].tolist())) == 4 - sum(a == b for a, b in zip(first, second, strict=True))
        again = items.item(index, np.random.default_rng(index))
        assert torch.equal(again["audio"], item["audio"])
    assert hard >= 2


def test_every_sound_is_in_one_match_and_one_mismatch(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["matching"]
    items = MatchingItems(DataSettings(shards=str(tokens)), SETTINGS)
    objective = task.objective(SETTINGS, items)
    assert isinstance(objective, MatchingObjective)
    batch = collate([items.item(index, np.random.default_rng(index)) for index in (0, 7)])
    seen: list[tuple[Tensor, Tensor]] = []
    match = objective.network.match
    monkeypatch.setattr(objective.network, "match", lambda v, a: seen.append((v, a)) or match(v, a))
    losses = objective(batch)
    assert torch.isfinite(losses["loss"])
    assert torch.allclose(losses["loss"], losses["match"] + 0.5 * losses["align"])
    (visual, audio), own = seen[0], objective.network.embed_audio(batch["audio"].flatten(0, 1))
    assert torch.equal(visual[:8], visual[8:])
    assert torch.equal(audio[:8], own)
    partner = [1, 0, 3, 2, 5, 4, 7, 6]
    assert torch.equal(audio[8:], own[partner])


def test_the_loss_does_not_depend_on_how_a_batch_is_divided(tokens: Path) -> None:
    items = MatchingItems(DataSettings(shards=str(tokens)), SETTINGS)
    objective = TASKS["matching"].objective(SETTINGS, items)
    drawn = [items.item(index, np.random.default_rng(index)) for index in (0, 3)]
    whole = objective(collate(drawn))["loss"]
    parts = [objective(collate([item]))["loss"] for item in drawn]
    assert torch.allclose(whole, sum(parts) / 2, atol=1e-5)


def test_a_run_writes_a_network_that_learnt(trained: Path, tokens: Path) -> None:
    network = read_matching(trained)
    assert network.config.visual == Colours.config
    assert network.config.threshold == 0.6
    made = recipe(tokens, trained.parent.parent)
    torch.manual_seed(made.loop.seed)
    before = TASKS["matching"].objective(made.settings, MatchingItems(made.data, made.settings))
    assert isinstance(before, MatchingObjective)
    changed = [not torch.equal(v, before.network.state_dict()[k]) for k, v in network.state_dict().items()]
    assert all(changed)
    lines = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    assert any("matched" in line and "align" in line for line in lines)


def test_a_finished_run_is_left_alone(trained: Path, tokens: Path) -> None:
    stamp = trained.stat().st_mtime_ns
    assert run(recipe(tokens, trained.parent.parent)) == trained
    assert trained.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="trained with other settings"):
        run(recipe(tokens, trained.parent.parent, "matching.hard=0.25"))


@pytest.mark.parametrize("change", ["start.all=starter", "model.train_seconds=3", "preview.every=5"])
def test_recipes_of_networks_have_no_model(tokens: Path, tmp_path: Path, change: str) -> None:
    with pytest.raises(ValueError, match="trains a network of its own"):
        prepare(recipe(tokens, tmp_path, change))


def test_a_network_of_its_own_starts_from_no_model(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="starts from no model"):
        initialize(recipe(tokens, tmp_path))


def test_data_that_do_not_suit_are_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of 6 videos, but matching\.group 8"):
        prepare(recipe(tokens, tmp_path, "matching.group=8"))
    with pytest.raises(ValueError, match="have no 'visual_tokens'"):
        prepare(recipe(tokens.parent / "raw", tmp_path))
    with pytest.raises(ValueError, match="windows of 9 s need 36"):
        MatchingItems(DataSettings(shards=str(tokens)), MatchingSettings(seconds=9.0)).item(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="even number"):
        MatchingSettings(group=3)


def test_a_dry_run_tells_the_papers_sizes_before_there_is_data(tmp_path: Path) -> None:
    arguments = ["run", str(RECIPES / "matching.yaml"), "--dry-run", f"data.shards={tmp_path}/none"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 1
    assert "time per step" in shown.stdout
    assert "model:" not in shown.stdout


def test_clips_are_scored(trained: Path, tokens: Path) -> None:
    network = read_matching(trained)
    matcher = Matcher(network, Colours(), MelPatches())
    clip = ShardClips(tokens.parent / "raw").make(0)
    assert clip.waveform is not None
    frames, sound = torch.stack([torch.from_numpy(image) for image in clip.images]), torch.from_numpy(clip.waveform)
    made = matcher.score(frames, sound, 16_000)
    row = open_tokens(tokens)[0][0]
    wanted = clip_probability(network, row["visual_tokens"][None].float(), row["audio_tokens"][None].float())
    assert made == pytest.approx(float(wanted[0]), abs=2e-3)
    assert matcher.score(frames / 255, sound, 16_000) == pytest.approx(made, abs=1e-5)
    for bad in (frames[:0], frames[..., :1]):
        with pytest.raises(ValueError, match="frames have shape"):
            matcher.score(bad, sound, 16_000)
    with pytest.raises(ValueError, match="finite"):
        matcher.score(frames, sound * torch.nan, 16_000)


def test_encoders_are_found_again_or_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match="colours"):
        Matcher.open(trained)


def made_up(count: int = 200) -> Scores:
    rng = np.random.default_rng(0)
    return Scores(rng.beta(5, 2, count), rng.beta(2, 5, count))


def test_figures_of_made_up_scores() -> None:
    scores = made_up()
    report = measure(scores, threshold=0.6, resamples=50)
    assert report["matched"]["value"] == pytest.approx((scores.matched >= 0.6).mean())
    assert report["mismatched"]["value"] == pytest.approx((scores.mismatched < 0.6).mean())
    wins = scores.matched[:, None] > scores.mismatched[None]  # Mann and Whitney
    assert report["auc"]["value"] == pytest.approx(wins.mean())
    assert report["auc"]["low"] < report["auc"]["value"] < report["auc"]["high"]
    assert sum(report["histogram"]["matched"]) == 200
    for point in report["thresholds"]:
        kept, foreign = ((part >= point["threshold"]).mean() for part in (scores.matched, scores.mismatched))
        assert point["kept"]["value"] == pytest.approx((kept + foreign) / 2)
        assert point["true_among_kept"]["value"] == pytest.approx(kept / (kept + foreign))
    false, true = (np.array(report["roc"][name]) for name in ("false", "true"))
    assert np.trapezoid(true, false) == pytest.approx(wins.mean())
    json.dumps(report, allow_nan=False)


def test_intervals_resample_clips_with_both_their_scores() -> None:
    scores = made_up(30)
    weights = draw_weights(30, 3)
    drawn = np.repeat(np.arange(30), weights[2].astype(int))
    again = Scores(scores.matched[drawn], scores.mismatched[drawn])
    alone = np.ones((1, 30), np.float32)
    assert area(again, alone).value == pytest.approx(area(scores, weights[2:3]).value)


def test_a_threshold_that_keeps_nothing_has_no_purity() -> None:
    scores = Scores(np.full(4, 0.2), np.full(4, 0.1))
    point = thresholds(scores, [0.5], draw_weights(4, 5))[0]
    assert point["true_among_kept"]["value"] is None
    assert point["kept"]["value"] == 0
    with pytest.raises(ValueError, match="as many of both"):
        Scores(np.zeros(3), np.zeros(2))


def test_every_sound_goes_to_another_clip() -> None:
    videos = list("aabcddeaf")
    for seed in range(5):
        other = in_circle(videos, seed)
        assert sorted(other) == list(range(9))
        assert all(videos[clip] != videos[theirs] for clip, theirs in enumerate(other))
    with pytest.raises(ValueError, match="3 of 5 clips are of one video"):
        in_circle(list("aaabc"), 0)


def test_the_command_writes_a_report(trained: Path, tokens: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "matching", "--model", str(trained), "--shards", str(tokens), "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, [*arguments, "--resamples", "20"])
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "report.json").read_text())
    scores = score_pairs(read_matching(trained), tokens)
    assert report["clips"] == 12
    assert report["matched"]["value"] == pytest.approx((scores.matched >= 0.6).mean())
    assert report["published"] == {"matched": 0.91, "mismatched": 0.85}
    assert (tmp_path / "scores.png").stat().st_size > 5000
    assert "| threshold |" in (tmp_path / "table.md").read_text()


def test_the_command_calibrates(trained: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are made up, since a network that was trained for a few steps tells nothing."""
    asked = []

    def score(network: MatchingNetwork, *_: object, **__: object) -> Scores:
        asked.append(network.config)
        return made_up()

    monkeypatch.setattr("training.evaluate.matching.score_pairs", score)
    arguments = ["evaluate", "matching", "--model", str(trained), "--shards", str(tokens), "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, [*arguments, "--resamples", "0", "--calibrated", str(tmp_path / "new.safetensors")])
    assert shown.exit_code == 0, shown.output
    made = read_matching(tmp_path / "new.safetensors").config
    slope, shift = fit(made_up().matched, made_up().mismatched)
    assert (made.slope, made.shift) == pytest.approx((slope, shift + math.log(0.6 / 0.4)))
    assert asked == [read_matching(trained).config, made]  # measured as it is written
    assert json.loads((tmp_path / "report.json").read_text())["model"] == "new.safetensors"
