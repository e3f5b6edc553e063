"""The audit page of VOC's 10,582 training images: time to make it, its size, and its speed in Chromium.

Run it by `python -m benchmarks.audit`. It is no part of `make bench`, since it writes the whole page, 1.5 GB in a
temporary folder. The run that it shows has 40 distinct images, drawn at VOC's size with maps refined by PAMR; the other
images are links to them. With `--images 500 --shown 82081`, COCO's training images, the page is made of 500 and then
shows so many, whose files are links too.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.browser import CHROMIUM, MISSING, SCROLL, SPENT, Opened, browser, many_images, memory

from benchmarks.measure import config
from getam.datasets.index import Index, IndexRow, write_index
from getam.labels.completion import complete_labels
from getam.maps.pamr import pamr
from getam.pages.audit.gallery import LIST
from getam.stages.audit import Arguments, run
from getam.system.files import write_array, write_json
from getam.system.image_files import write_gray, write_labels

HEIGHT, WIDTH = 375, 500
CLASSES = tuple(f"class {number}" for number in range(20))
COUNTS = [1] * 22 + [2] * 14 + [3] * 4
"""Number of classes of each distinct image: 1.55 on average, as in VOC."""

LIMITS = {
    "stage, minutes": 10.0,
    "page, GB": 1.5,
    "first picture, s": 2.0,
    "filter, ms": 300.0,
    "sort, ms": 300.0,
    "memory after all images, MB": 500.0,
}

LIMITS_OF_COCO = LIMITS | {"filter, ms": 500.0, "sort, ms": 1000.0, "memory after all images, MB": 700.0}
"""Those of a page of COCO's 82,081 training images."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--images", type=int, default=10_582, help="images of the run [10582]")
    parser.add_argument("--shown", type=int, help="images that the page in the browser shows [those of the run]")
    parser.add_argument("--threads", type=int, default=2, help="processes of the stage [2]")
    parser.add_argument("--folder", type=Path, help="where the run and its page are kept; without, they are removed")
    arguments = parser.parse_args()
    if arguments.shown and arguments.images > LIST:
        parser.error(f"--shown: links the images of one list; give --images {LIST} at most")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if CHROMIUM is None:
        print(MISSING, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        make_run(folder, arguments.images)
        found = make_page(folder, arguments.threads)
        if arguments.shown:
            many_images(folder / "audit", arguments.shown)
        found |= in_browser(folder / "audit", arguments.shown or arguments.images)
    limits = LIMITS_OF_COCO if arguments.shown else LIMITS
    missed = False
    for what, value in found.items():
        limit = limits.get(what)
        missed |= limit is not None and value >= limit
        print(f"{what:32}{value:10.3g}" + (f"   limit {limit:g}" if limit is not None else ""))
    return int(missed)


def make_run(folder: Path, images: int) -> None:
    """Writes a data set and the results of a run for its train split."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(COUNTS):
        draw(folder, f"i{number:05d}", count, rng)
    layers = ("photographs/{}.jpg", "masks/{}.png", "run/maps/000/{}.npy", "run/refined/000/{}.npy")
    layers += ("run/saliency/000/{}.png", "run/pseudo_labels/000/{}.png")
    rows = []
    for number in range(images):
        id, same = f"i{number:05d}", f"i{number % len(COUNTS):05d}"
        for layer in layers if id != same else ():
            (folder / layer.format(id)).hardlink_to(folder / layer.format(same))
        labels = CLASSES[: COUNTS[number % len(COUNTS)]]
        photograph, mask = (folder / layer.format(id) for layer in layers[:2])
        rows.append(IndexRow(id, "train", photograph, mask, HEIGHT, WIDTH, labels))
    write_index(folder / "run" / "index.csv", Index(tuple(rows), CLASSES))
    settings = config().completion.model_dump(mode="json")
    write_json(folder / "run/pseudo_labels/000/manifest.json", {"ids": [row.id for row in rows], "settings": settings})


def draw(folder: Path, id: str, count: int, rng: np.random.Generator) -> None:
    """Draws and writes a photograph of `count` objects, and its layers."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([noise(rng, 1.6) for _ in range(3)], 2) * 40 + 60 * noise(rng, 2.4)[..., None] + 110
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    raw = np.zeros((count, HEIGHT // 16, WIDTH // 16), np.float32)
    for position in range(count):
        y, x = rng.uniform(0.25, 0.75, 2) * (HEIGHT, WIDTH)
        radius = rng.uniform(50, 110)
        distance = np.hypot(rows - y, columns - x) / radius + 0.25 * noise(rng, 3)
        truth[distance < 1] = position + 1
        image[distance < 1] = image[distance < 1] * 0.6 + rng.uniform(0, 120, 3)
        heat = np.exp(-2 * distance.clip(0) ** 2) * (1 + 0.3 * noise(rng, 2))
        raw[position] = np.asarray(Image.fromarray(heat).resize((WIDTH // 16, HEIGHT // 16))).clip(0) * 1e-3
    pixels = (image + 4 * rng.standard_normal(image.shape)).clip(0, 255).astype(np.uint8)
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"photographs/{id}.jpg", quality=90)
    colors = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    refined = pamr(colors, torch.from_numpy(raw / raw.max((1, 2), keepdims=True))[None])[0].numpy()
    refined = (refined / refined.max((1, 2), keepdims=True)).astype(np.float16)
    soft = np.asarray(Image.fromarray((truth > 0).astype(np.float32)).resize((96, 72)).resize((WIDTH, HEIGHT)))
    saliency = (255 * soft.clip(0, 1)).astype(np.uint8)
    settings = config().completion
    labels = complete_labels(refined, range(count), saliency > 127, alpha=settings.alpha, gamma=32)
    write_labels(folder / f"masks/{id}.png", truth)
    write_array(folder / f"run/maps/000/{id}.npy", raw)
    write_array(folder / f"run/refined/000/{id}.npy", refined)
    write_gray(folder / f"run/saliency/000/{id}.png", saliency)
    write_labels(folder / f"run/pseudo_labels/000/{id}.png", labels)


def noise(rng: np.random.Generator, steepness: float) -> np.ndarray:
    """Makes noise whose power falls with frequency as in photographs: (H, W), mean 0, standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((HEIGHT, WIDTH))) / frequency ** (steepness / 2)).real
    return (values / values.std()).astype(np.float32)


def make_page(folder: Path, threads: int) -> dict[str, float]:
    started, cpu = time.monotonic(), os.times()
    out, index = folder / "audit", folder / "run" / "index.csv"
    run(Arguments(run=folder / "run", index=index, shards=1, out=out, images=0, threads=threads, device="cpu"))
    spent = time.monotonic() - started
    now = os.times()
    files = [path for path in out.rglob("*") if path.is_file()]
    images = sum(path.is_relative_to(out / "images") for path in files)
    used = sum(now[:4]) - sum(cpu[:4])
    return {
        "stage, minutes": spent / 60,
        "CPU an image, ms": 1e3 * used / images,
        "page, GB": sum(path.stat().st_size for path in files) / 1e9,
        "page on disk, GB": sum(path.stat().st_blocks * 512 for path in files) / 1e9,
    }


def in_browser(folder: Path, images: int) -> dict[str, float]:
    with browser() as chromium:
        opened = Opened(chromium, folder)
        opened.wait_painted()
        first = opened.page.evaluate("performance.getEntriesByName('first picture')[0].startTime")
        opened.wait(f"getamAudit.images.length === {images}")
        loaded = opened.page.evaluate("performance.now()")
        filtered = max(opened.page.evaluate(SPENT, ["class", value]) for value in ("1", "2", ""))
        ordered = max(opened.page.evaluate(SPENT, ["sort", value]) for value in ("background", "unknown", "id"))
        opened.page.evaluate(SCROLL, 1000)
        opened.wait_painted()
        session = opened.page.context.new_cdp_session(opened.page)
        session.send("Performance.enable")
        metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
        held = memory()
        if opened.complaints:
            raise RuntimeError(f"the page complains: {opened.complaints}")
    return {
        "first picture, s": first / 1e3,
        "all lists, s": loaded / 1e3,
        "filter, ms": filtered,
        "sort, ms": ordered,
        "memory after all images, MB": held,
        "of it JavaScript's, MB": metrics["JSHeapUsedSize"] / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
