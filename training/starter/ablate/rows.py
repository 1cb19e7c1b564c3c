"""What is compared: the rows of the paper's tables 3, 4, 5, 6 and 8, and those that its claims need beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["mask", "text"]
Deviation = Literal["training", "query"]
COLUMNS = ("acc", "fad", "kl", "is", "avc")  # of the figures that are quoted
PERFECT, WHOLE = "perfect", "whole"
MASKS = (PERFECT, "eroded", "dilated", "grabcut", "segmenter", "noisy", WHOLE)
OURS = "ours"
PAPERS_CFG = 2.0  # section 4.1
TRAININGS = (
    OURS,
    "additive",
    "frozen",
    "multi_head",
    "mask_training",
    "mask_training_half",
    "no_positions",
    "audio_query",
)
# Trainings as ours, on what each threshold of audio-visual matching keeps of a collection, and on its true pairs.
THRESHOLDS = {"threshold_0": 0.0} | {f"threshold_{value:g}": value for value in (0.4, 0.5, 0.6, 0.7, 0.8)}
TRUE_PAIRS = "true_pairs"
COLLECTED = (*THRESHOLDS, TRUE_PAIRS)
ALL_TRAININGS = (*TRAININGS, *COLLECTED)


@dataclass(frozen=True)
class Cell:
    """A training, and how its model is asked for sounds.

    Attributes:
        training: a recipe's name.
        by: what selects the object.
        masks: how its mask is made, one of `MASKS`.
        cfg: guidance scale.
        clamp: negative weights of masks are cut off.
        deviation: masks are brought to the weights' mean deviation in training, or to that of the object's own query.
    """

    training: str
    by: By = "mask"
    masks: str = PERFECT
    cfg: float = PAPERS_CFG
    clamp: bool = False
    deviation: Deviation = "training"

    @property
    def name(self) -> str:
        """Short and unique: what differs from a mask on the training's model."""
        parts = [self.training]
        parts += ["text"] if self.by == "text" else []
        parts += [self.masks] if self.masks != PERFECT else []
        parts += [f"cfg{self.cfg:g}"] if self.cfg != PAPERS_CFG else []
        parts += ["clamped"] if self.clamp else []
        parts += ["deviation-query"] if self.deviation == "query" else []
        return ".".join(parts)


@dataclass(frozen=True)
class Row:
    """A row of a table: its cell, and the paper's figures in the order of `COLUMNS`, where it has them."""

    table: str
    title: str
    cell: Cell
    quoted: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """That of its cell, for the command line."""
        return self.cell.name


VARIANTS = "Variants of the model (the paper's tables 3 and 6)"
REPLACED = "Mask or text attention at test time (table 3, iv, for every form of attention)"
GUIDANCE = "Guidance (table 4)"
SELECTIONS = "Masks of different quality (the question of table 8)"
WEIGHTS = "From mask to weights"
MATCHED = "Thresholds of audio-visual matching (table 5)"
OURS_QUOTED = (0.859, 1.271, 0.517, 2.102, 0.891)


def build_rows() -> tuple[Row, ...]:
    """All rows; cells that several tables show are evaluated once."""
    ours = Row(VARIANTS, "ours: dot product, one head, no masks in training", Cell(OURS), OURS_QUOTED)
    variants = (
        ("additive", "(iii) additive attention", (0.103, 15.747, 7.425, 1.343, 0.137)),
        ("frozen", "(i) frozen diffusion", (0.692, 1.543, 1.047, 1.943, 0.733)),
        ("multi_head", "(ii) multi-head attention", (0.415, 2.238, 1.903, 2.115, 0.887)),
        ("audio_query", "(v) audio-image attention", (0.634, 1.761, 1.232, 1.731, 0.692)),
        ("mask_training", "(vi) mask training, all items", (0.763, 1.446, 0.742, 1.947, 0.797)),
        ("mask_training_half", "mask training, half of the items", None),
        ("no_positions", "without positions (table 6)", (0.787, 1.493, 0.674, 1.913, 0.779)),
    )
    rows = [ours, *(Row(VARIANTS, title, Cell(name), quoted) for name, title, quoted in variants)]
    by_text = (0.856, 1.270, 0.520, 2.097, 0.890)
    for name, title, quoted in (
        (OURS, "dot product", (OURS_QUOTED, by_text)),
        ("additive", "additive", (variants[0][2], None)),
        ("multi_head", "multi-head", (variants[2][2], None)),
    ):
        rows.append(Row(REPLACED, f"{title}: mask", Cell(name), quoted[0]))
        rows.append(Row(REPLACED, f"{title}: text attention", Cell(name, by="text"), quoted[1]))
        rows.append(Row(REPLACED, f"{title}: even weights, nothing selected", Cell(name, masks=WHOLE)))
    for scale, quoted_guidance in (
        (1.0, (0.413, 2.021, 0.914, 1.336, 0.674)),
        (1.5, (0.657, 1.558, 0.762, 1.617, 0.751)),
        (2.0, OURS_QUOTED),
        (2.5, (0.807, 1.440, 0.589, 2.012, 0.853)),
        (3.0, (0.796, 1.482, 0.576, 2.023, 0.841)),
        (7.0, None),
    ):
        rows.append(Row(GUIDANCE, f"{scale:g}", Cell(OURS, cfg=scale), quoted_guidance))
    for masks, title in (
        (PERFECT, "perfect"),
        ("eroded", "eroded by 4 % of the side"),
        ("dilated", "dilated by 4 % of the side"),
        ("noisy", "noisy logits, as a segmenter's"),
        ("grabcut", "GrabCut from one click"),
        ("segmenter", "the starter's segmenter from one click"),
    ):
        rows.append(Row(SELECTIONS, title, Cell(OURS, masks=masks)))
    rows += [
        Row(WEIGHTS, "deviation of training, negative weights kept", Cell(OURS)),
        Row(WEIGHTS, "deviation of training, negative weights clamped", Cell(OURS, clamp=True)),
        Row(WEIGHTS, "deviation of the object's own text attention", Cell(OURS, deviation="query")),
    ]
    rows.append(Row(MATCHED, "0: all clips, half of them with foreign sounds", Cell("threshold_0")))
    for value, quoted_threshold in (
        (0.4, (0.521, 1.874, 0.888, 1.432, 0.696)),
        (0.5, (0.743, 1.536, 0.691, 1.625, 0.774)),
        (0.6, OURS_QUOTED),
        (0.7, (0.845, 1.387, 0.612, 1.987, 0.882)),
        (0.8, (0.812, 1.501, 0.664, 2.005, 0.879)),
    ):
        rows.append(Row(MATCHED, f"{value:g}", Cell(f"threshold_{value:g}"), quoted_threshold))
    rows.append(Row(MATCHED, "the clips with their own sounds", Cell(TRUE_PAIRS)))
    return tuple(rows)


def chosen_rows(names: list[str] | None) -> tuple[Row, ...]:
    """The rows with these names, or all.

    Raises:
        ValueError: there is no such row; the message lists all.
    """
    rows = build_rows()
    known = list(dict.fromkeys(row.name for row in rows))
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"There is no row {unknown[0]!r}; the rows are {', '.join(known)}.")
    return tuple(row for row in rows if not names or row.name in names)
