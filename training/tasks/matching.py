"""Audio-visual matching (appendix B.1), self-supervised: what is heard and seen at the same time of one video matches,
what comes from two videos does not (Owens & Efros, 2018; Korbar et al., 2018).

An item is a group of windows of clips, two and two partners of each other: each window's frames are matched once with
its own sound and once with its partner's. So every frame and every sound is in exactly one match and one mismatch, and
neither modality alone tells anything; and since partners are in one item, the loss does not depend on how a batch is
divided among processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.utils.fields import Checked, Range

from ..data.settings import DataSettings
from ..engine.loader import Item, Items
from ..engine.objective import Objective
from ..engine.settings import Share, Temperature, Weight
from ..matching.checkpoint import write_matching
from ..matching.network import MatchingConfig, MatchingNetwork, TokenConfig, Width
from ..matching.tokens import open_tokens, video_of, window
from .task import NetworkTask

# What the paper's encoders give: CLIP ViT-B/16 and BEATs; for estimates before there is data.
PAPER_VISUAL = TokenConfig(encoder="clip", width=512, per_step=1, rate=8.0, size=224)
PAPER_AUDIO = TokenConfig(encoder="beats", width=768, per_step=8, rate=6.25)


@dataclass(frozen=True)
class MatchingSettings(Checked):
    """What the matching trainer takes from a recipe: sizes as in `MatchingConfig`, and how pairs are made.

    Attributes:
        group: windows per item, an even number.
        hard: share of partners that are the same video at another time, where it is long enough.
        apart: seconds between the beginnings of such two windows, at least.
        similarity: see `MatchingConfig`.
        align: weight of a contrastive loss on the similarity of the tokens behind the MLPs, within each group (Li et
            al., 2021: "align before fuse"); the paper has none.
        align_temperature: of that loss.
        threshold: kept in the checkpoint.
    """

    seconds: Annotated[float, Range(0.1, 600)] = 10.0
    width: Width = 768
    layers: Annotated[int, Range(1, 64)] = 6
    heads: Annotated[int, Range(1, 128)] = 12
    hidden: Width = 768
    feedforward: Width = 3072
    dropout: Annotated[float, Range(0, 0.9)] = 0.1
    group: Annotated[int, Range(2, 256)] = 2
    hard: Share = 0.0
    apart: Annotated[float, Range(0, 600)] = 1.0
    similarity: bool = False
    align: Weight = 0.0
    align_temperature: Temperature = 0.1
    threshold: Share = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group % 2:
            raise ValueError(f"matching.group is {self.group}, but an even number is expected: windows have partners.")

    def config(self, visual: TokenConfig, audio: TokenConfig) -> MatchingConfig:
        """Of the network for tokens of these encoders."""
        return MatchingConfig(
            visual=visual,
            audio=audio,
            seconds=self.seconds,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            feedforward=self.feedforward,
            dropout=self.dropout,
            similarity=self.similarity,
            threshold=self.threshold,
        )


class MatchingItems:
    """Groups of windows: visual [G, F, K, W], audio [G, A, M, V], and video [G], equal for windows of one video.

    Windows 2i and 2i + 1 are partners. A group has clips of different videos, but for the partners that are hard.

    Raises:
        ValueError: shards of something else, or fewer videos than a group has clips.
    """

    def __init__(self, data: DataSettings, settings: MatchingSettings):
        if not data.shards:
            raise ValueError("The matching trainer reads tokens; give data.shards, made by `prepare matching`.")
        self.shards, self.visual, self.audio = open_tokens(data.shards)
        self.settings = settings
        of_video: dict[str, list[int]] = {}
        for number, clip in enumerate(self.shards.ids()):
            of_video.setdefault(video_of(clip), []).append(number)
        self.clips = list(of_video.values())  # of each video
        self.video = {number: video for video, numbers in enumerate(self.clips) for number in numbers}
        if len(self.clips) < settings.group:
            raise ValueError(
                f"{self.shards.named} has clips of {len(self.clips)} videos, but matching.group {settings.group} or "
                "more are expected; prepare more, or make groups smaller."
            )

    def __len__(self) -> int:
        return len(self.shards)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """Clip `index` and others that `rng` draws; with them the names of all, for messages."""
        settings = self.settings
        own = self.video[index]
        drawn = rng.choice(len(self.clips) - 1, settings.group - 1, replace=False)
        others = [self.clips[int(other) + (int(other) >= own)] for other in drawn]
        numbers = [index, *(clips[int(rng.integers(len(clips)))] for clips in others)]
        starts = rng.random(settings.group)
        hard = rng.random(settings.group // 2) < settings.hard
        visual, audio, videos, names = [], [], [], []
        for slot, number in enumerate(numbers):
            row = self.shards[numbers[slot - 1] if slot % 2 and hard[slot // 2] else number]
            free = self._free(row)
            start = float(starts[slot]) * free
            if slot % 2 and hard[slot // 2]:
                before = float(starts[slot - 1]) * free
                shifted = elsewhere(before, free, settings.apart, float(starts[slot]))
                if shifted is None:  # too short for another time
                    row = self.shards[number]
                    start = float(starts[slot]) * self._free(row)
                else:
                    start, number = shifted, numbers[slot - 1]
            visual.append(window(row["visual_tokens"], self.visual, start, settings.seconds))
            audio.append(window(row["audio_tokens"], self.audio, start, settings.seconds))
            videos.append(self.video[number])
            names.append(row["id"])
        return {
            "id": " ".join(names),
            "visual": torch.stack(visual).float(),
            "audio": torch.stack(audio).float(),
            "video": torch.tensor(videos),
        }

    def _free(self, row: dict[str, Any]) -> float:
        """Seconds in which a window of the clip can begin."""
        lengths = (len(row["visual_tokens"]) / self.visual.rate, len(row["audio_tokens"]) / self.audio.rate)
        return max(0.0, min(lengths) - self.settings.seconds)


def elsewhere(start: float, free: float, apart: float, share: float) -> float | None:
    """A time of 0 to `free` at least `apart` from `start`, `share` (0 to 1) of the way through all such times; None
    where there is none.
    """
    before, after = max(0.0, start - apart), max(0.0, free - start - apart)
    if before + after <= 0:
        return None
    chosen = share * (before + after)
    return chosen if chosen <= before and before > 0 else start + apart + chosen - before


def matching_loss(matched: Tensor, mismatched: Tensor) -> Tensor:
    """Binary cross-entropy of logits [N] of matches and [N] of mismatches, which count the same."""
    return (functional.softplus(-matched).mean() + functional.softplus(mismatched).mean()) / 2


def align_loss(similar: Tensor, video: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE within groups: similarities [B, G, G] of each window's frames with each sound, videos [B, G].

    A window of the same video is neither partner nor negative.
    """
    similar = similar / temperature
    size = similar.shape[-1]
    own = torch.eye(size, dtype=torch.bool, device=similar.device)
    same = (video[:, :, None] == video[:, None, :]) & ~own
    similar = similar.float().masked_fill(same, -torch.inf)
    targets = torch.arange(size, device=similar.device).expand(len(similar), -1)
    both = (functional.cross_entropy(each, targets) for each in (similar, similar.transpose(1, 2)))
    return sum(both, similar.new_zeros(())) / 2


