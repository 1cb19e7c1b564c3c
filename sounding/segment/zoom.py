"""Where the click decoder looks a second time: of small objects it sees their part of the image enlarged.

As in RITM (Sofiiuk et al. 2021, "zoom-in"), the answer on the whole image says which part that is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..images.resize import cell_peaks
from .base import Frame
from .prompt import Box, Prompt

MARGIN = 1.6  # width of a part, in sizes of the object
LEAST = 0.3  # of the image's longer side; parts below that no longer show what the object is
MOST = 0.75  # of the image's longer side; parts beyond that show hardly more than the whole does
SNAP = 16  # steps along the longer side, so that the part mostly stays the same from click to click
CELLS = 80  # along the longer side, of what is looked at for connection


def zoom_frame(logits: Tensor, prompt: Prompt, size: tuple[int, int]) -> Frame | None:
    """The part of an image of `size` (height, width) to look at, or None where the whole shows the object large.

    Args:
        logits: [h, w] answer on the whole image, at any resolution.
        prompt: that it answers.
    """
    found = prompt.box or _clicked_bounds(logits, prompt, size)
    bounds = [*([found] if found else []), *((x, y, x, y) for x, y in prompt.positive)]
    left, top = (min(box[side] for box in bounds) for side in (0, 1))
    right, bottom = (max(box[side] for box in bounds) for side in (2, 3))
    longer = max(size)
    side = max(MARGIN * (right - left), MARGIN * (bottom - top), LEAST * longer)
    if side > MOST * longer or longer < SNAP:  # or an image of a few pixels
        return None
    step = longer / SNAP
    side = math.ceil(side / step) * step
    x0, x1 = _placed((left + right) / 2, side, step, size[1])
    y0, y1 = _placed((top + bottom) / 2, side, step, size[0])
    return x0, y0, x1, y1


def _placed(middle: float, side: float, step: float, extent: int) -> tuple[int, int]:
    """Begin and end of `side` pixels about `middle`, on the steps, inside of 0..extent."""
    first = round((middle - side / 2) / step) * step
    first = max(0.0, min(first, extent - side))
    return round(first), min(extent, round(first + side))


def _clicked_bounds(logits: Tensor, prompt: Prompt, size: tuple[int, int]) -> Box | None:
    """Bounds, in the image's pixels, of what the answer selects and hangs together with a click on the object."""
    height, width = size
    rows, columns = (max(1, round(CELLS * extent / max(size))) for extent in size)
    selected = cell_peaks(logits[None], (rows, columns))[0] > 0  # a thin neck connects too
    reached = torch.zeros_like(selected)
    for x, y in prompt.positive:
        reached[min(rows - 1, int(y / height * rows)), min(columns - 1, int(x / width * columns))] = True
    reached &= selected
    while True:  # grows by one cell a turn
        grown = (functional.max_pool2d(reached[None].float(), 3, 1, 1)[0] > 0) & selected
        if torch.equal(grown, reached):
            break
        reached = grown
    if not reached.any():
        return None
    y, x = reached.nonzero().T.tolist()
    cell_x, cell_y = width / columns, height / rows
    return min(x) * cell_x, min(y) * cell_y, (max(x) + 1) * cell_x, (max(y) + 1) * cell_y
