"""Training crops of photographs and their labels, from the files to normalized inputs, beside the literal version."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from reference.literal_crops import LiteralCrop, literal_normalize

from benchmarks.measure import Check, Row, alternating, faster
from getam.datasets.images import RandomScaleCrop, TrainingImages
from getam.settings.training import CropSettings
from getam.system.image_files import REDUCED_PIXELS, read_image, read_labels, write_labels
from getam.system.seeds import mixed_seed

CROP = CropSettings(long_side=(448, 896), size=448, color_jitter=0.2)
MOST_DEVIATION = 2 / 255
"""Of a photograph that is decoded whole; `read_image` says how near the others are."""


class Photograph(NamedTuple):
    height: int
    width: int
    roughness: float
    """The greater, the faster its power falls with frequency."""
    quality: int
    count: int
    """How many crops of it a run makes."""
    least_faster: float
    with_labels: bool = False


# As large as usual ones of their sizes: 100 kB, 460 kB and 2.9 MB.
PHOTOGRAPHS = (
    Photograph(375, 500, 1.1, 90, 60, least_faster=1.6),
    Photograph(375, 500, 1.1, 90, 60, least_faster=1.4, with_labels=True),
    Photograph(1200, 1600, 1.2, 80, 20, least_faster=1.4),
    Photograph(3000, 4000, 1.2, 80, 4, least_faster=2),
)


def rows(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [_row(Path(folder), photograph, rounds) for photograph in PHOTOGRAPHS]


def _row(folder: Path, photograph: Photograph, rounds: int) -> Row:
    files = write_photograph(folder, photograph)

    # Processor time, which other work on the machine changes less.
    def spent_by(run: Callable[[], dict[str, Any]]) -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    runs = {make.__name__: partial(spent_by, make(*files, photograph.count)) for make in (ours, literal)}
    spent = alternating(runs, rounds)
    own, its = (statistics.median(values) for values in spent.values())
    found, expected = (make(*files, 1)()["image"] for make in (ours, literal))
    off = Check(float((found - expected).abs().max() / expected.abs().max()), high=MOST_DEVIATION, form="{:.0e}")
    return Row(
        what=f"crops of {CROP.size}x{CROP.size}{' with labels' if photograph.with_labels else ''}, JPEG of "
        f"{photograph.width}x{photograph.height}",
        ours=f"{photograph.count / own:.0f} a second and core",
        other="whole image scaled, then torchvision",
        its=f"{photograph.count / its:.0f} a second and core",
        time=faster(own, its, least=photograph.least_faster),
        deviation=off if photograph.height * photograph.width <= REDUCED_PIXELS else None,
    )


def write_photograph(folder: Path, photograph: Photograph) -> tuple[Path, Path | None]:
    """Writes a JPEG of noise whose power falls with frequency as in photographs, and labels of it."""
    size = photograph.height, photograph.width
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, size), indexing="ij"))
    frequency[0, 0] = np.inf
    light, *tints = (
        np.fft.ifft2(np.fft.fft2(rng.standard_normal(size)) / frequency**photograph.roughness).real for _ in range(4)
    )
    colors = np.stack([light / light.std() + 0.3 * tint / tint.std() for tint in tints], 2)
    image, labels = folder / f"{size[1]}.jpg", folder / f"{size[1]}.png"
    Image.fromarray(np.clip(128 + 50 * colors, 0, 255).astype(np.uint8)).save(image, quality=photograph.quality)
    write_labels(labels, (light > light.std()).astype(np.uint8))
    return image, labels if photograph.with_labels else None


def ours(image: Path, labels: Path | None, count: int) -> Callable[[], dict[str, Any]]:
    """Makes the crops 0 to `count` - 1, and returns the last one."""
    images = TrainingImages([image], load=lambda path: (path, _maps(labels)), transform=RandomScaleCrop(CROP), seed=0)
    return partial(_last, images.__getitem__, count)


def literal(image: Path, labels: Path | None, count: int) -> Callable[[], dict[str, Any]]:
    transform = LiteralCrop(CROP)

    def item(number: int) -> dict[str, Any]:
        crop = transform(read_image(image), _maps(labels), seed=mixed_seed(0, number))
        return crop | {"image": literal_normalize(crop["image"])}

    return partial(_last, item, count)


def _maps(labels: Path | None) -> dict[str, np.ndarray]:
    return {"label": read_labels(labels)} if labels else {}


def _last(item: Callable[[int], dict[str, Any]], count: int) -> dict[str, Any]:
    for number in range(count):
        last = item(number)
    return last
