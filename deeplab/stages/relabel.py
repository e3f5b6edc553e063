"""Makes the pseudo labels of a further round: the segmenter's own predictions for the images that it was trained on."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from deeplab.model import load_deeplab
from getam.datasets.index import read_index
from getam.datasets.shards import CORRECTED, check_classes, read_manifest, rows_of
from getam.networks.supervision import SUPERVISION, of_model
from getam.scores.prediction import predict
from getam.settings.relabel import RelabelSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments

SECTION = "relabel"


class Arguments(RelabelSettings, NetworkArguments):
    """Write rounds/<n>/pseudo_labels/<shard>/<id>.png: palette PNG (H, W), 0..C, 255 unknown.

    The classes that an image's labels do not name cannot win, since its image labels are known. Labels that a person
    corrected stay as they are.
    """

    index: Path = Field(description="index.csv")
    model: Path = Field(description="folder of the segmenter of the round before")
    pseudo_labels: Path = Field(description="folder of the shard of the first round, whose images are labelled again")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = rows_of(arguments.pseudo_labels, index)
    model, classes = load_deeplab(arguments.model)
    check_classes(classes, index, source=arguments.model / "model.json")
    settings = section_of(RelabelSettings, arguments)
    corrected = [str(id) for id in read_manifest(arguments.pseudo_labels).get(CORRECTED, ())]
    predict(
        model.to(device),
        rows,
        settings=settings,
        multiple=model.multiple,
        classes=index.classes,
        model=arguments.model,
        out=arguments.out,
        device=device,
        threads=arguments.threads,
        what="relabel",
        manifest_entries={SUPERVISION: of_model(arguments.model), "architecture": model.architecture}
        | ({CORRECTED: corrected} if corrected else {}),
        kept={id: arguments.pseudo_labels / f"{id}.png" for id in corrected},
        possible=index.class_indices,
        confidence=settings.confidence,
    )
