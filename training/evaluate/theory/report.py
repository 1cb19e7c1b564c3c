"""What was measured of theorem 3.1 as a table, and attention beside masks as an image (figure 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from sounding.images.drawing import label_font, overlay

from .quantities import shared, top_overlap
from .queries import Query

TILE, TEXT, GAP, COLUMNS = 176, 34, 8, 3  # pixels; columns of pairs


def rows_of(figures: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    """(part, quantity, value) of all figures."""
    rows: list[tuple[str, str, str]] = []
    for name, found in figures.items():
        here = (*path, name)
        if isinstance(found, dict) and "low" in found:
            shown = f"{found['mean']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"
            rows.append((": ".join(path), name, f"{shown}, {found['least']:.4g} to {found['greatest']:.4g}"))
        elif isinstance(found, dict):
            rows += rows_of(found, here)
        else:
            number = isinstance(found, float)
            rows.append((": ".join(path), name, f"{found:.4g}" if number else str(found)))
    return rows


def table(figures: dict[str, Any]) -> str:
    """A Markdown table: means with 95 % intervals in brackets, then the range over scenes."""
    lines = ["| part | quantity | measured |", "| --- | --- | --- |"]
    rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows_of(figures)]
    return "\n".join([*lines, *(f"| {part} | {name} | {value} |" for part, name, value in rows)]) + "\n"


def attention_sheet(queries: list[Query]) -> Image.Image:
    """Pairs of the true mask and the attention of each query over its image, with their overlap."""
    across, down = min(COLUMNS, len(queries)), -(-len(queries) // COLUMNS)
    width, height = 2 * TILE + 2 * GAP, TILE + TEXT + GAP
    sheet = Image.new("RGB", (across * width, down * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, query in enumerate(queries):
        x, y = number % COLUMNS * width, number // COLUMNS * height
        u = query.log_u.exp()
        sheet.paste(_tile(query.image, query.mask[None]), (x, y))
        sheet.paste(_tile(query.image, _map(u)), (x + TILE + 2, y))
        common = float(shared(u, query.p))
        iou = float(top_overlap(u[None], query.coverage[None])[0])
        pen.text((x, y + TILE + 1), query.caption[:40], "black", label_font(13))
        pen.text((x, y + TILE + 16), f"overlap {common:.2f}, IoU {iou:.2f}", "black", label_font(13))
    return sheet


def _map(weights: Tensor) -> Tensor:
    """Weights [P] as a map [1, side, side], the greatest 1."""
    side = round(len(weights) ** 0.5)
    return (weights / weights.max()).float().reshape(1, side, side)


def _tile(image: Tensor, values: Tensor) -> Image.Image:
    small = functional.interpolate(image.movedim(-1, 1), (TILE, TILE), mode="area").movedim(1, -1)
    pixels = (overlay(small, values)[0] * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))
