"""Plot of the scores of one run over seeds: a dot for each seed, and mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from getam.pages.plots.style import COLORS
from getam.runs.spread import Spread, with_deviation
from getam.system.names import shown_name

LABEL = 40
"""Number of letters to which a score's name is shortened."""


def spread_size(count: int) -> tuple[float, float]:
    """Size (width, height), in inches, of the figure for draw_spreads with `count` scores."""
    return 9.0, 1.3 + 0.34 * count


def draw_spreads(figure: Figure, title: str, spreads: Mapping[str, Spread]) -> None:
    """Draws each score on a line of its own: the seeds as dots, mean and deviation above them and as text beside them.

    A score without values is a line with the words "no score".
    """
    axes = figure.subplots()
    axes.set_title(title)
    for line, spread in enumerate(spreads.values()):
        axes.plot(spread.known, [line + 0.16] * len(spread.known), "o", color=COLORS[1], markersize=5, alpha=0.7)
        if spread.mean is not None:
            deviation = spread.deviation or 0
            axes.errorbar(spread.mean, line - 0.14, xerr=deviation, fmt="|", color=COLORS[0], markersize=8, capsize=3)
        text = "no score" if spread.mean is None else with_deviation(spread.mean, spread.deviation)
        # The text lies beside the axes, at the line's height.
        axes.annotate(
            text, (1, line), (6, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(spreads)), [shown_name(heading, most=LABEL) for heading in spreads])
    axes.tick_params("y", length=0)
    axes.set_ylim(len(spreads) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("score")
    dots, bars = (axes.plot([], [], mark, color=color)[0] for mark, color in (("o", COLORS[1]), ("|-", COLORS[0])))
    figure.legend(
        [dots, bars], ["a seed", "mean and standard deviation"], loc="outside lower right", ncols=2, fontsize=9
    )
