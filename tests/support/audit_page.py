"""Writes a small run for the audit page, and reads the data that the page's scripts pass to it."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from getam.datasets.index import IndexRow
from getam.pages.audit.gallery import COLUMNS, write_gallery
from getam.runs.image_results import LAYERS
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.system.files import write_array, write_json
from getam.system.image_files import write_gray, write_labels

HEIGHT, WIDTH = 16, 20


def index_row(
    folder: Path, id: str, split: str, mask: np.ndarray | None, labels: tuple[str, ...], name: str | None = None
) -> IndexRow:
    """Makes an index row, with photograph and mask on disk under `name` if the id is no file name."""
    photograph = folder / "photographs" / f"{name or id}.png"
    photograph.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).save(photograph)
    path = folder / "masks" / f"{name or id}.png"
    if mask is not None:
        write_labels(path, mask)
    return IndexRow(id, split, photograph, None if mask is None else path, HEIGHT, WIDTH, labels)


def half_mask(left: int, right: int) -> np.ndarray:
    mask = np.full((HEIGHT, WIDTH), left, np.uint8)
    mask[:, WIDTH // 2 :] = right
    return mask


def write_run(run: Path, rows: Sequence[IndexRow]) -> None:
    """Writes two shards of the multi-stage path for training images, and both networks' predictions of a val image.

    `rows` are an image of the classes 1 and 2, one of class 2, and the val image.
    """
    first, second, third = (row.id for row in rows)
    raw = np.zeros((2, 2, 3), np.float32)
    raw[0, 0, 0], raw[1, 1, 2] = 3e-7, 2e-3
    write_array(run / "maps" / "000" / f"{first}.npy", raw)
    write_array(run / "maps" / "001" / f"{second}.npy", np.zeros((1, 2, 3), np.float32))
    for shard, id in (("000", first), ("001", second)):
        write_json(run / "maps" / shard / "manifest.json", {"ids": [id], "settings": {"method": "getam"}})
    write_array(run / "refined" / "000" / f"{first}.npy", np.zeros((2, HEIGHT, WIDTH), np.float16))
    write_array(run / "refined" / "001" / f"{second}.npy", np.full((1, HEIGHT, WIDTH), 0.73, np.float16))
    for shard, id, value in (("000", first, 255), ("001", second, 0)):
        write_gray(run / "saliency" / shard / f"{id}.png", np.full((HEIGHT, WIDTH), value, np.uint8))
    write_pseudo_labels(run, "000", {first: half_mask(1, 255)})
    write_pseudo_labels(run, "001", {second: half_mask(0, 2)})
    write_labels(run / "deeplab" / "predictions" / f"{third}.png", half_mask(0, 0))
    write_labels(run / "end_to_end" / "predictions" / f"{third}.png", half_mask(1, 2))


def write_pseudo_labels(run: Path, shard: str, labels: dict[str, np.ndarray], **facts: Any) -> None:
    """Writes a shard of pseudo labels; `facts` go into its manifest, where `settings` are changes of config.yaml's."""
    settings = validate_config(read_yaml(BASE_CONFIG)).completion.model_dump(mode="json") | facts.pop("settings", {})
    folder = run / "pseudo_labels" / shard
    write_json(folder / "manifest.json", {"ids": [*labels], "settings": settings} | facts)
    for id, values in labels.items():
        write_labels(folder / f"{id}.png", values)


class Audit:
    """An audit page that is written to disk: its text, and the data that it gets about images."""

    def __init__(
        self, run: Path, rows: Sequence[IndexRow], *, classes: Sequence[str], images: int = 0, threads: int = 1
    ) -> None:
        self.out = run / "audit"
        self.out.mkdir(parents=True)
        self.count = write_gallery(run, self.out, rows=rows, classes=classes, shards=2, images=images, threads=threads)
        self.page = (self.out / "index.html").read_text(encoding="utf-8")
        self.facts = json.loads(self.page.split('id="audit">')[1].split("</script>")[0])
        lists = [self.call(path, "list") for path in sorted((self.out / "lists").iterdir())]
        self.entries = {row[1]: dict(zip(COLUMNS, row, strict=True)) for rows in lists for row in rows}

    @staticmethod
    def call(path: Path, function: str) -> Any:
        """The data that a script passes to a function of the page."""
        text = path.read_text(encoding="ascii")
        head = f"getamAudit.{function}("
        assert text.startswith(head)
        assert text.endswith(");\n")
        return json.loads(text[len(head) : -3])

    def image(self, id: str) -> Any:
        number = self.entries[id]["number"]
        return self.call(self.out / "images" / str(number // 1000) / f"{number}.js", "image")

    def layers(self, id: str) -> list[str]:
        bits = self.entries[id]["layers"]
        return [name for position, name in enumerate(LAYERS) if bits >> position & 1]


def photograph(content: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content["photograph"])))


def pixels(layer: dict[str, Any]) -> np.ndarray:
    """The values of a layer: (H, W), uint8."""
    rows = np.frombuffer(zlib.decompress(base64.b64decode(layer["data"])), np.uint8)
    return rows.reshape(layer["height"], layer["width"]).cumsum(0, dtype=np.uint8)
