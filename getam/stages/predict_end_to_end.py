"""Segments a split's images with the end-to-end network."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from getam.datasets.index import read_index
from getam.datasets.shards import check_classes
from getam.networks.end_to_end import load_end_to_end
from getam.networks.supervision import SUPERVISION, of_model
from getam.scores.prediction import predict, rows_to_predict
from getam.settings.prediction import PredictionSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments

SECTION = "end_to_end_prediction"


class Arguments(PredictionSettings, NetworkArguments):
    """Write predictions/<id>.png: palette PNG (H, W) of label values."""

    index: Path = Field(description="index.csv")
    model: Path = Field(description="folder of the network's model.safetensors and model.json")
    split: str = Field(description="split whose images are segmented")
    out: Path = Field(description="folder of the predictions")


def run(arguments: Arguments) -> None:
    device = arguments.prepare()
    index = read_index(arguments.index)
    network, classes = load_end_to_end(arguments.model)
    check_classes(classes, index, source=arguments.model / "model.json")
    network.to(device)
    predict(
        network.segment,
        rows_to_predict(index, arguments.split, source=arguments.index),
        settings=section_of(PredictionSettings, arguments),
        multiple=network.multiple,
        classes=index.classes,
        model=arguments.model,
        out=arguments.out,
        device=device,
        threads=arguments.threads,
        what="predict_end_to_end",
        manifest_entries={SUPERVISION: of_model(arguments.model)},
    )
