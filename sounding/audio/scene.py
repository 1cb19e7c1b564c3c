"""A soundscape before it is mixed: its sounds, and what becomes of each, so that it can be heard, mixed or exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .placing import Place, Room, place_tracks
from .tracks import Track, arrange_tracks, mix_tracks

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """Sounds and their settings, one per track."""

    sounds: Tensor  # [B, 1 or 2, samples], as they were made
    rate: int  # in Hz
    tracks: Sequence[Track]
    places: Sequence[Place | None] | None = None  # without them nothing is placed; None is absent, so silent
    room: Room = field(default_factory=Room)
    loudness: float | None = None  # LUFS of the mix
    boxes: Sequence[Box | None] | None = None  # left, top, right and bottom of each mask, in pixels
    sizes: Sequence[tuple[int, int]] | None = None  # width and height of each mask
    seeds: Sequence[int | None] | None = None
    loop: bool = False  # the sounds' ends go on with their beginnings, and so do those of tracks and mix

    def __post_init__(self) -> None:
        for name in ("tracks", "places", "boxes", "sizes", "seeds"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.sounds):
                raise ValueError(
                    f"There are {len(given)} {name} for {len(self.sounds)} sounds, but one per sound is expected; give "
                    "as many."
                )
        if self.loop:
            for name in ("offset", "fade_in", "fade_out"):
                if seconds := max((getattr(track, name) for track in self.tracks), default=0.0):
                    raise ValueError(
                        f"{name} is {seconds:g} s in a scene of loops, but loops neither begin nor end; set it to 0, "
                        "or loop to off."
                    )

    def placed(self) -> Tensor:
        """Each sound at its place, without gain, offset and fades: [B, 2, samples]; without places, `sounds`."""
        if self.places is None:
            return self.sounds
        return place_tracks(self.sounds, self.rate, self.places, self.room, loop=self.loop)

    def arranged(self) -> Tensor:
        """Each sound as it is in the mix, [B, channels, samples], but for the mix's own gain."""
        return arrange_tracks(self.placed(), self.rate, self.tracks)

    def mixed(self, arranged: Tensor) -> Tensor:
        """The mix [channels, samples] of `arranged`."""
        return mix_tracks(arranged, self.rate, loudness=self.loudness)


def boxes_of(masks: Tensor) -> list[Box | None]:
    """Left, top, right and bottom of what is white in each of [B, H, W] masks; None where nothing is."""
    found: list[Box | None] = []
    for mask in masks > 0.5:
        rows, columns = mask.any(dim=1).nonzero().flatten().tolist(), mask.any(dim=0).nonzero().flatten().tolist()
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else None)
    return found
