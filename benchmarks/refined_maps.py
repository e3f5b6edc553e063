"""Quantized refined maps beside float16, of a finished run: bytes, times, and shares of pixels with the same label.

Run it by `python -m benchmarks.refined_maps results/photos20`, a folder of a run with float16 maps and saliency maps.
It is no part of `make bench`, since it needs that run. Files are read from the disk, not from the system's cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import THREADS, config
from getam.datasets.index import read_index, read_photograph
from getam.datasets.shards import files_in_shards
from getam.experiments.label_times import cpu_name
from getam.labels.methods import make_labels
from getam.labels.refined_maps import SUFFIXES, read_refined, write_refined
from getam.settings.completion import LabelSettings
from getam.system.image_files import read_gray


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refined_maps", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run with index.csv, refined/ and saliency/")
    parser.add_argument("--step", type=int, default=1, help="every which image is measured [1]")
    parser.add_argument("--crf", type=int, default=10, help="every which of those is labelled by a dense CRF [10]")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    index = read_index(arguments.run / "index.csv")
    maps, saliency = (
        files_in_shards(arguments.run / name, suffix) for name, suffix in (("refined", ".npy"), ("saliency", ".png"))
    )
    ids = [id for id in maps if index.by_id[id].labels][:: arguments.step]
    sizes, pixels, changed = Counter[str](), Counter[str](), Counter[str]()
    seconds: dict[str, list[float]] = {}
    for number, id in enumerate(ids):
        row = index.by_id[id]
        classes, inside, image = index.class_indices(row), read_gray(saliency[id]), read_photograph(row)
        stored = _stored(read_refined(maps[id]), sizes, seconds)
        for name, settings in _methods(with_crf=number % arguments.crf == 0):
            labels = [make_labels(each, classes, image=image, saliency=inside, settings=settings) for each in stored]
            pixels[name] += inside.size
            changed[name] += int((labels[0] != labels[1]).sum())
    print(f"{cpu_name()}, {THREADS} thread, {len(ids)} images")
    first, second = (sizes[storage] for storage in SUFFIXES)
    print(f"bytes an image: {first / len(ids):.0f}, {second / len(ids):.0f}, ratio {first / second:.2f}")
    for name, values in seconds.items():
        print(f"{name}: {1000 * statistics.median(values):.2f} ms an image")
    for name, count in pixels.items():
        print(f"{name}: equal {100 * (1 - changed[name] / count):.4f} % of {count} pixels")
    return 0


def _stored(maps: np.ndarray, sizes: Counter[str], seconds: dict[str, list[float]]) -> list[np.ndarray]:
    """Writes the maps in both forms and reads them again, as the float32 with which the label methods compute."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for storage, suffix in SUFFIXES.items():
            path = Path(folder) / f"maps{suffix}"
            _timed(seconds, f"{storage}, write", partial(write_refined, path, maps, storage))
            sizes[storage] += path.stat().st_size
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
            found.append(_timed(seconds, f"{storage}, read from the disk", partial(_read, path)))
            _timed(seconds, f"{storage}, read from memory", partial(_read, path))
    return found


def _read(path: Path) -> np.ndarray:
    return read_refined(path).astype(np.float32, copy=False)


def _timed(seconds: dict[str, list[float]], name: str, call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = call()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return result


def _methods(*, with_crf: bool) -> Iterator[tuple[str, LabelSettings]]:
    """Label methods and their settings, by what is printed."""
    defaults = config().completion
    for alpha, gamma in ((0.8, 2), (0.85, 16), (0.9, 32), (0.95, 128), (1, 64), (0.875, 18), (0.9, 35)):
        yield f"completion, alpha {alpha}, gamma {gamma}", defaults.model_copy(update={"alpha": alpha, "gamma": gamma})
    for high, low in ((0.5, 0.25), (0.55, 0.4), (0.555, 0.405)):
        bands = defaults.bands.model_copy(update={"high": high, "low": low})
        yield f"bands, {high}, {low}", defaults.model_copy(update={"method": "bands", "bands": bands})
    for gamma in (2, 4, 32) if with_crf else ():
        yield f"crf, gamma {gamma}", defaults.model_copy(update={"method": "crf", "gamma": gamma})
    if with_crf:
        yield "rrm", defaults.model_copy(update={"method": "rrm"})


if __name__ == "__main__":
    sys.exit(main())