class MatchingObjective(Objective):
    """Learns `network`, on the batches of `MatchingItems`."""

    def __init__(self, network: MatchingNetwork, settings: MatchingSettings):
        super().__init__()
        self.network, self.settings = network, settings

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        config, group = self.network.config, self.settings.group
        visual, audio = (
            torch.zeros(1, group, tokens.steps(config.seconds), tokens.per_step, tokens.width, device=device)
            for tokens in (config.visual, config.audio)
        )
        return {"visual": visual, "audio": audio, "video": torch.arange(group, device=device)[None]}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `MatchingItems`, and shares of pairs on the right side of the threshold."""
        network, settings = self.network, self.settings
        groups = batch["visual"].shape[:2]
        visual = network.embed_visual(batch["visual"].flatten(0, 1))  # [B * G, F, K, D]
        audio = network.embed_audio(batch["audio"].flatten(0, 1))
        partners = audio.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        logits = network.match(torch.cat([visual, visual]), torch.cat([audio, partners])).float()
        matched, mismatched = logits.chunk(2)
        losses = {"match": matching_loss(matched, mismatched)}
        loss = losses["match"]
        if settings.align:
            similar = network.similarities(visual.unflatten(0, groups), audio.unflatten(0, groups))
            losses["align"] = align_loss(similar, batch["video"], settings.align_temperature)
            loss = loss + settings.align * losses["align"]
        with torch.no_grad():
            losses["matched"] = (matched.sigmoid() >= settings.threshold).float().mean()
            losses["mismatched"] = (mismatched.sigmoid() < settings.threshold).float().mean()
        return {"loss": loss, **losses}


class MatchingTask(NetworkTask[MatchingSettings]):
    """The matching network, on tokens made once by `python -m training prepare matching`."""

    name = "matching"
    settings = MatchingSettings

    def objective(self, settings: MatchingSettings, items: Items | None) -> MatchingObjective:
        """See `NetworkTask`."""
        visual, audio = PAPER_VISUAL, PAPER_AUDIO
        if isinstance(items, MatchingItems):
            visual, audio = items.visual, items.audio
        return MatchingObjective(MatchingNetwork(settings.config(visual, audio)), settings)

    def items(self, settings: MatchingSettings, data: DataSettings) -> MatchingItems:
        """See `NetworkTask`."""
        return MatchingItems(data, settings)

    def write(self, objective: Objective, file: Path, record: Mapping[str, str], *, dtype: torch.dtype) -> None:
        """See `NetworkTask`."""
        assert isinstance(objective, MatchingObjective)
        write_matching(file, objective.network, dtype=dtype, record=record)
