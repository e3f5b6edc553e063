"""The overview page of a run: scores with their protocols, plots, times, and the settings that its files record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

from getam.pages.plots.run import captions, write_plots
from getam.pages.rendering import render
from getam.runs.artifacts import PREDICTIONS, RECORDS, SCORE_FILES, capitalized
from getam.runs.folder import Run
from getam.runs.recorded import recorded_settings, setting_text, titles_of
from getam.runs.summary import HEADINGS, notes_in, score_rows, summarize
from getam.runs.timings import duration, stage_times
from getam.system.files import read_json, write_text

CONFUSIONS = 8
"""Number of pairs of classes at most that the page lists as confused."""

BROAD = 8.0
"""Plots wider than this, in inches, take the whole width of the page."""


class _Confusion(NamedTuple):
    truth: str
    prediction: str
    share: str


def write_overview(run: Run, out: Path) -> None:
    """Writes overview.html and plots/ for the run in folder `run` into the existing folder `out`.

    The page opens from disk, also where the folder is copied elsewhere. Results that the run doesn't have are left out;
    the contact sheet is linked if `out` already contains it.

    Raises:
        InputError: a file has not the content that its stage writes; the message names it.
    """
    (out / "plots").mkdir()
    widths = write_plots(run, out / "plots")
    summary, titles = summarize(run), titles_of(run)
    confusions = {
        capitalized(titles.fill(SCORE_FILES[section].title)): _largest_confusions(
            read_json(run / SCORE_FILES[section].path)
        )
        for section in PREDICTIONS
        if section in summary
    }
    times = stage_times(run)
    page = render(
        "overview.html",
        run=run.name,
        headings=HEADINGS,
        scores=[astuple(row) for row in score_rows(summary)],
        notes=notes_in(summary),
        plots=[(name, caption, widths[name] > BROAD) for name, caption in captions(titles).items() if name in widths],
        confusions={title: pairs for title, pairs in confusions.items() if pairs},
        contact_sheet=(out / "contact_sheet.html").is_file(),
        times=[
            (
                time.stage,
                str(time.jobs),
                duration(time.seconds),
                duration(time.longest) if time.jobs > 1 else "",
                "-" if time.max_rss is None else f"{time.max_rss / 1000:.2f} GB",
            )
            for time in times
        ],
        total=duration(sum(time.seconds for time in times)),
        recorded=[
            (
                capitalized(titles.fill(RECORDS[stage.section].heading)),
                stage.source,
                _texts(stage.settings),
                _texts(stage.facts),
            )
            for stage in recorded_settings(run)
        ],
    )
    write_text(out / "overview.html", page)


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, setting_text(value)) for key, value in values.items()]


def _largest_confusions(metrics: Mapping[str, Any]) -> list[_Confusion]:
    """The pairs of classes with the largest fraction of the first one's pixels predicted as the second."""
    names: Sequence[str] = list(metrics["iou"])
    pairs = [
        (count / sum(counts), truth, names[column])
        for truth, counts in zip(names, metrics["confusion"], strict=True)
        for column, count in enumerate(counts)
        if names[column] != truth and count
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return [_Confusion(truth, prediction, f"{100 * share:.1f} %") for share, truth, prediction in pairs[:CONFUSIONS]]
