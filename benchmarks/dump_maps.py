"""The stage dump_maps: its time must grow linearly with the number of images, and its memory not at all."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import THREADS, Check, Row, Run, alternating, config, in_fresh_process, seconds
from getam.datasets.index import Index, IndexRow, write_index
from getam.networks.checkpoints import save_model
from getam.networks.classifier import build_classifier, describe_classifier
from getam.settings.maps import MapSettings
from getam.settings.section import section_of
from getam.stages.dump_maps import Arguments, run

IMAGES = 320
"""Number of images of the smaller run."""

TIMES = 4
WARM_UP = 32
SIDE = 96
CLASSES = ("a", "b", "c", "d", "e")

TIME = (3.6, 4.4)
MOST_MEMORY = 1.1


def rows(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        peaks: dict[int, list[int]] = {count: [] for count in (IMAGES, TIMES * IMAGES)}

        def measured(count: int) -> float:
            cost = in_fresh_process(partial(prepare, folder, WARM_UP), partial(prepare, folder, count))
            if cost.peak is not None:
                peaks[count].append(cost.peak)
            return cost.seconds

        runs: dict[str, Callable[[], float]] = {f"{count} images": partial(measured, count) for count in peaks}
        # The limit is tight on both sides, so no run may stop early; long runs need few rounds.
        spent = alternating(runs, min(rounds, 3), patience=math.inf)
        few, many = (statistics.median(values) for values in spent.values())
    memory = [int(statistics.median(values)) if values else None for values in peaks.values()]
    return [
        Row(
            what=f"dump_maps, {TIMES * IMAGES} images, all of its memory",
            ours=seconds(many),
            other=f"itself, {IMAGES} images",
            its=seconds(few),
            time=Check(many / few, *TIME, form="{:.2f}x the time"),
            memory=(memory[1], memory[0]),
            most_memory=MOST_MEMORY,
        )
    ]


def make_data(folder: Path) -> None:
    """Writes random images, an index for each number of them, and config.yaml's classifier with random weights."""
    rng = np.random.default_rng(0)
    index_rows = []
    for number in range(TIMES * IMAGES):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path, compress_level=1)
        labels = CLASSES[: 1 + number % 2]
        index_rows.append(IndexRow(f"i{number:05d}", "train", path, None, SIDE, SIDE, labels))
    for count in (WARM_UP, IMAGES, TIMES * IMAGES):
        write_index(folder / str(count) / "index.csv", Index(tuple(index_rows[:count]), CLASSES))
    settings = config().classifier
    torch.manual_seed(0)
    model = build_classifier(settings, num_classes=len(CLASSES), image_size=settings.crop.size)
    save_model(folder / "classifier", model, describe_classifier(settings, CLASSES))


def prepare(folder: Path, count: int) -> Run:
    return partial(dump, folder, count, Path(tempfile.mkdtemp(dir=folder)) / "000")


def dump(folder: Path, count: int, out: Path) -> None:
    run(
        Arguments(
            **section_of(MapSettings, config().maps).model_dump(),
            index=folder / str(count) / "index.csv",
            classifier=folder / "classifier",
            split="train",
            shard=0,
            shards=1,
            out=out,
            threads=THREADS,
            device="cpu",
        )
    )
