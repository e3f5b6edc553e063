"""Segments a split's images with DeepLabv2, or another network trained in its place."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from deeplab.model import load_deeplab
from getam.datasets.index import read_index
from getam.datasets.shards import check_classes
from getam.networks.supervision import SUPERVISION, of_model
from getam.scores.prediction import predict, rows_to_predict
from getam.settings.prediction import PredictionSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments

SECTION = "deeplab_prediction"


class Arguments(PredictionSettings, NetworkArguments):
    """Write predictions/<id>.png: palette PNG (H, W) of label values."""

    index: Path = Field(description="index.csv")
    model: Path = Field(description="folder of DeepLabv2's model.safetensors and model.json")
    split: str = Field(description="split whose images are segmented")
    out: Path = Field(description="folder of the predictions")


def run(arguments: Arguments) -> None:
    device = arguments.prepare()
    index = read_index(arguments.index)
    model, classes = load_deeplab(arguments.model)
    check_classes(classes, index, source=arguments.model / "model.json")
    predict(
        model.to(device),
        rows_to_predict(index, arguments.split, source=arguments.index),
        settings=section_of(PredictionSettings, arguments),
        multiple=model.multiple,
        classes=index.classes,
        model=arguments.model,
        out=arguments.out,
        device=device,
        threads=arguments.threads,
        what="predict_deeplab",
        manifest_entries={SUPERVISION: of_model(arguments.model), "architecture": model.architecture},
    )
