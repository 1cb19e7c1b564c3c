"""Scenes of cut-outs (`scenes.py`) as samples: image, one mask per object, captions and the mix."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .object_set import MANIFEST, content_digest
from .shard_format import SAMPLE_RATE, Sample
from .source import Source

if TYPE_CHECKING:
    from .object_set import ObjectSet
    from .scenes import Split


class SceneSource(Source):
    """Scene `i` of a split as sample `i`: training that draws scenes itself draws the same ones in the same order.

    Objects without an image that have a class of ImageNet have scenes of their own, in which a silent thing stands in
    their place; what they look like has to be drawn by whoever reads the scene.

    Args:
        data: folder of an `ObjectSet`.
        scenes: how many.
        split: "train" and "held-out" scenes never share a random stream.
        seconds: length of the sound.
        size: side of the square image, in pixels.
        captions: how many per scene.

    Raises:
        ValueError: bad numbers, no manifest or a damaged one.
        OSError: a file that the manifest names cannot be read.
    """

    def __init__(self, data: Path, *, scenes: int, split: Split, seconds: float, size: int, captions: int):
        if scenes < 1 or not 0.1 <= seconds < float("inf") or size < 32 or captions < 1:
            raise ValueError(
                f"scenes {scenes}, seconds {seconds}, size {size} and captions {captions} came, but 1, 0.1, 32 and 1 "
                "or more are expected."
            )
        manifest = data / MANIFEST
        if not manifest.is_file():
            raise ValueError(f"{manifest} is missing; make it with `python -m training starter stamps --out {data}`.")
        self.data, self.scenes, self.seconds, self.size, self.captions = data, scenes, seconds, size, captions
        self.split = split
        self._inputs = content_digest(data)

    @cached_property
    def objects(self) -> ObjectSet:
        """The cut-outs and recordings, loaded in the process that makes scenes."""
        from .object_set import ObjectSet

        return ObjectSet(self.data)

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
        from .scenes import draw_scene, draw_stand_in, scene_caption, scene_rng, scene_sound

        rng = scene_rng(self.split, position)
        size, stood_in = (self.size, self.size), self.objects.imagined
        if stood_in and rng.random() < len(stood_in) / (len(stood_in) + len(self.objects)):
            drawn, scene = draw_stand_in(self.objects, rng, size=size)
        else:
            drawn, scene = draw_scene(self.objects, rng, size=size)
        captions = tuple(scene_caption(drawn, scene, rng) for _ in range(self.captions))
        samples = round(self.seconds * SAMPLE_RATE)
        waveform = scene_sound(drawn, scene, samples, rng).numpy()
        entries = [drawn.entries[label] for label in scene.labels]
        return Sample(
            id=self.name(position),
            captions=captions,
            licence=" AND ".join(sorted({entry.licence for entry in entries})),
            source="; ".join(entry.source for entry in entries),
            seconds=round(samples / SAMPLE_RATE, 3),
            labels=scene.labels,
            sounding=scene.sounding,
            waveform=waveform,
            images=(scene.image,),
            masks=tuple(scene.masks),
        )
