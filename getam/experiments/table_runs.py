"""The runs that the tables compare: registers them as variants of a run, and finds the files with their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from getam.errors import InputError
from getam.experiments.tables import Row, Score, Table, definitions, value_label
from getam.experiments.variants import Variants, value_of
from getam.settings.config import Config
from getam.settings.flags import leaves
from getam.settings.reading import merge
from getam.settings.tables import SweepSettings


def register(variants: Variants) -> dict[str, list[str]]:
    """Registers the runs of all comparisons as variants.

    Returns:
        {comparison: names of its rows' runs, of all seeds}, without comparisons that the run's settings rule out.
    """
    found = {}
    for table in definitions(variants[variants.run]):
        try:
            found[table] = [name for _, names in _runs_with_seeds(variants, table) for name in names]
        except InputError:
            # The error is shown only if the comparison is asked for: not every run can have all of them (a run without
            # saliency has no completion to compare).
            continue
    return found


def runs_of(variants: Variants, table: str) -> list[tuple[Row, str]]:
    """The rows of a comparison, each with the name of its run; over seeds, of its run with the row's own seed.

    Raises:
        InputError: the run's settings rule the comparison out, or the section `sweep` names nothing to compare.
    """
    return [(row, names[0]) for row, names in _runs_with_seeds(variants, table)]


def _runs_with_seeds(variants: Variants, table: str) -> list[tuple[Row, list[str]]]:
    """The rows of a comparison, each with the names of its runs: with its own seed first, then with the next ones."""
    count = definitions(variants[variants.run])[table].seeds
    return [
        (
            row,
            [
                name,
                *(
                    variants.add(
                        merge(row.overlay, _seed_overlay(variants[name], offset)),
                        source=f"{table}, {row.label}, seed + {offset}",
                    )
                    for offset in range(1, count)
                ),
            ],
        )
        for row, name in _rows(variants, table)
    ]


def _seed_overlay(settings: Config, offset: int) -> dict[str, Any]:
    """The overlay that raises the seed of each training by an offset; of those alone, so that the rest is shared."""
    return {section: {"seed": training.seed + offset} for section, training in settings.trainings().items()}


def _rows(variants: Variants, table: str) -> list[tuple[Row, str]]:
    settings = variants[variants.run]
    definition = definitions(settings)[table]
    if table == "sweep":
        _check(settings.sweep, definition)
    if settings.checkpoint.file and any("end_to_end" in row.overlay for row in definition.rows):
        raise InputError(
            f"{table}: its runs differ in the training end to end, in whose place checkpoint.file is; write file: ''"
        )
    of_maps = {"classifier", "maps"}
    if settings.maps.source == "folder" and any(of_maps & row.overlay.keys() for row in definition.rows):
        raise InputError(
            f"{table}: its runs differ in the classifier's maps, but maps.source is folder; write classifier there"
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
            "own": names[0] == variants.run,
            "value": row.value,
            "paper": dict(row.paper),
            "given": dict(row.given),
            "scores": {
                score.heading: _place(score, _files(variants, names, score)) for score in _scores(definition, row)
            },
        }
        for row, names in _runs_with_seeds(variants, table)
    ]
    texts = {
        "--title": definition.title,
        "--caption": definition.caption,
        "--axis": definition.axis,
        "--ordered": json.dumps(definition.ordered),
        "--full": definition.full,
        "--lines": definition.lines,
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
            file
            for row, names in _runs_with_seeds(variants, table)
            for score in _scores(definition, row)
            for file in _files(variants, names, score)
        )
    )


def _files(variants: Variants, names: Sequence[str], score: Score) -> list[str]:
    """The files of a score in the runs of a row, one for each seed; a single one if no seed touches the score."""
    return list(dict.fromkeys(variants.file(variants.round(name, score.round), score.file) for name in names))


def _place(score: Score, files: Sequence[str]) -> dict[str, Any]:
    """The place of a score, see GivenScore."""
    first, *others = files
    return {"file": first, "path": list(score.path)} | ({"others": others} if others else {})


def _scores(table: Table, row: Row) -> tuple[Score, ...]:
    return table.scores if row.scores is None else row.scores
