"""The table of artifacts: the files and folders that the stages of a run write, with their paths and titles.

Rules, pages and tables read it. No stage that trains a network or makes maps may import it, since an edit of a title
would rerun that stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from getam.settings.deeplab import SEGMENTERS
from getam.settings.maps import MAP_METHODS

Kind = Literal["data", "weights", "training", "model", "scores", "shards", "predictions", "page"]


@dataclass(frozen=True)
class Artifact:
    """A file or a folder of a run.

    Titles, headings and subjects start in lower case unless they are names. They may contain the placeholders
    `{segmenter}` and `{maps}`, which `Titles.fill` replaces.

    Attributes:
        name: key of the artifact in code.
        path: path relative to the folder of the run.
        stage: rule that writes it (the user's own saliency maps are written by collect_saliency instead).
        kind: data (files of the data set), weights (a record that pretrained weights are at hand), training (folder
            of a trained network: model.safetensors, model.json, perhaps TensorBoard's files), model (folder of an
            imported network), scores (a JSON file), shards (a folder of shards), predictions (a folder of label PNGs)
            or page (something for people to read).
        title: name that distinguishes it from other artifacts of its kind.
        section: key of its settings among the recorded settings, or of its scores in summary.json.
        part: part of a run that it belongs to; the files of a part depend on the same settings, see
            experiments/variants.py.
        record: glob pattern, in the folder of the run, of the files that record the settings it was made with.
        heading: title of those recorded settings.
        subject: name of a network within a sentence, as in "Training of ...".
        layer: name of its layer on the pages that show images.
        suffixes: those that an image's file in a shard or a folder of predictions may have.
        images: what its stage processes, for an estimate of hours: train, val, both, or image/mask pairs.
    """

    name: str
    path: str
    stage: str
    kind: Kind
    title: str = ""
    section: str = ""
    part: str = ""
    record: str = ""
    heading: str = ""
    subject: str = ""
    layer: str = ""
    suffixes: tuple[str, ...] = ()
    images: Literal["", "train", "val", "both", "pairs"] = ""


ARTIFACTS = (
    Artifact("index", "index.csv", "index_dataset", "data", part="index", images="both"),
    Artifact("classes", "classes.txt", "index_dataset", "data", part="index"),
    Artifact(
        "data", "index.json", "index_dataset", "data",
        section="data", part="index", record="index.json", heading="data set",
    ),
    Artifact("masks", "masks", "index_dataset", "data", part="index"),
    Artifact("test", "test", "index_test", "data", part="index"),
    Artifact(
        "classifier", "classifier", "train_classifier", "training", "classifier",
        section="classifier", part="classifier", record="classifier/model.json", heading="classifier",
        subject="the classifier", images="train",
    ),
    Artifact(
        "classifier_scores", "classifier/metrics.json", "train_classifier", "scores", "classifier",
        section="classifier", part="classifier",
    ),
    Artifact(
        "maps", "maps", "dump_maps", "shards", "{maps}",
        section="maps", part="maps", record="maps/*/manifest.json", heading="maps",
        layer="raw", suffixes=(".npy",), images="train",
    ),
    Artifact(
        "refined", "refined", "refine_maps", "shards", "refined maps",
        section="refine", part="refined", record="refined/*/manifest.json", heading="refinement",
        layer="refined", suffixes=(".npy", ".npz"), images="train",
    ),
    Artifact(
        "saliency_model", "saliency_model", "train_saliency", "training", "saliency network",
        section="saliency", part="saliency_model", record="saliency_model/model.json", heading="saliency network",
        subject="the saliency network", images="pairs",
    ),
    Artifact(
        "saliency_scores", "saliency_model/metrics.json", "train_saliency", "scores", "saliency",
        section="saliency", part="saliency_model",
    ),
    Artifact(
        "saliency", "saliency", "predict_saliency", "shards", "saliency",
        section="saliency_maps", part="saliency", record="saliency/*/manifest.json", heading="saliency maps",
        layer="saliency", suffixes=(".png",), images="train",
    ),
    Artifact(
        "pseudo_labels", "pseudo_labels", "complete_labels", "shards", "pseudo labels",
        section="completion", part="pseudo_labels", record="pseudo_labels/*/manifest.json", heading="label completion",
        layer="pseudo_labels", suffixes=(".png",), images="train",
    ),
    Artifact(
        "label_scores", "pseudo_labels.json", "score_labels", "scores", "pseudo labels",
        section="pseudo_labels", part="label_scores", images="train",
    ),
    Artifact(
        "deeplab", "deeplab", "train_deeplab", "training", "{segmenter}",
        section="deeplab", part="deeplab", record="deeplab/model.json", heading="{segmenter}",
        subject="{segmenter}", images="train",
    ),
    Artifact(
        "deeplab_predictions", "deeplab/predictions", "predict_deeplab", "predictions", "{segmenter}",
        section="deeplab_prediction", part="deeplab_prediction", record="deeplab/predictions/manifest.json",
        heading="{segmenter}'s predictions", layer="deeplab", suffixes=(".png",), images="val",
    ),
    Artifact(
        "deeplab_predictions_test", "deeplab/predictions_test", "predict_deeplab_test", "predictions", "{segmenter}",
        part="deeplab_prediction", suffixes=(".png",),
    ),
    Artifact(
        "deeplab_scores", "deeplab/metrics.json", "evaluate_deeplab", "scores", "{segmenter}",
        section="deeplab", part="deeplab_prediction", subject="{segmenter}",
    ),
    Artifact("voc_submission", "voc_submission", "voc_submission", "page", part="deeplab_prediction"),
    Artifact(
        "end_to_end", "end_to_end", "train_end_to_end", "training", "end to end",
        section="end_to_end", part="end_to_end", record="end_to_end/model.json", heading="end to end",
        subject="the end-to-end network", images="train",
    ),
    Artifact(
        "imported", "imported", "import_checkpoint", "model", "imported checkpoint",
        section="checkpoint", part="end_to_end", record="imported/model.json", heading="imported checkpoint",
    ),
    Artifact(
        "end_to_end_predictions", "end_to_end/predictions", "predict_end_to_end", "predictions", "end to end",
        section="end_to_end_prediction", part="end_to_end_prediction", record="end_to_end/predictions/manifest.json",
        heading="end-to-end predictions", layer="end_to_end", suffixes=(".png",), images="val",
    ),
    Artifact(
        "end_to_end_scores", "end_to_end/metrics.json", "evaluate_end_to_end", "scores", "end to end",
        section="end_to_end", part="end_to_end_prediction", subject="the end-to-end network",
    ),
    *(
        Artifact(f"{section}_weights", f"weights/{section}.json", "fetch_weights", "weights", part=f"weights/{section}")
        for section in ("classifier", "saliency", "deeplab", "end_to_end")
    ),
    Artifact("summary", "summary.json", "summary", "page"),
    Artifact("summary_markdown", "summary.md", "summary", "page"),
    Artifact("summary_html", "summary.html", "summary", "page"),
    Artifact("plots", "plots", "plot_scores", "page"),
    Artifact("audit", "audit", "audit", "page"),
    Artifact("tables", "tables", "make_table", "page"),
)  # fmt: skip
"""All artifacts of a run, in the order of the workflow."""

BY_NAME = {artifact.name: artifact for artifact in ARTIFACTS}


def path_of(name: str, *inside: str) -> str:
    """Path of an artifact, or of a file inside it, relative to the folder of the run: path_of("maps", "{shard}").

    Raises:
        KeyError: no artifact has this name.
    """
    return "/".join((BY_NAME[name].path, *inside))


def of_kind(*kinds: Kind) -> tuple[Artifact, ...]:
    """The artifacts of the given kinds, in the order of the workflow."""
    return tuple(artifact for artifact in ARTIFACTS if artifact.kind in kinds)


RECORDS = {artifact.section: artifact for artifact in ARTIFACTS if artifact.record}
"""Section of the recorded settings -> the artifact that was made with them."""

SCORE_FILES = {artifact.section: artifact for artifact in of_kind("scores")}
"""Section of summary.json -> the file with its scores."""

PREDICTIONS = {artifact.layer: artifact for artifact in of_kind("predictions") if artifact.layer}
"""Layer of a network's predictions on val -> their folder; the network's section of summary.json has the same name."""

IN_SHARDS = {artifact.layer: artifact for artifact in of_kind("shards")}
"""Layer of a per-image result (maps, saliency, pseudo labels) -> its folder of shards."""

ANY_SEGMENTER = "segmentation network"
"""Title of a score whose networks have different architectures."""


def segmenter_title(architecture: str | None) -> str:
    """The name of the network that is trained on pseudo labels, such as "DeepLab".

    Args:
        architecture: the one that its files record; None (earlier versions recorded none) is the paper's network.
    """
    known = SEGMENTERS.get("deeplabv2" if architecture is None else str(architecture))
    return known.title if known else str(architecture)


def common_segmenter_title(architectures: Iterable[str | None]) -> str:
    """The name of networks of these architectures: their own if they share it, otherwise ANY_SEGMENTER."""
    titles = {segmenter_title(architecture) for architecture in architectures}
    return titles.pop() if len(titles) == 1 else ANY_SEGMENTER


def maps_title(method: str | None, propagation: str | None = None) -> str:
    """The name of the class activation maps, such as "GETAM maps" or "propagated GETAM maps".

    Args:
        method: the one that their manifest records; None for maps without a manifest, such as the user's own.
        propagation: likewise; None for maps of earlier versions, which knew none.
    """
    if method is None:
        return "raw maps"
    known = MAP_METHODS.get(str(method))
    spread = "" if propagation in (None, "none") else "propagated "
    return f"{spread}{known.name if known else method} maps"


def capitalized(title: str) -> str:
    """A title with its first letter in upper case, for a heading or the beginning of a line."""
    return title[:1].upper() + title[1:]


@dataclass(frozen=True)
class Titles:
    """The names that differ between runs: that of the network trained on pseudo labels, and that of the maps."""

    segmenter: str = segmenter_title(None)
    maps: str = maps_title(None)

    def fill(self, text: str) -> str:
        """Replaces the placeholders of an artifact's text by the names."""
        return text.format(segmenter=self.segmenter, maps=self.maps)
