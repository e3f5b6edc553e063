"""Plots as SVG files: one style, colors that survive color blindness, the same bytes every time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from getam.files import atomic_file

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


def make_logarithmic(axes: Axes) -> None:
    """Gives y a log scale. Its powers are written as formulas, which the style shows as they are: numbers instead."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


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
