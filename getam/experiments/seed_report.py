"""Formats the scores of one run over seeds as JSON and text: a line for each score, a column for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from getam.experiments.table_report import protocol_lines
from getam.experiments.table_scores import ScoredRow
from getam.pages.text.documents import Document, Grid, Items
from getam.runs.spread import Spread, with_deviation
from getam.runs.summary import ABSENT, three_decimals


def seeds_json(title: str, caption: str, row: ScoredRow) -> dict[str, Any]:
    """Gives all numbers of a run over seeds, with their files and protocols, as JSON values.

    The values of a score are in the order of the seeds, and so are their files. A score that no seed touches has one of
    each, and no deviation.
    """
    return {
        "title": title,
        "caption": caption,
        "run": row.label,
        "seeds": _count(row),
        "scores": {
            heading: {
                "mean": spread.mean,
                "deviation": spread.deviation,
                "min": spread.least,
                "max": spread.most,
                "values": list(spread.values),
                "files": [str(file) for file in row.files[heading]],
                "protocol": row.protocols[heading],
            }
            for heading, spread in spreads_of(row).items()
        },
    }


def seeds_document(title: str, caption: str, row: ScoredRow) -> Document:
    """Makes a document of a run's scores over seeds, with their protocols, and why a score has no deviation."""
    spreads, count = spreads_of(row), _count(row)
    seeds = ("Seed", *(f"Seed + {offset}" for offset in range(1, count)))
    columns = ("Score", "Mean ± deviation", "Least", "Most", *seeds)
    return Document(
        title,
        [
            caption,
            "All scores are fractions of 1. The deviation is the standard deviation of a sample: the squares are "
            f"divided by the number of seeds less one, {count - 1}.",
            Grid(columns, [_cells(*each, count) for each in spreads.items()], set(range(1, len(columns)))),
            Items(protocol_lines([row])),
            *([Items(without, lead="Without a deviation")] if (without := [*_without_deviation(spreads)]) else []),
        ],
    )


def spreads_of(row: ScoredRow) -> Mapping[str, Spread]:
    """The values by seed of all scores of a run, by heading."""
    return {heading: row.spreads.get(heading, Spread((score,))) for heading, score in row.scores.items()}


def _count(row: ScoredRow) -> int:
    return max(len(files) for files in row.files.values())


def _cells(heading: str, spread: Spread, count: int) -> tuple[str, ...]:
    values = [three_decimals(value) for value in spread.values]
    range_of = [three_decimals(spread.least), three_decimals(spread.most)] if len(values) > 1 else [ABSENT, ABSENT]
    return heading, with_deviation(spread.mean, spread.deviation), *range_of, *values, *[ABSENT] * (count - len(values))


def _without_deviation(spreads: Mapping[str, Spread]) -> Iterator[str]:
    for heading, spread in spreads.items():
        if spread.mean is None:
            yield f"{heading}: no score, since the data set has no ground truth for it"
        elif spread.deviation is None:
            yield f"{heading}: no seed touches it"
