"""Makes one of the paper's tables, or that of a sweep or of seeds, from the scores of the runs that it compares."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from getam.errors import InputError
from getam.experiments.seed_report import seeds_document, seeds_json, spreads_of
from getam.experiments.table_report import draw_table, table_document, table_json
from getam.experiments.table_scores import GivenRow, read_rows
from getam.pages.plots.spread import draw_spreads, spread_size
from getam.pages.plots.style import save_plot
from getam.pages.text.documents import write_document
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write <table>.json, and .md, .html and .svg beside it: scores of runs, and the paper's figures."""

    title: str = Field(description="title of the table")
    caption: str = Field(description="what the paper's figures are, in words; empty for none")
    axis: str = Field(description="setting that the rows' values are of; empty: none")
    ordered: bool = Field(description="whether the paper's figures order the rows")
    full: str = Field(
        default="", description="label of the row of whose scores the other rows' shares are shown; empty: none"
    )
    lines: Literal["runs", "scores"] = Field(
        default="runs",
        description="what a line of the table is: a run, or a score of the only run, whose values by seed it shows",
    )
    rows: tuple[GivenRow, ...] = Field(
        description="JSON: label, own, value, paper, given, scores: {heading: {file, path, others: files of further "
        "seeds}} of each run",
        min_length=1,
    )
    out: Path = Field(description="<table>.json; <table>.md, .html and .svg are written beside it")


def run(arguments: Arguments) -> None:
    rows, title, caption = read_rows(arguments.rows), arguments.title, arguments.caption
    if arguments.lines == "scores":
        if len(rows) > 1:
            raise InputError(f"--lines: scores shows one run, but --rows has {len(rows)}; write runs")
        document, content = seeds_document(title, caption, rows[0]), seeds_json(title, caption, rows[0])
        draw = partial(draw_spreads, title=title, spreads=spreads_of(rows[0]))
        width, height = spread_size(len(rows[0].scores))
    else:
        document = table_document(title, caption, rows, ordered=arguments.ordered, full=arguments.full)
        content = table_json(title, caption, rows, axis=arguments.axis, ordered=arguments.ordered, full=arguments.full)
        draw = partial(draw_table, title=title, rows=rows, axis=arguments.axis)
        width, height = 9.0, max(3.0, 1.2 + 0.55 * len(rows))
    save_plot(arguments.out.with_suffix(".svg"), draw, width=width, height=height)
    markdown = write_document(document, arguments.out)
    write_json(arguments.out, content)
    logger.info("%s\n%s", arguments.out.with_suffix(".md"), markdown)
