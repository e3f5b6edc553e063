"""Draws README's first picture: photographs that may be shipped, as the networks of finished runs see them.

    python -m benchmarks.photographs --out docs/pictures/photographs.jpg \
        flower.jpg:results/msrc cat.png:results/photos20 astronaut.png:results/photos20

Each row is a photograph and what `getam predict` makes of it with the classifier, the segmenter and the end-to-end
network of a run. No label is given.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image

COLUMNS: dict[str, tuple[str, ...]] = {
    "photograph": (),
    "class map": ("classifier", "--maps"),
    "multi-stage": ("deeplab",),
    "end to end": ("end_to_end",),
}
"""Title of a column -> the network, and further flags."""

SIDE = 2.4
"""Width of a photograph, inches."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="picture")
    parser.add_argument("rows", nargs="+", help="photograph:run")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = [
            seen(Path(photograph), Path(run), Path(folder) / str(number))
            for number, (photograph, _, run) in enumerate(row.partition(":") for row in arguments.rows)
        ]
    draw(rows, arguments.out)
    return 0


def seen(photograph: Path, run: Path, folder: Path) -> list[Image.Image]:
    """The photograph, and its overlay by each network of the run."""
    pictures = []
    for network, *flags in filter(None, COLUMNS.values()):
        out = folder / network
        words = ["getam", "predict", run / network, photograph, "--out", out, "--overlays", *flags]
        subprocess.run([sys.executable, "-m", *map(str, words)], check=True)
        with Image.open(out / "overlays" / f"{photograph.stem}.jpg") as picture:
            pictures.append(picture.copy())
    with Image.open(photograph) as original:
        return [original.convert("RGB").resize(pictures[0].size, Image.Resampling.LANCZOS), *pictures]


def draw(rows: list[list[Image.Image]], out: Path) -> None:
    """Draws a row for each photograph, a column for each network."""
    matplotlib.use("Agg")
    heights = [row[0].height / row[0].width for row in rows]
    figure, axes = plt.subplots(
        len(rows),
        len(COLUMNS),
        figsize=(SIDE * len(COLUMNS), SIDE * sum(heights) + 0.3),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for row, line in zip(rows, axes, strict=True):
        for picture, axis in zip(row, line, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=10)
    figure.savefig(out, dpi=130, pil_kwargs={"quality": 88} if out.suffix == ".jpg" else None)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
