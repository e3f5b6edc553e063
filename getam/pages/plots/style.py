"""Writes plots as SVG files in one style, with colors for color-blind readers; the same data give the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from getam.system.files import atomic_file

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
"""The palette of Okabe and Ito, whose colors color-blind readers can tell apart."""

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    # Text stays text in the SVG, and a class name with a dollar sign is not parsed as a formula.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "getam",
}


class _PlainNumbers(LogFormatter):
    """Labels the ticks of a log axis by plain numbers, such as 0.6, where matplotlib writes 6x10^-1 as a TeX formula.

    The style turns off the parsing of formulas, so that their TeX source would be shown. Minor ticks have labels where
    matplotlib gives them some: an axis of less than a decade may have no other.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def make_logarithmic(axes: Axes, which: Literal["x", "y"] = "y", *, base: int = 10) -> None:
    """Gives the x or y axis a log scale with plain numbers at its ticks; all log axes are made by this function."""
    set_scale, axis = {"x": (axes.set_xscale, axes.xaxis), "y": (axes.set_yscale, axes.yaxis)}[which]
    set_scale("log", base=base)
    axis.set_major_formatter(_PlainNumbers(base))
    axis.set_minor_formatter(_PlainNumbers(base))


def save_plot(path: Path, draw: Callable[[Figure], None], *, width: float = 7.0, height: float = 4.0) -> None:
    """Draws a figure and writes it as SVG.

    Args:
        draw: draws into an empty figure without axes, whose layout is `constrained`.
        width, height: size of the figure, in inches; browsers show 96 pixels an inch.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # A class name may use letters that matplotlib's font lacks; the program that shows the SVG picks a font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
