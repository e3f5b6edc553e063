"""Draws what a network predicts for photographs: overlays with names, and a sheet of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from getam.pages.pictures import heat_picture
from getam.pages.rendering import render
from getam.pages.thumbnails import data_url, fitted
from getam.system.files import write_text
from getam.system.image_files import voc_palette

OPACITY = 0.55
"""Of the colors over a photograph."""

LARGEST = 1600
"""Longest side of an overlay, pixels."""

THUMBNAIL = 260
"""Longest side of a picture on the sheet, pixels."""


def overlay(photograph: np.ndarray, labels: np.ndarray, *, longest: int = LARGEST) -> Image.Image:
    """A photograph (H, W, 3), uint8 RGB, with the colors of its label values (H, W) over it, and white outlines."""
    size = fitted((photograph.shape[1], photograph.shape[0]), longest)
    below = Image.fromarray(photograph).resize(size, reducing_gap=2.0)
    small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    shown = np.asarray(small)
    # A color may be close to that of the object below it; an outline is seen on any.
    width = 3 if max(size) <= 800 else 5
    outline = shown != np.asarray(small.filter(ImageFilter.MaxFilter(width)))
    colors = np.where(outline[..., None], 255, voc_palette()[shown]).astype(np.uint8)
    alpha = np.where(outline, 255, np.where(shown == 0, 0, round(255 * OPACITY))).astype(np.uint8)
    return Image.composite(Image.fromarray(colors), below, Image.fromarray(alpha))


def heat_overlay(photograph: np.ndarray, values: np.ndarray, *, longest: int = LARGEST) -> Image.Image:
    """A photograph (H, W, 3), uint8 RGB, in gray under a map (h, w) in [0, 1]."""
    size = fitted((photograph.shape[1], photograph.shape[0]), longest)
    gray = Image.fromarray(photograph).resize(size, reducing_gap=2.0).convert("L").convert("RGB")
    return Image.blend(gray, heat_picture(values, size).convert("RGB"), OPACITY)


def with_names(picture: Image.Image, names: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """Writes names, each beside a square of its color, into the lower left corner of a picture."""
    if not names:
        return picture
    side = max(10, max(picture.size) // 45)
    font = ImageFont.load_default(side)
    draw = ImageDraw.Draw(picture, "RGBA")
    widest = max(draw.textlength(name, font=font) for name, _ in names)
    line, gap = round(1.5 * side), side // 2
    top = picture.height - line * len(names) - 2 * gap
    draw.rectangle((0, top, widest + 2 * side + 2 * gap, picture.height), fill=(255, 255, 255, 210))
    for number, (name, color) in enumerate(names):
        y = top + gap + number * line
        draw.rectangle((gap, y, gap + side, y + side), fill=color, outline=(0, 0, 0))
        draw.text((2 * gap + side, y + side // 2), name, fill=(0, 0, 0), font=font, anchor="lm")
    return picture


@dataclass(frozen=True)
class Predicted:
    """A photograph on the sheet.

    Attributes:
        name: of its results.
        pictures: title of a picture -> the picture.
        facts: a line below the name.
    """

    name: str
    pictures: dict[str, Image.Image]
    facts: str


def write_sheet(
    out: Path, images: Sequence[Predicted], *, total: int, model: str, colors: Sequence[tuple[str, str]]
) -> None:
    """Writes a page of photographs beside their predictions, which needs no other file.

    Args:
        total: number of photographs that `images` were chosen from.
        model: what made the predictions.
        colors: names and CSS colors of the classes that occur.
    """
    shown = [
        (
            image.name,
            image.facts,
            [(title, data_url(picture.convert("RGB"), "JPEG")) for title, picture in image.pictures.items()],
        )
        for image in images
    ]
    write_text(out, render("predictions.html", model=model, total=total, colors=colors, images=shown))
