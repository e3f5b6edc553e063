"""Draws a sheet of maps as one picture: a row for each image, a column for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from getam.pages.pictures import heat_picture, label_picture
from getam.system.names import shown_name

TILE = 128
"""Height and width of a tile, pixels; a smaller picture is centered in it."""
GAP = 4
LINE = 15
"""Height of a line of text."""
LETTERS = 21
"""Number of letters that fit into the width of a tile."""
PHOTOGRAPH_SHARE = 0.3
"""Opacity of the gray photograph that is blended into a map, so that the map's objects can be recognized."""


class SheetRow(NamedTuple):
    """One image of a sheet."""

    caption: str
    photograph: np.ndarray
    """(H, W, 3), uint8."""
    truth: np.ndarray | None
    """(H, W) of label values."""
    maps: Sequence[np.ndarray]
    """(H, W) in [0, 1] of each method."""


def draw_sheet(headings: Sequence[Sequence[str]], rows: Sequence[SheetRow]) -> Image.Image:
    """Draws a sheet with the columns photograph, ground truth, and the maps of each method.

    Args:
        headings: lines of text above the column of each method.
    """
    columns = [("photograph",), ("ground truth",), *headings]
    lines = max(map(len, columns))
    top, step = lines * LINE + 2 * GAP, TILE + LINE + GAP
    sheet = Image.new("RGB", (len(columns) * (TILE + GAP) + GAP, top + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, texts in enumerate(columns):
        for line, text in enumerate(texts):
            draw.text((GAP + number * (TILE + GAP), GAP + line * LINE), _fit(text), fill="black", font=font)
    for number, row in enumerate(rows):
        y = top + number * step
        draw.text((GAP, y), shown_name(row.caption, most=2 * LETTERS), fill="black", font=font)
        for column, tile in enumerate(_tiles(row)):
            if tile is not None:
                left = GAP + column * (TILE + GAP) + (TILE - tile.width) // 2
                sheet.paste(tile, (left, y + LINE + (TILE - tile.height) // 2))
    return sheet


def _fit(text: str) -> str:
    return shown_name(text, most=LETTERS)


def _tiles(row: SheetRow) -> list[Image.Image | None]:
    height, width = row.photograph.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photograph = Image.fromarray(row.photograph).resize(size, Image.Resampling.BICUBIC)
    gray = photograph.convert("L").convert("RGB")
    return [
        photograph,
        None if row.truth is None else label_picture(row.truth, size),
        *(Image.blend(heat_picture(values, size).convert("RGB"), gray, PHOTOGRAPH_SHARE) for values in row.maps),
    ]
