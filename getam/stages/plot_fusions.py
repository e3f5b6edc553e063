"""Plots the distribution of map values under each way of fusing blocks (the paper's Figure 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from getam.datasets.index import read_index
from getam.datasets.shards import rows_of, shard_folders
from getam.experiments.map_values import BINS, SHARES, ValueCounts
from getam.pages.plots.style import make_logarithmic, save_plot
from getam.pages.text.documents import Document, Grid, write_document
from getam.runs.summary import three_decimals
from getam.system.arguments.machine import MachineArguments
from getam.system.files import read_array, write_json
from getam.system.progress import progress

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write <figure>.svg, and .json, .md and .html beside it: shares of high values in the raw maps of each fusion."""

    index: Path = Field(description="index.csv")
    maps: dict[str, Path] = Field(description="JSON: {fusion: folder of the shards of dump-maps}", min_length=1)
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    out: Path = Field(description="<figure>.svg; <figure>.json, .md and .html are written beside it")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    counts = {}
    for fusion, folder in arguments.maps.items():
        files = [
            shard / f"{row.id}.npy"
            for shard in shard_folders(folder, arguments.shards)
            for row in rows_of(shard, index)
            if row.labels
        ]
        counts[fusion] = ValueCounts()
        for file in progress(files, total=len(files), unit="image", what=f"plot_fusions, {fusion}"):
            counts[fusion].add(read_array(file))
    save_plot(arguments.out, lambda figure: _draw(figure, counts))
    content = {fusion: each.summary() for fusion, each in counts.items()}
    markdown = write_document(_document(content), arguments.out)
    write_json(arguments.out.with_suffix(".json"), content)
    logger.info("%s\n%s", arguments.out, markdown)


def _draw(figure: Figure, counts: Mapping[str, ValueCounts]) -> None:
    axes = figure.subplots()
    for fusion, each in counts.items():
        axes.plot(np.arange(BINS) / BINS, each.share_from(), label=fusion)
    make_logarithmic(axes)
    axes.set_xlim(0, 1)
    axes.set_xlabel("value of the map, divided by its maximum")
    axes.set_ylabel("share of values at least as high")
    axes.set_title("Values of maps by how blocks are fused")
    axes.legend()


def _document(content: Mapping[str, Any]) -> Document:
    headings = ("Fusion", "Maps", "Mean", "Median", *(f"≥ {value:g}" for value in SHARES))
    cells = [
        (
            fusion,
            f"{each['maps']} ({each['empty_maps']} of zeros)" if each["empty_maps"] else str(each["maps"]),
            three_decimals(each["mean"]),
            three_decimals(each["median"]),
            *(_percent(each["share_from"][str(value)]) for value in SHARES),
        )
        for fusion, each in content.items()
    ]
    return Document(
        "Values of maps by how blocks are fused",
        [
            "Raw maps of train, each divided by its maximum: mean, median, and the share of values at least that high. "
            "Maps that are zero everywhere are left out.",
            Grid(headings, cells, {2, 3, 4, 5, 6}),
        ],
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
