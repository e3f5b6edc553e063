"""Draws label images and maps, for the pages and for the logs of trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from getam.system.image_files import UNKNOWN, voc_palette

if TYPE_CHECKING:
    from getam.training.double_backward import StepPictures

SIDE = 160
"""Least size of the longer side of a tile in a training's picture, pixels."""
CAPTION = 18
ROWS = 4
COLUMNS = ("image", "strongest map", "pseudo label", "prediction")


def label_picture(labels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Draws label values (H, W), uint8, in VOC's colors at `size` (width, height); unknown pixels (255) are hatched."""
    resized = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    colors = voc_palette()[resized]
    rows, columns = np.indices(resized.shape)
    stripe = (rows + columns) // 3 % 2 == 0
    colors[(resized == UNKNOWN) & stripe] = 255
    colors[(resized == UNKNOWN) & ~stripe] = 150
    return Image.fromarray(colors)


def heat_picture(values: np.ndarray, size: tuple[int, int] | None = None) -> Image.Image:
    """Draws a map (H, W) in [0, 1] in the colors of viridis, at `size` (width, height) or at its own."""
    picture = Image.fromarray((values.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8))
    if size is not None:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    picture.putpalette(heat_colors().tobytes())
    return picture


def heat_colors() -> np.ndarray:
    """The colors of viridis, which stay ordered for color-blind readers and in gray print: (256, 3), uint8."""
    return matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]


def training_picture(pictures: StepPictures) -> np.ndarray:
    """Draws the first images of a training step, a row each: image, strongest map, pseudo label, prediction.

    Returns:
        (H, W, 3), uint8.
    """
    height, width = pictures.targets.shape[1:]
    factor = -(-SIDE // max(height, width))
    size = (width * factor, height * factor)
    count = min(ROWS, len(pictures.targets))
    grid = Image.new("RGB", (len(COLUMNS) * size[0], CAPTION + count * size[1]), "white")
    draw = ImageDraw.Draw(grid)
    for column, name in enumerate(COLUMNS):
        draw.text((column * size[0] + 4, 3), name, fill="black")
    for row in range(count):
        photograph = pictures.photographs[row].permute(1, 2, 0).float().round().clamp(0, 255).byte().cpu().numpy()
        peaks = pictures.maps[row].amax((1, 2), keepdim=True)
        # Each map is divided by its maximum, as completion does before it compares classes.
        strongest = (pictures.maps[row] / peaks.where(peaks > 0, 1)).amax(0).float().cpu().numpy()
        prediction = pictures.logits[row].argmax(0).byte().cpu().numpy()
        tiles = (
            Image.fromarray(photograph).resize(size, Image.Resampling.NEAREST),
            heat_picture(strongest, size),
            label_picture(pictures.targets[row].cpu().numpy(), size),
            label_picture(prediction, size),
        )
        for column, tile in enumerate(tiles):
            grid.paste(tile.convert("RGB"), (column * size[0], CAPTION + row * size[1]))
    return np.asarray(grid)
