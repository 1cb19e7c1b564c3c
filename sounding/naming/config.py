"""The configuration of the part that names what masks show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..utils.fields import Checked, Length, Range, Text


@dataclass(frozen=True)
class NamingConfig(Checked):
    """The optional part that names what a mask shows (`sounding.naming`).

    `kind` "embeddings" compares CLIP's image embedding with embeddings of names; in "classes", patches are logits of
    classes. Several rows (embeddings or classes) may stand for one name ("Beagle", "Border Collie", ... for "dog"), and
    names form a forest ("owl" is a "bird"), so that a more general name can be given where the specific one is unsure.
    """

    names: Annotated[tuple[Annotated[str, Text(100)], ...], Length(1, 10_000)]
    # Per row, the index of the name that it stands for; -1 for what is no object, such as a plain wall.
    rows: Annotated[tuple[Annotated[int, Range(-1, 9_999)], ...], Length(1, 20_000)]
    # Per name, the index of the more general one, -1 for none; empty where no name has one.
    parents: Annotated[tuple[Annotated[int, Range(-1, 9_999)], ...], Length(0, 10_000)] = ()
    kind: Literal["embeddings", "classes"] = "embeddings"
    scale: Annotated[float, Range(0.01, 1000)] = 100.0  # of cosines (CLIP's logit scale) or of classes' logits
    none_logit: Annotated[float, Range(-1000, 1000)] | None = None  # after the scale, of nothing that has a name
    # Probability from which a name is given instead of a more general one, or "unknown". CLIP's probabilities are about
    # as often right as they say (Minderer et al. 2021), so from a half on a name is more likely right than wrong.
    threshold: Annotated[float, Range(0, 1)] = 0.5
    margin: Annotated[float, Range(0, 4)] = 0.15  # on each side of the crop, in sizes of the object
