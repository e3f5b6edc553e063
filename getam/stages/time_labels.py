"""Measures how long each label method takes for an image (the paper's Figure 11)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field

from getam.datasets.index import read_index, read_photograph
from getam.datasets.shards import rows_of
from getam.errors import InputError
from getam.experiments.label_times import ROUNDS, Item, cpu_name, time_labels
from getam.labels.crf import with_known_backend
from getam.labels.refined_maps import read_refined, refined_file
from getam.pages.plots.style import make_logarithmic, save_plot
from getam.pages.text.documents import Document, Grid, write_document
from getam.settings.completion import LABEL_METHODS, LabelSettings
from getam.settings.section import PositiveInt, section_of
from getam.system.arguments.network import NetworkArguments
from getam.system.files import write_json
from getam.system.image_files import read_gray

SECTION = "completion"

OURS, *OTHERS = (method.name for method in LABEL_METHODS.values())
"""The paper's label method, and those whose times are compared with its time."""

logger = logging.getLogger(__name__)


class Arguments(LabelSettings, NetworkArguments):
    """Write <figure>.svg, and .json, .md and .html beside it: seconds an image of each label maker, by batch size."""

    index: Path = Field(description="index.csv")
    maps: Path = Field(description="folder of a shard of refine-maps")
    saliency: Path = Field(description="folder of the shard's saliency maps <id>.png, 8-bit gray")
    images: Annotated[int, Field(ge=1)] = Field(description="first images of the shard that are labelled")
    batch_sizes: tuple[PositiveInt, ...] = Field(description="images of a batch", min_length=1)
    out: Path = Field(description="<figure>.svg; <figure>.json, .md and .html are written beside it")


def run(arguments: Arguments) -> None:
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = [row for row in rows_of(arguments.maps, index) if row.labels][: arguments.images]
    if not rows:
        raise InputError(f"{arguments.maps}: holds no image with a class; nothing can be labelled")
    items = [
        Item(
            read_photograph(row),
            read_refined(refined_file(arguments.maps, row.id)).astype(np.float32, copy=False),
            index.class_indices(row),
            read_gray(arguments.saliency / f"{row.id}.png"),
        )
        for row in rows
    ]
    settings = section_of(LabelSettings, arguments)
    settings = settings.model_copy(update={"crf": with_known_backend(settings.crf)})
    seconds = time_labels(items, settings, batch_sizes=arguments.batch_sizes, device=device)
    content = {
        "images": len(items),
        "pixels": float(np.mean([item.saliency.size for item in items])),
        "classes": float(np.mean([len(item.classes) for item in items])),
        "crf_iterations": settings.crf.iterations,
        "crf_backend": settings.crf.backend,
        "rounds": ROUNDS,
        "threads": arguments.threads,
        "cpu": cpu_name(),
        "completion_on": torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU",
        "seconds_an_image": {
            name: {str(size): value for size, value in by_size.items()} for name, by_size in seconds.items()
        },
        "ratio_to_completion": {
            name: {str(size): seconds[name][size] / seconds[OURS][size] for size in arguments.batch_sizes}
            for name in OTHERS
        },
    }
    save_plot(arguments.out, lambda figure: _draw(figure, seconds))
    markdown = write_document(_document(content, arguments.batch_sizes), arguments.out)
    write_json(arguments.out.with_suffix(".json"), content)
    logger.info("%s\n%s", arguments.out, markdown)


def _draw(figure: Figure, seconds: Mapping[str, Mapping[int, float]]) -> None:
    axes = figure.subplots()
    for name, by_size in seconds.items():
        sizes = sorted(by_size)
        axes.plot(sizes, [1000 * by_size[size] for size in sizes], marker="o", markersize=4, label=name)
    make_logarithmic(axes, "x", base=2)
    make_logarithmic(axes)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("images of a batch, labelled one after the other")
    axes.set_ylabel("milliseconds an image")
    axes.set_title("Time of label makers")
    axes.legend()


def _document(content: Mapping[str, Any], batch_sizes: tuple[int, ...]) -> Document:
    headings = ("Images of a batch", *(f"{name}, ms an image" for name in (OURS, *OTHERS)))
    headings += tuple(f"{name} ÷ {OURS}" for name in OTHERS)
    cells = [
        (
            str(size),
            *(f"{1000 * content['seconds_an_image'][name][str(size)]:.2f}" for name in (OURS, *OTHERS)),
            *(f"{content['ratio_to_completion'][name][str(size)]:.1f}x" for name in OTHERS),
        )
        for size in batch_sizes
    ]
    threads = "1 thread" if content["threads"] == 1 else f"{content['threads']} threads"
    pixels, classes = f"{content['pixels']:.0f}", f"{content['classes']:.1f}"
    return Document(
        "Time of label makers",
        [
            f"{content['images']} images of this run, of {pixels} pixels and {classes} classes on average; "
            f"{content['crf_iterations']} iterations of the dense CRF by {content['crf_backend']}, of which RRM runs "
            f"two; medians of {content['rounds']} rounds in turn. Each label maker takes the images of a batch one "
            "after the other.",
            f"Completion ran on {content['completion_on']} ({threads} of torch), the others on one core of "
            f"{content['cpu']}. Times are that machine's; ratios are of one run.",
            Grid(headings, cells, set(range(len(headings)))),
        ],
    )
