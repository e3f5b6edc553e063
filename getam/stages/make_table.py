"""Makes one of the paper's tables, or the table of a sweep, from the scores of the runs that it compares."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.experiments.table_report import draw_table, table_document, table_json
from getam.experiments.table_scores import GivenRow, read_rows
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
    rows: tuple[GivenRow, ...] = Field(
        description="JSON: label, own, value, paper, given, scores: {heading: {file, path}} of each run", min_length=1
    )
    out: Path = Field(description="<table>.json; <table>.md, .html and .svg are written beside it")


def run(arguments: Arguments) -> None:
    rows = read_rows(arguments.rows)
    document = table_document(arguments.title, arguments.caption, rows, ordered=arguments.ordered)
    save_plot(
        arguments.out.with_suffix(".svg"),
        lambda figure: draw_table(figure, arguments.title, rows, axis=arguments.axis),
        width=9.0,
        height=max(3.0, 1.2 + 0.55 * len(rows)),
    )
    markdown = write_document(document, arguments.out)
    content = table_json(arguments.title, arguments.caption, rows, axis=arguments.axis, ordered=arguments.ordered)
    write_json(arguments.out, content)
    logger.info("%s\n%s", arguments.out.with_suffix(".md"), markdown)
