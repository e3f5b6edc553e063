"""Prints the table of all benchmarks as Markdown: `python -m benchmarks [--only PART] [--rounds N]`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks import completion, crops, double_backward, dump_maps, frozen, gpu, maps, propagation, refine
from benchmarks.measure import THREADS, Row, megabytes
from getam.experiments.label_times import cpu_name

PARTS: dict[str, Callable[[int], list[Row]]] = {
    "maps": maps.rows,
    "propagation": propagation.rows,
    "pamr": refine.rows,
    "completion": completion.rows,
    "crops": crops.rows,
    "dump-maps": dump_maps.rows,
    "double-backward": double_backward.rows,
    "frozen": frozen.rows,
    "gpu": gpu.rows,
}

HEADINGS = (
    "what",
    "ours",
    "compared with",
    "its",
    "ratio (limit)",
    "our memory",
    "its memory",
    "ratio (limit)",
    "deviation (limit)",
    "ok",
)

NUMBERS = frozenset({1, 3, 5, 6})
"""Right-aligned columns, counted from 0."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken [5]")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: give 1 or more")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    torch.set_num_threads(THREADS)
    parts = [arguments.only] if arguments.only else list(PARTS)
    started = time.monotonic()
    table: list[Row] = []
    for part in parts:
        if part != "gpu" or torch.cuda.is_available():
            table += PARTS[part](arguments.rounds)
    print(heading(arguments.rounds))
    if table:
        print("\n" + markdown(table))
    if "gpu" in parts and not torch.cuda.is_available():
        print("\nGPU rows: not measured, torch sees no CUDA device.")
    logging.info("took %.0f s", time.monotonic() - started)
    return 0 if all(row.met for row in table) else 1


def heading(rounds: int) -> str:
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{cpu_name()}{device}, torch {torch.__version__}, {THREADS} thread: medians of up to {rounds} alternating "
        "rounds,\nmemory: peak beyond inputs and model; deviation: largest, relative to the map's largest value."
    )


def markdown(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    rule = ["-" * (width - 1) + ":" if column in NUMBERS else "-" * width for column, width in enumerate(widths)]
    text = [
        [cell.rjust(width) if column in NUMBERS else cell.ljust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (text[0], rule, *text[1:]))


def cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        row.ours,
        row.other,
        row.its,
        str(row.time),
        megabytes(row.memory[0]),
        megabytes(row.memory[1]),
        str(row.memory_ratio or "-"),
        str(row.deviation or "-"),
        ("yes" if row.met else "NO") if row.promised else "-",
    )


if __name__ == "__main__":
    sys.exit(main())
