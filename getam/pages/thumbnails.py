"""Small pictures and colors as a page has them within itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height), scaled down so that the longer side is `longest` at most."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def css_color(color: np.ndarray) -> str:
    """A color (3,), uint8 RGB, as #rrggbb."""
    return "#" + color.tobytes().hex()


def data_url(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it.

    Args:
        kind: JPEG, or PNG for label pictures, whose few colors take a third of the bytes with a palette.
    """
    file = io.BytesIO()
    if kind == "PNG":
        picture = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE) if picture.mode == "RGB" else picture
    picture.save(file, format=kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
