"""A small data set and the command that dumps its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from getam.datasets.index import Index, IndexRow, write_index
from getam.networks.checkpoints import save_model
from getam.networks.classifier import build_classifier, describe_classifier
from getam.settings.classifier import ClassifierSettings
from getam.settings.maps import MapSettings
from getam.settings.training import CropSettings
from getam.stages.dump_maps import Arguments, run

CLASSES = ("a", "b", "c")


CLASSIFIER = ClassifierSettings(
    backbone="vit_tiny_patch16_224",
    backbone_options={"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    stem_channels=(),
    readout="project",
    final_norm=False,
    trainable="all",
    backbone_rate=1,
    layer_decay=1,
    pretrained=False,
    segmentation_pretrained=False,
    embedding="timm",
    normalization="imagenet",
    epochs=1,
    batch_size=2,
    accumulation=1,
    optimizer="adamw",
    schedule="one_cycle",
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_epochs=0,
    momentum=0.9,
    gradient_clipping=0.0,
    precision="float32",
    seed=0,
    crop=CropSettings(long_side=(32, 32), size=32, color_jitter=0),
)


MAPS = MapSettings(
    method="getam",
    coupling="released",
    start_block=0,
    fusion="sum",
    propagation="none",
    propagation_blocks=8,
    propagation_threshold=0.4,
    propagation_power=4,
    propagation_steps=1,
    boundary_prior=0,
    image_size=32,
    scales=(1.0,),
    flip=False,
    precision="float32",
)


# The images are not ordered by their number of labels, so that the tests notice how the stage sorts them.
LABELS = [("c", "a"), ("b",), ("a", "b", "c"), ("c",), ("b", "c")]


SIZES = [(32, 32), (32, 32), (30, 60), (60, 30), (32, 32)]


def write_data(folder: Path) -> Path:
    """Writes index.csv of five train images and one val image, and a classifier with random weights, into a folder."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (labels, (height, width)) in enumerate(
        zip([*LABELS, ("a",)], [*SIZES, (32, 32)], strict=True),
    ):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        split = "train" if number < len(LABELS) else "val"
        names = tuple(sorted(labels))
        rows.append(IndexRow(f"i{number}", split, path, folder / "no_such_mask.png", height, width, names))
    write_index(folder / "index.csv", Index(tuple(rows), CLASSES))
    torch.manual_seed(1)
    model = build_classifier(CLASSIFIER, num_classes=3, image_size=32)
    for parameter in model.parameters():
        # The usual initial weights of 0.02 give maps near 0; these distinguish the classes.
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder / "classifier", model, describe_classifier(CLASSIFIER, CLASSES))
    return folder


def dump(
    data: Path,
    out: Path,
    *,
    shard: int = 0,
    shards: int = 1,
    split: str = "train",
    device: str = "cpu",
    **changes: Any,
) -> None:
    run(
        Arguments(
            **MAPS.model_copy(update=changes).model_dump(),
            index=data / "index.csv",
            classifier=data / "classifier",
            split=split,
            shard=shard,
            shards=shards,
            out=out,
            threads=1,
            device=device,
        )
    )
