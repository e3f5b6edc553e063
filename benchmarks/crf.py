"""The dense CRF by torch beside pydensecrf, on the predictions of a trained segmenter for photographs with masks.

Run it by `python -m benchmarks.crf results/msrc`, a folder of a run, where pydensecrf is installed. It is no part of
`make bench`, since it needs that run. Times are processor seconds, which other load on the machine hardly
changes; memory is the peak beyond the inputs, on the largest photograph.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import THREADS, Run, config, extra_memory, megabytes
from deeplab.model import load_deeplab
from deeplab.multi_scale import MultiScaleNetwork
from getam.datasets.images import fit_long_side, normalize_rgb
from getam.datasets.index import Index, IndexRow, read_index, read_photograph
from getam.experiments.label_times import cpu_name
from getam.labels.crf import dense_crf
from getam.scores.evaluation import ConfusionMatrix, mean_of_known
from getam.scores.prediction import averaged_probabilities
from getam.settings.crf import CrfSettings
from getam.settings.prediction import ViewSettings
from getam.system.image_files import read_labels

BACKENDS = ("pydensecrf", "torch")
VIEWS = ViewSettings(scales=(1.0,), squares=(), window=0, window_overlap=0.5, flip=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crf", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run with index.csv and deeplab/")
    parser.add_argument("--images", type=int, help="first images of val [all]")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    index = read_index(arguments.run / "index.csv")
    rows = [row for row in index.split("val") if row.mask is not None][: arguments.images]
    model, _ = load_deeplab(arguments.run / "deeplab")
    predictions = [_predicted(model, row) for row in rows]
    print(f"{cpu_name()}, torch {torch.__version__}, {THREADS} thread, {len(rows)} photographs")
    settings = config().deeplab_prediction.crf.model_copy(update={"iterations": 10})
    narrow = {"gaussian_xy": 1.0, "bilateral_xy": 67.0, "bilateral_rgb": 3.0}
    wide = {"bilateral_xy": 80.0, "bilateral_rgb": 13.0, "bilateral_weight": 10.0}
    for changes in ({}, narrow, wide):
        _compare(index, rows, predictions, settings.model_copy(update=changes))
    return 0


@torch.no_grad()
def _predicted(model: MultiScaleNetwork, row: IndexRow) -> np.ndarray:
    """The segmenter's probabilities (1 + C, H, W), float32, by one scale and its mirror image."""
    size = (row.height, row.width)
    inputs = fit_long_side(size, max(size), multiple=model.multiple)
    image = torch.from_numpy(read_photograph(row).copy()).permute(2, 0, 1)[None]
    image = F.interpolate(normalize_rgb(image), size=inputs, mode="bilinear", align_corners=False, antialias=True)
    averaged = averaged_probabilities(model, image, VIEWS, model.multiple)
    return F.interpolate(averaged, size=size, mode="bilinear", align_corners=False)[0].numpy()


def _compare(index: Index, rows: Sequence[IndexRow], predictions: Sequence[np.ndarray], settings: CrfSettings) -> None:
    by = {name: settings.model_copy(update={"backend": name}) for name in BACKENDS}
    scores = {name: ConfusionMatrix(len(index.classes) + 1) for name in ("without", *BACKENDS)}
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    equal, largest = [], 0.0
    for row, probabilities in zip(rows, predictions, strict=True):
        image, refined = read_photograph(row), {}
        for name in BACKENDS:
            started = time.process_time()
            refined[name] = dense_crf(image, probabilities, by[name])
            seconds[name].append(time.process_time() - started)
        ours, its = (refined[name] for name in ("torch", "pydensecrf"))
        equal.append((ours.argmax(0) == its.argmax(0)).ravel())
        largest = max(largest, float(np.abs(ours - its).max()))
        assert row.mask is not None
        for name, values in {"without": probabilities, **refined}.items():
            scores[name].add(read_labels(row.mask), values.argmax(0).astype(np.uint8))
    miou = {name: mean_of_known(matrix.iou()) for name, matrix in scores.items()}
    spent = {name: statistics.mean(values) for name, values in seconds.items()}
    longest = max(range(len(rows)), key=lambda number: predictions[number].size)
    run = (read_photograph(rows[longest]), predictions[longest])
    tiny = (run[0][:16, :16], run[1][:, :16, :16])
    memory = {name: extra_memory(name, partial(_run, *tiny, by[name]), partial(_run, *run, by[name])) for name in by}
    print(
        f"\nxy {settings.gaussian_xy:g}, weight {settings.gaussian_weight:g}; xy {settings.bilateral_xy:g}, "
        f"rgb {settings.bilateral_rgb:g}, weight {settings.bilateral_weight:g}; {settings.iterations} iterations"
    )
    print(f"equal pixels {np.concatenate(equal).mean():.6f}, largest difference of a probability {largest:.1e}")
    print(", ".join(f"mIoU {name} {value:.4f}" for name, value in miou.items()))
    print(", ".join(f"{name} {1000 * spent[name]:.0f} ms, {megabytes(memory[name])}" for name in BACKENDS))
    print(f"torch takes {spent['torch'] / spent['pydensecrf']:.2f}x the time")


def _run(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings) -> Run:
    return partial(dense_crf, image, probabilities, settings)


if __name__ == "__main__":
    sys.exit(main())
