"""The runs that the tables compare: registers them as variants of a run, and finds the files with their scores."""

from __future__ import annotations

import json
from typing import Any

from getam.errors import InputError
from getam.experiments.tables import Row, Score, Table, definitions, value_label
from getam.experiments.variants import Variants, value_of
from getam.settings.config import Config
from getam.settings.flags import leaves
from getam.settings.tables import SweepSettings


def register(variants: Variants) -> dict[str, list[str]]:
    """Registers the runs of all comparisons as variants.

    Returns:
        {comparison: names of its rows' runs}, without comparisons that the run's settings rule out.
    """
    names = {}
    for table in definitions(variants[variants.run]):
        try:
            names[table] = [name for _, name in runs_of(variants, table)]
        except InputError:
            # The error is shown only if the comparison is asked for: not every run can have all of them (a run without
            # saliency has no completion to compare).
            continue
    return names


def runs_of(variants: Variants, table: str) -> list[tuple[Row, str]]:
    """The rows of a comparison, each with the name of its run.

    Raises:
        InputError: the run's settings rule the comparison out, or the section `sweep` names nothing to compare.
    """
    settings = variants[variants.run]
    definition = definitions(settings)[table]
    if table == "sweep":
        _check(settings.sweep, definition)
    if settings.checkpoint.file and any("end_to_end" in row.overlay for row in definition.rows):
        raise InputError(
            f"{table}: its runs differ in the training end to end, in whose place checkpoint.file is; write file: ''"
        )
    found: dict[tuple[str, str], Row] = {}
    for row in definition.rows:
        name = variants.add(row.overlay, source=f"{table}, {row.label}")
        if table == "sweep":
            # The label uses the validated value: values from a command line are all text.
            row = _swept(row, value_of(variants[name], tuple(settings.sweep.key.split("."))), settings.sweep.key)
        name = name if row.split == variants.split(name) else variants.add_split(row.split)
        # A value that is listed twice gives one row.
        found.setdefault((row.label, name), row)
    if table == "sweep" and len(found) == 1 < len(settings.sweep.values):
        raise InputError(f"sweep: all values of {settings.sweep.key} are the same run; name others, or another setting")
    return [(row, name) for (_, name), row in found.items()]


def _swept(row: Row, value: Any, key: str) -> Row:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return row._replace(label=f"{key} = {value_label(value)}", value=number)


def _check(sweep: SweepSettings, table: Table) -> None:
    example = "--config sweep='{key: completion.gamma, values: [32, 64, 128]}'"
    if not (sweep.key and sweep.values):
        raise InputError(f"sweep: names no setting, or no values of it; write {example}")
    if tuple(sweep.key.split(".")) not in {path for path, _ in leaves(Config)}:
        raise InputError(f"sweep.key: {sweep.key}: no setting of config.yaml; write {example}")
    section = sweep.key.split(".")[0]
    if not table.scores and section in ("demo", "data", "saliency", "run"):
        raise InputError(
            f"sweep.key: {sweep.key}: runs that share their stages cannot differ in it; make a run of each"
        )
    if not table.scores:
        raise InputError(f"sweep.key: {sweep.key}: no score depends on it; name another setting")


def content_flags(variants: Variants, table: str) -> list[str]:
    """The content of a comparison's table as flags of make-table; each score with the file that contains it.

    Raises:
        InputError: see runs_of.
    """
    definition = definitions(variants[variants.run])[table]
    rows = [
        {
            "label": row.label,
            "own": name == variants.run,
            "value": row.value,
            "paper": dict(row.paper),
            "given": dict(row.given),
            "scores": {
                score.heading: {"file": variants.file(name, score.file), "path": list(score.path)}
                for score in _scores(definition, row)
            },
        }
        for row, name in runs_of(variants, table)
    ]
    texts = {
        "--title": definition.title,
        "--caption": definition.caption,
        "--axis": definition.axis,
        "--ordered": json.dumps(definition.ordered),
        "--rows": json.dumps(rows),
    }
    # Flag and value form one word, since Snakemake's quoting drops empty words.
    return [f"{flag}={text}" for flag, text in texts.items()]


def score_files(variants: Variants, table: str) -> list[str]:
    """The files with the scores of a comparison, each once.

    Raises:
        InputError: see runs_of.
    """
    definition = definitions(variants[variants.run])[table]
    return list(
        dict.fromkeys(
            variants.file(name, score.file)
            for row, name in runs_of(variants, table)
            for score in _scores(definition, row)
        )
    )


def _scores(table: Table, row: Row) -> tuple[Score, ...]:
    return table.scores if row.scores is None else row.scores
