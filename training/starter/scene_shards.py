"""Scenes of cut-outs (`scenes.py`) as samples: picture, one mask an object, captions and the mix."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.shard_format import SAMPLE_RATE, Sample
from ..data.shard_writer import Source, digest

if TYPE_CHECKING:
    from ..data.scenes import Split
    from ..data.stamps import Stamps


class StampSource(Source):
    """Scene `i` of a split as sample `i`, drawn in the same order as the starter's training draws it.

    Args:
        data: folder made by `python -m training.data.stamps`.
        scenes: how many.
        split: "train" and "held-out" scenes never share a random stream.
        seconds: of the sound.
        size: side of the square picture.
        captions: a scene.
    """

    def __init__(self, data: Path, *, scenes: int, split: Split, seconds: float, size: int, captions: int):
        if scenes < 1 or not 0.1 <= seconds < float("inf") or size < 32 or captions < 1:
            raise ValueError(
                f"scenes {scenes}, seconds {seconds}, size {size} and captions {captions} came, but 1, 0.1, 32 and 1 "
                "or more are expected."
            )
        manifest = data / "manifest.json"
        if not manifest.is_file():
            raise ValueError(f"{manifest} is missing; make it with `python -m training.data.stamps --out {data}`.")
        self.data, self.scenes, self.seconds, self.size, self.captions = data, scenes, seconds, size, captions
        self.split = split
        self._inputs = digest([manifest.read_text(encoding="utf-8")])

    @cached_property
    def stamps(self) -> Stamps:
        """The cut-outs and recordings, loaded in the process that makes scenes."""
        from ..data.stamps import Stamps

        return Stamps(self.data)

    def __len__(self) -> int:
        return self.scenes

    def settings(self) -> dict[str, Any]:
        """See Source."""
        return {
            "from": "stamps",
            "split": self.split,
            "scenes": self.scenes,
            "seconds": self.seconds,
            "size": self.size,
            "captions": self.captions,
            "inputs": self._inputs,
        }

    def name(self, position: int) -> str:
        """See Source."""
        return f"{self.split}-{position}"

    def make(self, position: int) -> Sample:
        """See Source."""
        from ..data.scenes import make_scene, scene_caption, scene_rng, scene_sound

        rng = scene_rng(self.split, position)
        scene = make_scene(self.stamps, rng, size=(self.size, self.size))
        captions = tuple(scene_caption(self.stamps, scene, rng) for _ in range(self.captions))
        samples = round(self.seconds * SAMPLE_RATE)
        waveform = scene_sound(self.stamps, scene, samples, rng).numpy()
        stamps = [self.stamps.stamps[label] for label in scene.labels]
        return Sample(
            id=self.name(position),
            captions=captions,
            licence=" AND ".join(sorted({stamp.licence for stamp in stamps})),
            source="; ".join(stamp.source for stamp in stamps),
            seconds=round(samples / SAMPLE_RATE, 3),
            labels=scene.labels,
            sounding=scene.sounding,
            waveform=waveform,
            pictures=(scene.image,),
            masks=tuple(scene.masks),
        )
