"""Formats a table of runs as JSON, text and plot, with the paper's figures beside the runs' own scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from getam.experiments.table_scores import (
    ScoredRow,
    Step,
    difference,
    headings,
    order,
    paper_headings,
    ranked,
    reference,
    shares,
)
from getam.pages.text.documents import Document, Grid, Items
from getam.runs.spread import with_deviation
from getam.runs.summary import signed, three_decimals
from getam.system.names import shown_name

LABEL = 40
"""Number of letters to which a row's label is shortened in a plot."""

MARKERS = "Dso^"
"""Markers of the paper's figures in a plot of bars."""

NO_ORDER = frozenset({"Coverage", "Maps, best threshold"})
"""Scores to which the paper's order of rows does not apply: they do not depend on the labels, or are no mIoU."""


def table_json(
    title: str, caption: str, rows: Sequence[ScoredRow], *, axis: str, ordered: bool, full: str = ""
) -> dict[str, Any]:
    """Gives all numbers of a table, with their files and protocols, as JSON values.

    Args:
        axis: the setting that the rows' values belong to; empty if none.
        ordered: whether to compare the order of the rows with the paper's.
        full: label of the row of whose scores the others' shares are given; empty if there is none.
    """
    base = reference(rows)
    return {
        "title": title,
        "caption": caption,
        "axis": axis or None,
        "reference": base.label,
        "rows": [
            {
                "label": row.label,
                "value": row.value,
                "paper": dict(row.paper),
                "scores": {
                    heading: {
                        "value": row.scores[heading],
                        "difference": difference(row.scores[heading], base.scores.get(heading)),
                        "file": str(row.files[heading][0]) if heading in row.files else None,
                        "protocol": row.protocols.get(heading),
                        **(_over_seeds(row, heading) if heading in row.spreads else {}),
                    }
                    for heading in row.scores
                },
            }
            for row in rows
        ],
        **({"full": full, "shares": shares(rows, full)} if full else {}),
        "order": {
            heading: [
                {"better": step.better, "worse": step.worse, "values": list(step.values), "holds": step.holds}
                | ({"deviations": list(step.deviations)} if step.deviations != (None, None) else {})
                for step in order(rows, heading)
            ]
            for heading in (_ordered_headings(rows) if ordered else ())
        },
    }


def _over_seeds(row: ScoredRow, heading: str) -> dict[str, Any]:
    """What the JSON of a table says of a score besides its mean."""
    spread = row.spreads[heading]
    return {
        "deviation": spread.deviation,
        "min": spread.least,
        "max": spread.most,
        "values": list(spread.values),
        "files": [str(file) for file in row.files[heading]],
    }


def table_document(title: str, caption: str, rows: Sequence[ScoredRow], *, ordered: bool, full: str = "") -> Document:
    """Makes a document of the table, with differences from the reference row, protocols, and whether the paper's order
    holds (if `ordered`); with `full`, each row has its shares in the scores of that row."""
    base, paper, scores = reference(rows), paper_headings(rows), headings(rows)
    parts = shares(rows, full)
    cells = [
        (
            row.label,
            *(_with_difference(row is base, row.paper.get(heading), base.paper.get(heading)) for heading in paper),
            *(
                _with_difference(
                    row is base, row.scores.get(heading), base.scores.get(heading), deviation=row.deviation(heading)
                )
                for heading in scores
            ),
            *(three_decimals(parts[heading].get(row.label)) for heading in parts),
        )
        for row in rows
    ]
    of_full = [f"{heading}, share of {full.partition(': ')[2]}" for heading in parts]
    brackets = f"; in brackets the difference from {base.label}" if len(rows) > 1 else ""
    return Document(
        title,
        [
            *([caption] if caption else []),
            f"All scores are fractions of 1{brackets}.{_about_seeds(rows)}",
            Grid(("", *paper, *scores, *of_full), cells, set(range(1, 1 + len(paper) + len(scores) + len(of_full)))),
            Items(protocol_lines(rows)),
            *(_order(rows, heading) for heading in (_ordered_headings(rows) if ordered else ())),
        ],
    )


def _about_seeds(rows: Sequence[ScoredRow]) -> str:
    """A sentence on the seeds of the scores; empty where all scores are of one seed."""
    count = max((len(spread.values) for row in rows for spread in row.spreads.values()), default=1)
    if count == 1:
        return ""
    return f" A score with ± is the mean of {count} seeds, and their standard deviation; means are what is compared."


def _with_difference(
    is_base: bool, value: float | None, of_base: float | None, *, deviation: float | None = None
) -> str:
    change, text = difference(value, of_base), with_deviation(value, deviation)
    return text if change is None or is_base else f"{text} ({signed(change)})"


