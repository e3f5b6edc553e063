"""Plots as SVG files: one style, colors that survive color blindness, the same bytes every time."""

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
"""Of Okabe and Ito: told apart by color-blind eyes."""

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
    # Letters stay letters, and a class's name with a dollar in it is no formula.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "getam",
}


class _PlainNumbers(LogFormatter):
    """Labels the ticks that matplotlib labels, by plain numbers: 0.6 where matplotlib writes a formula, 6x10^-1 in TeX.

    The style shows texts as they are, so that a formula would be read as its source. Minor ticks have labels on an axis
    of less than a decade, which may have no other.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def make_logarithmic(axes: Axes, which: Literal["x", "y"] = "y", *, base: int = 10) -> None:
    """Gives one of the two axes a log scale whose ticks are labelled by plain numbers; every log axis is made here."""
    set_scale, axis = {"x": (axes.set_xscale, axes.xaxis), "y": (axes.set_yscale, axes.yaxis)}[which]
    set_scale("log", base=base)
    axis.set_major_formatter(_PlainNumbers(base))
    axis.set_minor_formatter(_PlainNumbers(base))


def save_plot(path: Path, draw: Callable[[Figure], None], *, width: float = 7.0, height: float = 4.0) -> None:
    """Writes what `draw` puts into an empty figure as SVG.

    Args:
        draw: gets a figure without axes, `constrained` in its layout.
        width, height: of the figure, inches; drawn at 96 pixels an inch.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # A class's name in letters that matplotlib's font lacks: whoever shows the SVG has a font for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
