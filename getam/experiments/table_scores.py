"""The numbers of a table of runs: reads the rows' scores, and compares their order with the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from getam.errors import InputError
from getam.runs.artifacts import segmenter_title
from getam.runs.spread import Spread
from getam.runs.summary import describe_fixed_threshold, describe_inference, describe_supervision
from getam.system.files import read_json

PAPER = "Paper"
"""Heading of the paper's figures by which rows are ordered."""


class GivenScore(BaseModel):
    """The place of a score: a JSON file, and the nested keys of the score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    path: tuple[str, ...]
    others: tuple[Path, ...] = ()
    """The same file of the same run with other seeds, of which the score is the mean; empty: one seed."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all seeds."""
        return self.file, *self.others


class GivenRow(BaseModel):
    """One row of a table, as make-table is given it: a label, and the places of its scores.

    `value` is the value of the setting in which the rows differ. By heading, `paper` holds the paper's figures, `given`
    scores that were measured elsewhere, and `scores` the places of the run's own scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    own: bool
    """Whether the row is the run itself, with which the other rows are compared."""
    value: float | None
    paper: dict[str, float]
    given: dict[str, float | None]
    scores: dict[str, GivenScore]


@dataclass(frozen=True)
class ScoredRow:
    """A row with its numbers, files and protocols, by heading."""

    label: str
    own: bool
    """Whether the row is the run itself."""
    value: float | None
    paper: Mapping[str, float]
    scores: Mapping[str, float | None]
    """The scores; over seeds, their means."""
    files: Mapping[str, tuple[Path, ...]]
    """The files that the scores are from, one for each seed."""
    protocols: Mapping[str, str] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    """The values by seed of those scores that were measured with several."""

    def deviation(self, heading: str) -> float | None:
        """The standard deviation of a score over seeds; None for one seed, and for a missing score."""
        return self.spreads[heading].deviation if heading in self.spreads else None


@dataclass(frozen=True)
class Step:
    """Two rows that follow each other in the paper's order, with their scores here; None for a missing score."""

    better: str
    worse: str
    values: tuple[float | None, float | None]
    deviations: tuple[float | None, float | None] = (None, None)
    """Their standard deviations over seeds, which decide nothing."""

    @property
    def holds(self) -> bool | None:
        """Whether the paper's order holds here; None if a score is missing."""
        first, second = self.values
        return None if first is None or second is None else first > second


def read_rows(rows: Sequence[GivenRow]) -> list[ScoredRow]:
    """Reads the scores of all rows.

    Raises:
        InputError: a file is missing, or lacks its score.
    """
    content = {file: read_json(file) for row in rows for each in row.scores.values() for file in each.files}
    found = []
    for row in rows:
        spreads = {
            heading: Spread(tuple(_number(content[file], file, each.path) for file in each.files))
            for heading, each in row.scores.items()
        }
        found.append(
            ScoredRow(
                row.label,
                row.own,
                row.value,
                row.paper,
                {heading: spread.mean for heading, spread in spreads.items()} | row.given,
                {heading: each.files for heading, each in row.scores.items()},
                {heading: _protocol(content[each.file], each) for heading, each in row.scores.items()}
                | {heading: GIVEN for heading, value in row.given.items() if value is not None},
                {heading: spread for heading, spread in spreads.items() if len(spread.values) > 1},
            )
        )
    return found


GIVEN = "as it was measured elsewhere, named in the configuration"
"""The protocol of a score that no stage of this run measured."""


def _number(content: Any, file: Path, path: Sequence[str]) -> float | None:
    for key in path:
        if content is None:
            # Without ground truth, best_threshold and fixed_threshold are null.
            return None
        if not isinstance(content, dict) or key not in content:
            raise InputError(f"{file}: lacks {'.'.join(path)}; {AGAIN}")
        content = content[key]
    if content is not None and not isinstance(content, int | float):
        raise InputError(f"{file}: {'.'.join(path)} is no number; {AGAIN}")
    return content


def _protocol(content: Mapping[str, Any], score: GivenScore) -> str:
    """How a score was measured, as text: "200 images of val, scale 1, flip, no CRF, supervision I+S (annotations)"."""
    threshold = score.path[0]
    of_maps = threshold in ("best_threshold", "fixed_threshold")
    try:
        measured = content.get("protocol", content)
        architecture = measured.get("architecture")
        parts = [] if architecture in (None, THE_PAPERS) else [segmenter_title(architecture)]
        parts.append(f"{content['images']} images of {content.get('split', VAL)}")
        if score.path[-1] == "miou" and (count := _beside(content, score.path).get("miou_classes")) is not None:
            parts.append(f"{count} classes")
        parts += [describe_inference(measured)] if "scales" in measured else []
        parts += ["threshold chosen on them"] if threshold == "best_threshold" else []
        if threshold == "fixed_threshold" and content[threshold]:
            parts.append(describe_fixed_threshold(content[threshold]))
        used = measured.get("maps_supervision" if of_maps else "supervision")
        parts += [f"supervision {describe_supervision(used, measured)}"] if used else []
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{score.file}: says not how it was measured ({error}); {AGAIN}") from None
    return ", ".join(parts)


def _beside(content: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """The mapping that contains a score; empty where there is no score."""
    for key in path[:-1]:
        content = content[key]
    return content or {}


THE_PAPERS = "deeplabv2"
"""The paper's architecture, which protocols do not mention."""

AGAIN = "delete it and run the stage that writes it again"

VAL = "val"
"""The split of scores whose file names none: those of the saliency network."""


def reference(rows: Sequence[ScoredRow]) -> ScoredRow:
    """The row with which the others are compared: the run itself, or the first row."""
    return next((row for row in rows if row.own), rows[0])


def headings(rows: Sequence[ScoredRow]) -> list[str]:
    """The headings of the scores, in the order of the rows."""
    return list(dict.fromkeys(heading for row in rows for heading in row.scores))


def paper_headings(rows: Sequence[ScoredRow]) -> list[str]:
    """The headings of the paper's figures, in the order of the rows."""
    return list(dict.fromkeys(heading for row in rows for heading in row.paper))


def difference(value: float | None, other: float | None) -> float | None:
    """The difference `value - other`; None if one is missing."""
    return None if value is None or other is None else value - other


def shares(rows: Sequence[ScoredRow], full: str) -> dict[str, dict[str, float | None]]:
    """The share of each row's scores in those of the row `full`, by heading and label; of the headings it has."""
    whole = next((row for row in rows if row.label == full), None)
    return {
        heading: {row.label: share(row.scores.get(heading), value) for row in rows if row is not whole}
        for heading, value in (whole.scores if whole else {}).items()
    }


def share(value: float | None, whole: float | None) -> float | None:
    """value / whole; None if one is missing, or nothing is the whole."""
    return None if value is None or not whole else value / whole


def ranked(rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows that the paper has a figure for, from the best to the worst."""
    return sorted((row for row in rows if PAPER in row.paper), key=lambda row: -row.paper[PAPER])


def order(rows: Sequence[ScoredRow], heading: str) -> list[Step]:
    """The paper's order as pairs of neighboring rows, each with its scores under `heading` here."""
    return [
        Step(
            better.label,
            worse.label,
            (better.scores.get(heading), worse.scores.get(heading)),
            (better.deviation(heading), worse.deviation(heading)),
        )
        for better, worse in pairwise(ranked(rows))
    ]