def protocol_lines(rows: Sequence[ScoredRow]) -> list[str]:
    """Says how each column was measured: columns with the same protocol share a line, rows are named if they differ."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for heading in headings(rows):
        labels: dict[str, list[str]] = {}
        for row in rows:
            if heading in row.protocols:
                labels.setdefault(row.protocols[heading], []).append(row.label)
        protocols = tuple(
            f"{protocol} ({'; '.join(names)})" if len(labels) > 1 else protocol for protocol, names in labels.items()
        )
        if protocols:
            columns.setdefault(protocols, []).append(heading)
    return [f"{'; '.join(names)}: {' / '.join(protocols)}" for protocols, names in columns.items()]


def _ordered_headings(rows: Sequence[ScoredRow]) -> list[str]:
    """The scores that can be compared with the paper's order; none if the paper has figures for less than two rows."""
    return [heading for heading in headings(rows) if heading not in NO_ORDER] if len(ranked(rows)) > 1 else []


def _order(rows: Sequence[ScoredRow], heading: str) -> Items:
    """Says for each step of the paper's order whether it holds in one score of this run."""
    steps = order(rows, heading)
    held = sum(step.holds is True for step in steps)
    return Items(
        [*(f"{step.better} > {step.worse}: {_answer(step)}" for step in steps), _best(rows, heading)],
        lead=f"Order as in the paper, by {heading}: {held} of {len(steps)}",
    )


def _answer(step: Step) -> str:
    first, second = step.values
    if first is None or second is None:
        return "not known, a score is missing"
    sign = ">" if first > second else "<" if first < second else "="
    shown = [with_deviation(*each) for each in zip(step.values, step.deviations, strict=True)]
    return f"{'yes' if step.holds else 'no'} ({shown[0]} {sign} {shown[1]})"


def _best(rows: Sequence[ScoredRow], heading: str) -> str:
    """Says whether the paper's best row is the best here, among the rows that the paper has figures for."""
    published = ranked(rows)
    scores = {row.label: row.scores.get(heading) for row in published}
    known = {label: score for label, score in scores.items() if score is not None}
    statement = f"best as in the paper, {published[0].label}"
    if len(known) < len(scores):
        return f"{statement}: not known, a score is missing"
    best = max(known.values())
    winners = [label for label, score in known.items() if score == best]
    if winners == [published[0].label]:
        return f"{statement}: yes ({best:.3f})"
    return f"{statement}: no, {' and '.join(winners)} ({best:.3f})"


def draw_table(figure: Figure, title: str, rows: Sequence[ScoredRow], *, axis: str) -> None:
    """Draws lines over the rows' values of the setting `axis`; bars, row by row, if the rows have no such values."""
    axes = figure.subplots()
    axes.set_title(title)
    values = [row.value for row in rows]
    if axis and len(rows) > 1 and all(value is not None for value in values):
        _draw_lines(axes, sorted(rows, key=lambda row: row.value or 0), axis)
    else:
        _draw_bars(axes, rows)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _series(rows: Sequence[ScoredRow]) -> list[tuple[str, bool, list[float]]]:
    """Series of numbers to draw: (heading, whether it is the paper's, number of each row or NaN)."""
    paper = [(heading, True, [row.paper.get(heading) for row in rows]) for heading in paper_headings(rows)]
    own = [(heading, False, [row.scores.get(heading) for row in rows]) for heading in headings(rows)]
    return [
        (heading, published, [float("nan") if each is None else each for each in numbers])
        for heading, published, numbers in chain(own, paper)
        if any(each is not None for each in numbers)
    ]


def _deviations(rows: Sequence[ScoredRow], heading: str) -> list[float]:
    """The standard deviation of each row's score, NaN where there is none; empty if no row has one."""
    found = [row.deviation(heading) for row in rows]
    return [float("nan") if each is None else each for each in found] if any(each is not None for each in found) else []


def _draw_lines(axes: Axes, rows: Sequence[ScoredRow], axis: str) -> None:
    values = [row.value for row in rows]
    for heading, published, numbers in _series(rows):
        style = {"color": "black", "linestyle": "--", "marker": "D"} if published else {"marker": "o"}
        (line,) = axes.plot(values, numbers, label=heading, markersize=4, **style)  # type: ignore[arg-type]
        if not published and (deviations := _deviations(rows, heading)):
            axes.errorbar(values, numbers, deviations, fmt="none", ecolor=line.get_color(), capsize=3)  # type: ignore[arg-type]
    axes.set_xticks([value for value in values if value is not None], [f"{value:g}" for value in values])
    axes.set_xlabel(axis)
    axes.set_ylabel("score")


def _draw_bars(axes: Axes, rows: Sequence[ScoredRow]) -> None:
    series = _series(rows)
    own = [each for each in series if not each[1]]
    height = 0.8 / max(1, len(own))
    for place, (heading, _, numbers) in enumerate(own):
        centers = [row + (place - (len(own) - 1) / 2) * height for row in range(len(rows))]
        axes.barh(centers, numbers, height, label=heading)
        if deviations := _deviations(rows, heading):
            axes.errorbar(numbers, centers, xerr=deviations, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for place, (heading, _, numbers) in enumerate(each for each in series if each[1]):
        marker = MARKERS[place % len(MARKERS)]
        axes.plot(numbers, range(len(rows)), marker, color="black", markersize=5, label=heading)
    axes.set_yticks(range(len(rows)), [shown_name(row.label, most=LABEL) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("score")
    axes.grid(False, axis="y")
