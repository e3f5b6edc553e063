"""The numbers of a table of runs: scores from the rows' files, their differences, whether the paper's order holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from getam.errors import InputError
from getam.runs.artifacts import segmenter_title
from getam.runs.summary import describe_inference, describe_supervision
from getam.system.files import read_json

PAPER = "Paper"
"""Heading of the figures whose order is compared."""


class GivenScore(BaseModel):
    """Where a score is: a file, and the keys that lead to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    path: tuple[str, ...]


class GivenRow(BaseModel):
    """One run of a table: its label and where its scores are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    own: bool
    """Whether it is the run itself, which the others are compared with."""
    value: float | None
    paper: dict[str, float]
    given: dict[str, float | None]
    scores: dict[str, GivenScore]


@dataclass(frozen=True)
class ScoredRow:
    """A row with its numbers, by their headings."""

    label: str
    own: bool
    """Whether it is the run itself."""
    value: float | None
    paper: Mapping[str, float]
    scores: Mapping[str, float | None]
    files: Mapping[str, Path]
    protocols: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Two rows that follow each other in the paper's order, and what this run says of them; None: nothing."""

    better: str
    worse: str
    values: tuple[float | None, float | None]

    @property
    def holds(self) -> bool | None:
        first, second = self.values
        return None if first is None or second is None else first > second


def read_rows(rows: Sequence[GivenRow]) -> list[ScoredRow]:
    """Reads the scores of all rows.

    Raises:
        InputError: a file is missing, or lacks its score.
    """
    content = {each.file: read_json(each.file) for row in rows for each in row.scores.values()}
    return [
        ScoredRow(
            row.label,
            row.own,
            row.value,
            row.paper,
            {heading: _number(content[each.file], each) for heading, each in row.scores.items()} | row.given,
            {heading: each.file for heading, each in row.scores.items()},
            {heading: _protocol(content[each.file], each) for heading, each in row.scores.items()}
            | {heading: GIVEN for heading, value in row.given.items() if value is not None},
        )
        for row in rows
    ]


GIVEN = "as it was measured elsewhere, named in the configuration"
"""The protocol of a score that no stage has measured."""


def _number(content: Any, score: GivenScore) -> float | None:
    for key in score.path:
        if content is None:
            # Without ground truth there is no best threshold.
            return None
        if not isinstance(content, dict) or key not in content:
            raise InputError(f"{score.file}: lacks {'.'.join(score.path)}; {AGAIN}")
        content = content[key]
    if content is not None and not isinstance(content, int | float):
        raise InputError(f"{score.file}: {'.'.join(score.path)} is no number; {AGAIN}")
    return content


def _protocol(content: Mapping[str, Any], score: GivenScore) -> str:
    """How a file's score was measured: "200 images of val, scale 1, flip, no CRF, supervision I+S (annotations)"."""
    of_maps = score.path[0] == "best_threshold"
    try:
        measured = content.get("protocol", content)
        architecture = measured.get("architecture")
        parts = [] if architecture in (None, THE_PAPERS) else [segmenter_title(architecture)]
        parts.append(f"{content['images']} images of {content.get('split', VAL)}")
        parts += [describe_inference(measured)] if "scales" in measured else []
        parts += ["threshold chosen on them"] if of_maps else []
        used = measured.get("maps_supervision" if of_maps else "supervision")
        parts += [f"supervision {describe_supervision(used, measured)}"] if used else []
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{score.file}: says not how it was measured ({error}); {AGAIN}") from None
    return ", ".join(parts)


THE_PAPERS = "deeplabv2"
"""The architecture that goes without saying."""

AGAIN = "delete it and run the stage that writes it again"

VAL = "val"
"""What the saliency network is scored on, which its file need not say."""


def reference(rows: Sequence[ScoredRow]) -> ScoredRow:
    """The row that the others are compared with: the run itself, or the first."""
    return next((row for row in rows if row.own), rows[0])


def headings(rows: Sequence[ScoredRow]) -> list[str]:
    """The headings of the scores, in the order of the rows."""
    return list(dict.fromkeys(heading for row in rows for heading in row.scores))


def paper_headings(rows: Sequence[ScoredRow]) -> list[str]:
    return list(dict.fromkeys(heading for row in rows for heading in row.paper))


def difference(value: float | None, other: float | None) -> float | None:
    """How far a score is from another; None where one is missing."""
    return None if value is None or other is None else value - other


def ranked(rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows that the paper has a figure for, from its best to its worst."""
    return sorted((row for row in rows if PAPER in row.paper), key=lambda row: -row.paper[PAPER])


def order(rows: Sequence[ScoredRow], heading: str) -> list[Step]:
    """The paper's order of the rows by pairs of neighbors, beside what a score of this run says."""
    return [
        Step(better.label, worse.label, (better.scores.get(heading), worse.scores.get(heading)))
        for better, worse in pairwise(ranked(rows))
    ]
