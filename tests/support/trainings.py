"""The four trainings, what they read, and the settings of a section that they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

import deeplab.stages.train_deeplab
import getam.stages.train_classifier
import getam.stages.train_end_to_end
import getam.stages.train_saliency
from deeplab.model import load_deeplab
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.networks.classifier import load_classifier
from getam.networks.end_to_end import load_end_to_end
from getam.networks.saliency import load_saliency
from getam.settings.config import Config
from getam.settings.saliency import SaliencySettings
from getam.settings.section import section_of
from getam.system.image_files import write_gray, write_labels

CLASSES = ("a", "b", "c")


def write_inputs(folder: Path, *, masks: bool = False) -> Path:
    """Writes images, saliency maps and pseudo labels in one shard, and DUTS pairs.

    Args:
        masks: whether the masks that the index names exist.
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    ids = [f"i{number}" for number in range(4)]
    sizes = dict(zip(ids, [(30, 36), (36, 30), (24, 40), (32, 32)], strict=True))
    rows = []
    for number, (id, (height, width)) in enumerate(sizes.items()):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{id}.png")
        labels = (CLASSES[number % 3],) if number % 2 else (CLASSES[0], CLASSES[2])
        for split in ("train", "val"):
            name = id if split == "train" else f"v{id}"
            mask = folder / f"no_mask_of_{name}.png"
            if masks:
                write_labels(mask, rng.choice(np.array([0, 1, 3, 255], np.uint8), (height, width)))
            rows.append(IndexRow(name, split, folder / f"{id}.png", mask, height, width, labels))
    write_index(folder / "index.csv", Index(tuple(rows), CLASSES))
    for kind in ("saliency", "pseudo_labels"):
        shard_folder = folder / kind / "000"
        with new_shard(shard_folder, ids=ids, suffix=".png", classes=CLASSES, settings=None) as shard:
            for id, size in sizes.items():
                if kind == "saliency":
                    shard.submit(id, write_gray, rng.integers(0, 256, size, dtype=np.uint8))
                else:
                    shard.submit(id, write_labels, rng.choice(np.array([0, 1, 3, 255], np.uint8), size))
    for name in ("DUTS-TR", "DUTS-TE"):
        for kind in ("Image", "Mask"):
            (folder / name / f"{name}-{kind}").mkdir(parents=True)
        for id in ids[:2]:
            color = rng.integers(0, 256, (*sizes[id], 3), dtype=np.uint8)
            Image.fromarray(color).save(folder / name / f"{name}-Image" / f"{id}.jpg")
            write_gray(folder / name / f"{name}-Mask" / f"{id}.png", 255 * (color[..., 0] > 99).astype(np.uint8))
    return folder


TRAININGS: dict[str, tuple[Any, Callable[[Path], dict[str, Path | int]], Callable[[Path], Any]]] = {
    "classifier": (getam.stages.train_classifier, lambda data: {"index": data / "index.csv"}, load_classifier),
    "end_to_end": (
        getam.stages.train_end_to_end,
        lambda data: {"index": data / "index.csv", "saliency": data / "saliency", "shards": 1},
        load_end_to_end,
    ),
    "deeplab": (
        deeplab.stages.train_deeplab,
        lambda data: {"index": data / "index.csv", "pseudo_labels": data / "pseudo_labels", "shards": 1},
        load_deeplab,
    ),
    "saliency": (
        getam.stages.train_saliency,
        lambda data: {"train": data / "DUTS-TR", "val": data / "DUTS-TE"},
        load_saliency,
    ),
}


def settings_of(section: str, config: Config) -> BaseModel:
    """What a training takes of its section."""
    return section_of(SaliencySettings, config.saliency) if section == "saliency" else getattr(config, section)
