"""Plots: their bytes, names of classes on them, sizes that read."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from getam.pages.plots.scores import (
    NAME_LETTERS,
    confusion_size,
    draw_confusion,
    draw_ious,
    draw_threshold_curve,
    iou_size,
)
from getam.pages.plots.spread import draw_spreads, spread_size
from getam.pages.plots.style import make_logarithmic, save_plot
from getam.pages.plots.training import draw_training
from getam.runs.curves import Curve
from getam.runs.spread import Spread
from getam.system.names import shown_name
from getam.system.version import ROOT

HOSTILE = ("$x_1$ \\frac{", "<script>alert(1)</script>&amp;", "two\nlines\x1b[31m", "long" * 25, "中文", "%s {0}")


def texts(path: Path) -> list[str]:
    """The texts of an SVG, which has to be XML."""
    return [element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def ious_of(names: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    return {
        "Pseudo labels": {name: 0.9 - i / 100 for i, name in enumerate(names)},
        "DeepLab": {name: None if i == 1 else 0.5 for i, name in enumerate(names)},
    }


def test_a_name_is_one_printable_line_cut_in_its_middle() -> None:
    assert shown_name(
        "a\n\tb\x1b[2J\x9bc\u202ed"
    ) == "a b\N{REPLACEMENT CHARACTER}[2J" + "\N{REPLACEMENT CHARACTER}c" + ("\N{REPLACEMENT CHARACTER}d")
    assert shown_name("abcdefgh", most=5) == "ab\N{HORIZONTAL ELLIPSIS}gh"
    assert shown_name("abcdefgh", most=8) == "abcdefgh"
    assert shown_name("abcdefgh") == "abcdefgh"


def test_the_same_plot_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_plot(tmp_path / f"{name}.svg", lambda figure: draw_ious(figure, ious_of(("cat", "dog"))))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize("count", [7, 81])
def test_hostile_names_stay_text(tmp_path: Path, count: int, recwarn: pytest.WarningsRecorder) -> None:
    names = (*HOSTILE, *(f"class {i}" for i in range(count - len(HOSTILE))))
    counts = np.eye(count, dtype=np.int64)
    path = tmp_path / "plot.svg"
    for draw, (width, height) in (
        (lambda figure: draw_ious(figure, ious_of(names)), iou_size(ious_of(names))),
        (lambda figure: draw_confusion(figure, counts, names, title="DeepLab"), confusion_size(count)),
    ):
        save_plot(path, draw, width=width, height=height)
        found = texts(path)
        for name in HOSTILE:
            assert shown_name(name, most=NAME_LETTERS) in found
        assert "<script>" not in path.read_text()
        assert max(map(len, found)) < 60
    assert not list(recwarn)


def test_the_worst_class_comes_first_and_one_without_score_last(tmp_path: Path) -> None:
    ious = {"A": {"good": 0.9, "none": None, "bad": 0.1}, "B": {"good": 0.8, "none": None, "bad": 0.3}}
    figure = Figure()
    draw_ious(figure, ious)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bad", "good", "none"]
    # The first is on top.
    assert axis.yaxis_inverted()
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == [
        "A, mean 0.500",
        "B, mean 0.550",
    ]


def test_many_classes_stand_in_columns() -> None:
    names = tuple(f"class {i}" for i in range(81))
    figure = Figure()
    draw_ious(figure, ious_of(names))
    assert [len(axis.get_yticklabels()) for axis in figure.axes] == [27, 27, 27]
    assert iou_size(ious_of(names))[1] < 12


def test_a_confusion_matrix_is_of_shares_of_rows() -> None:
    figure = Figure()
    draw_confusion(figure, np.array([[3, 1], [0, 0]]), ("background", "cat"), title="DeepLab")
    axis = figure.axes[0]
    shares = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shares, [[0.75, 0.25], [np.nan, np.nan]])
    assert [text.get_text() for text in axis.texts] == ["75", "25"]
    many = Figure()
    draw_confusion(many, np.eye(81, dtype=int), [str(i) for i in range(81)], title="DeepLab")
    assert not many.axes[0].texts
    assert len(many.axes[0].get_yticklabels()) == 81


def test_the_best_and_the_fixed_threshold_are_marked() -> None:
    points = [
        {"threshold": t, "miou": m, "precision": None, "recall": m} for t, m in ((0.1, 0.3), (0.2, 0.4), (0.3, None))
    ]
    figure = Figure()
    draw_threshold_curve(figure, points, points[1], None)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["best mIoU 0.400 at 0.20"]
    assert {line.get_label() for line in axis.lines if not line.get_label().startswith("_")} == {"mIoU", "recall"}
    figure = Figure()
    draw_threshold_curve(figure, points, points[1], {"threshold": 0.15, "miou": 0.35})
    (mark,) = [line for line in figure.axes[0].lines if line.get_label() == "mIoU 0.350 at 0.15, fixed"]
    assert (mark.get_xdata(), mark.get_ydata()) == ([0.15], [0.35])


def test_the_seeds_of_a_score_are_dots_on_its_line() -> None:
    spreads = {
        "DeepLab": Spread((0.75, 0.25, 0.5)),
        "End to end": Spread((0.625,)),
        "Maps": Spread((None, None)),
        HOSTILE[0]: Spread((0.5, 0.5)),
    }
    figure = Figure()
    draw_spreads(figure, "Seeds", spreads)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [*spreads]
    # The first is on top.
    assert axis.yaxis_inverted()
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in dots] == [[0.75, 0.25, 0.5], [0.625], [0.5, 0.5]]
    bars = [bar.get_segments()[0] for bar in axis.collections]
    assert [list(bar[:, 0]) for bar in bars] == [[0.25, 0.75], [0.625, 0.625], [0.5, 0.5]]
    # The dots of a score are on the line of its name.
    assert [round(line.get_ydata()[0]) for line in dots] == [0, 1, 3]
    assert [text.get_text() for text in axis.texts] == ["0.500 ± 0.250", "0.625", "no score", "0.500 ± 0.000"]


def test_seeds_of_scores_with_hostile_names_stay_text(tmp_path: Path) -> None:
    spreads = {name: Spread((0.1, 0.2)) for name in HOSTILE}
    width, height = spread_size(len(spreads))
    save_plot(tmp_path / "p.svg", partial(draw_spreads, title="T", spreads=spreads), width=width, height=height)
    found = texts(tmp_path / "p.svg")
    assert all(shown_name(name, most=40) in found for name in HOSTILE)
    assert "<script>" not in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize("values", [(0.45, 0.7), (2.0, 9.0), (0.5, 30.0), (1e-4, 1.0), (3e-7, 2e3)])
def test_a_log_axis_is_labelled_by_plain_numbers(tmp_path: Path, values: tuple[float, float]) -> None:
    def draw(figure: Figure) -> None:
        # A text that is found is a label of the axis in question: the other one has no ticks.
        of_y, of_x = figure.subplots(1, 2)
        of_y.plot((0, 1), values)
        make_logarithmic(of_y)
        of_y.set_xticks([])
        of_x.plot(values, (0, 1))
        make_logarithmic(of_x, "x")
        of_x.set_yticks([])

    save_plot(tmp_path / "plot.svg", draw)
    labels = texts(tmp_path / "plot.svg")
    assert len(labels) >= 2
    assert all(float(label) > 0 for label in labels)


def test_a_loss_that_jumps_has_no_formula_on_its_axis(tmp_path: Path) -> None:
    # The jump makes the axis logarithmic; thinned and averaged, what is drawn lies within less than a decade.
    values = np.concatenate([np.full(700, 0.5), [30.0], np.full(700, 0.45)])
    panels = {"loss": {"segmentation": Curve(np.arange(len(values)), values)}}
    save_plot(tmp_path / "plot.svg", lambda figure: draw_training(figure, panels, title="DeepLab", unit="step"))
    assert not [text for text in texts(tmp_path / "plot.svg") if "$" in text or "\\" in text]


@pytest.mark.parametrize("highest", [0.61, 2.0, 7.0, 300.0])
@pytest.mark.parametrize("lowest", [0.59, 0.05, 1e-5])
def test_no_range_of_losses_shows_a_formula(tmp_path: Path, lowest: float, highest: float) -> None:
    # A range of less than a decade has labels at its minor ticks, which matplotlib writes as $\\mathdefault{6x10^-1}$.
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot((0, 1), (lowest, highest))
        make_logarithmic(axes)

    save_plot(tmp_path / "plot.svg", draw)
    source = (tmp_path / "plot.svg").read_text()
    assert "mathdefault" not in source
    assert "$" not in source
    assert len(texts(tmp_path / "plot.svg")) >= 4


def test_the_plots_of_the_manual_show_no_formula() -> None:
    plots = [*(ROOT / "docs" / "pictures").glob("*.svg")]
    assert plots
    assert [path.name for path in plots if "mathdefault" in path.read_text()] == []


def test_no_other_module_makes_a_log_axis() -> None:
    makes = re.compile(r"set_[xy]scale\(|loglog\(|semilog[xy]\(")
    found = {path.name for path in (ROOT / "getam").rglob("*.py") if makes.search(path.read_text())}
    assert found == set()
