"""Names of clicked objects, and whether a sounding model knows them: for the click route, outside the host's queue."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..host.folders import checkpoint_path

if TYPE_CHECKING:
    from ...sounding.encoders.vocabulary import Vocabulary
    from ...sounding.naming.names import Named

logger = logging.getLogger(__name__)

KEPT = 4  # checkpoints
SHOWN = 5  # likely names of an object
LOOKALIKES = 20  # likely names among which those are looked for that the model knows
NEAREST = 3  # of them that are told


@dataclass(frozen=True)
class Known:
    """The names that a checkpoint was trained on."""

    checkpoint: str  # as in Sounding Load Model's list
    vocabulary: Vocabulary


class ClickNames:
    """Names by the pack's own namer, on the CPU."""

    def __init__(self) -> None:
        # Path, time and bytes of a checkpoint -> its names.
        self._known: OrderedDict[tuple[str, int, int], Vocabulary] = OrderedDict()
        self._told = ""

    def of(self, image: Tensor, masks: Sequence[Tensor]) -> list[Named | None]:
        """What each mask shows; None for an empty one, and for all where the namer's file is missing or damaged.

        Args:
            image: the working image, [1, H, W, 3].
            masks: each [H, W].
        """
        from ...sounding.checkpoint import CheckpointError
        from ...sounding.naming.load import boxed_namer

        try:
            namer = boxed_namer()
        except CheckpointError as error:
            if str(error) != self._told:  # once per fault: each click asks again
                logger.warning("Sounding: clicked objects get no names: %s", error)
                self._told = str(error)
            return [None] * len(masks)
        return [namer.name(image, mask[None], top=LOOKALIKES)[0] if mask.max() > 0 else None for mask in masks]

    def known_by(self, checkpoint: str) -> Known | None:
        """The names that a checkpoint was trained on; None where it lists none or cannot be read (loading it says why).

        Args:
            checkpoint: a name out of Sounding Load Model's list.
        """
        from ...sounding.checkpoint import read_header
        from ...sounding.encoders.vocabulary import Vocabulary

        try:
            path = checkpoint_path(checkpoint)
            stat = path.stat()
            key = (str(path), stat.st_mtime_ns, stat.st_size)
            if key not in self._known:
                self._known[key] = Vocabulary(read_header(path).config.vocabulary)
        except (ValueError, OSError):
            return None
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return Known(checkpoint, self._known[key]) if self._known[key].names else None


def described(named: Named, known: Known | None) -> dict[str, Any]:
    """What the page gets to know of an object: `{"name", "known", "probability", "top": [[name, probability], ...]}`.

    With a vocabulary also `"sounds_as"`, a name by which the checkpoint knows it or null, and `"nearest"`, the names it
    knows of what the object may be. It also knows an object that is most likely one of several things that it knows.
    """
    told: dict[str, Any] = {
        "name": named.name,
        "known": named.known,
        "probability": round(named.probability, 4),
        "top": [[name, round(share, 4)] for name, share in named.top[:SHOWN]],
    }
    if known is not None and named.known:
        vocabulary = known.vocabulary
        nearest = vocabulary.nearest_of([name for name, _ in named.top], NEAREST)
        within = sum(share for name, share in named.top if vocabulary.knows(name))
        likely = within >= sum(share for _, share in named.top) / 2
        told["sounds_as"] = vocabulary.knows(named.name) or (nearest[0] if likely and nearest else None)
        told["nearest"] = nearest
    return told
