"""The paper's tables, the runs that its figures compare, and sweeps, as data: runs of which a few settings differ.

A row is the run with an overlay; getam.experiments.variants finds what it shares with the others. Figures of the paper
stand beside as fractions, each under the protocol that the caption names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from getam.experiments.table_scores import PAPER
from getam.experiments.variants import depends_on
from getam.runs.artifacts import Titles, capitalized, common_segmenter_title, path_of
from getam.runs.summary import PROTOCOL_TITLES
from getam.settings.completion import LABEL_METHODS
from getam.settings.config import Config
from getam.settings.flags import nest
from getam.settings.maps import MAP_METHODS


class Score(NamedTuple):
    """A number in a file of a run."""

    heading: str
    file: str
    """Name in the folder of the run."""
    path: tuple[str, ...]
    """Keys that lead to it."""
    of: str
    """The file whose settings decide it."""


class Row(NamedTuple):
    """One run of a comparison."""

    label: str
    overlay: Mapping[str, Any]
    """Settings in which it differs from the run."""
    paper: Mapping[str, float] = {}
    """The paper's figures for it, by their headings."""
    value: float | None = None
    """Of the setting that the rows differ in, where that is a number."""
    scores: tuple[Score, ...] | None = None
    """In the place of the table's."""
    given: Mapping[str, float | None] = {}
    """Scores that were measured elsewhere, by their headings."""
    split: str = "train"
    """Whose images have the row's maps and pseudo labels."""


class Table(NamedTuple):
    """A comparison of runs."""

    title: str
    caption: str
    scores: tuple[Score, ...]
    rows: tuple[Row, ...]
    axis: str = ""
    """The setting that the rows' values are of."""
    ordered: bool = False
    """Whether the paper's figures put the rows in an order that this run's scores can be compared with."""


CLASSIFIER = Score(
    "Classifier mAP, val", path_of("classifier_scores"), ("mean_average_precision",), path_of("classifier")
)
SALIENCY = Score("Saliency MAE, val", path_of("saliency_scores"), ("mae",), path_of("saliency_model"))
MAPS = Score("Maps, best threshold", path_of("label_scores"), ("best_threshold", "miou"), path_of("refined"))
LABELS = tuple(
    Score(
        f"Pseudo labels, 255 {meaning}",
        path_of("label_scores"),
        ("protocols", protocol, "miou"),
        path_of("pseudo_labels"),
    )
    for protocol, meaning in PROTOCOL_TITLES.items()
)
COVERAGE = Score("Coverage", path_of("label_scores"), ("coverage",), path_of("pseudo_labels"))
DEEPLAB = Score("{segmenter}, val", path_of("deeplab_scores"), ("miou",), path_of("deeplab_scores"))
END_TO_END = Score("End to end, val", path_of("end_to_end_scores"), ("miou",), path_of("end_to_end_scores"))
OF_LABELS = (*LABELS[:2], DEEPLAB)
SCORES = (CLASSIFIER, SALIENCY, MAPS, *LABELS, COVERAGE, DEEPLAB, END_TO_END)
"""All that a sweep may change."""

VAL, TEST = "val", "test"

BACKBONES = {"ViT": 0.679, "Hybrid": 0.704, "DeiT": 0.66, "DeiT-distilled": 0.697}
"""The paper's figures, by the names in tables.backbones."""
ALPHAS = {0.85: 0.692, 0.9: 0.704, 0.95: 0.7, 1: 0.689}
"""The paper's figures."""
FUSIONS = ("sum", "product", "matmul")

LABEL_MAKERS = {"activation": 0.704, "rrm": 0.626, "crf": 0.551}
"""The paper's figures; a label method that it has not follows in table 7."""
READOUTS = {"CAM, token ignored": "ignore", "CAM, token added": "add"}

ABLATION = (
    "The paper's figures are the mIoU on VOC 2012 val of the network that is trained end to end; this run's are those "
    "of its pseudo labels on train and of the {segmenter} that is trained on them. Orders can be compared, values "
    "cannot."
)


def definitions(settings: Config) -> dict[str, Table]:
    """All comparisons by their names: table1 to table7, sweep, figure2 and figure7."""
    return {name: _named(table, settings) for name, table in _definitions(settings).items()}


def _named(table: Table, settings: Config) -> Table:
    """A table with the name of the network that its runs train on pseudo labels, of all together where they differ."""
    own = settings.deeplab.architecture
    architectures = (row.overlay.get("deeplab", {}).get("architecture", own) for row in table.rows)
    titles = Titles(common_segmenter_title(architectures))
    scores = tuple(score._replace(heading=capitalized(titles.fill(score.heading))) for score in table.scores)
    return table._replace(caption=titles.fill(table.caption), scores=scores)


def _definitions(settings: Config) -> dict[str, Table]:
    """All comparisons; {segmenter} stands for the network that is trained on pseudo labels."""
    of_maps = {method: {"maps": {"method": method}} for method in MAP_METHODS}
    of_labels = {method: {"completion": {"method": method}} for method in (LABEL_MAKERS | LABEL_METHODS)}
    getam, cam = of_maps["getam"], of_maps["cam"]
    cnn = {"classifier": settings.tables.cnn, **cam}
    paths = (
        ("Multi-stage", Score(VAL, *DEEPLAB[1:]), settings.tables.test_miou.multi_stage),
        ("End to end", Score(VAL, *END_TO_END[1:]), settings.tables.test_miou.end_to_end),
    )
    return {
        "table1": Table(
            "Table 1: pseudo labels",
            "The paper's figures are the mIoU of pseudo labels on VOC 2012 train and val; its authors leave pixels "
            "without a label out. This run's train is all that it trains on, with SBD's images where it has them; its "
            "pseudo labels of val are made by the networks that were trained on train.",
            (MAPS, *LABELS, COVERAGE),
            (Row("train", {}, {PAPER: 0.696}), Row("val", {}, {PAPER: 0.667}, split="val")),
        ),
        "table2": Table(
            "Table 2: backbones, trained end to end",
            "The paper's figures are the mIoU on VOC 2012 val, each backbone with ImageNet's weights. Networks that "
            "are trained from scratch differ in their architecture alone: a DeiT is then a ViT.",
            (END_TO_END,),
            tuple(
                Row(name, {"end_to_end": overlay}, _figure(BACKBONES.get(name)))
                for name, overlay in settings.tables.backbones.items()
            ),
            ordered=True,
        ),
        "table3": Table(
            "Table 3: maps and label makers",
            ABLATION,
            (MAPS, *OF_LABELS),
            tuple(
                Row(
                    f"{maps} + {LABEL_METHODS[labels].name}",
                    {**overlay, **of_labels[labels]},
                    _figure(figure),
                )
                for maps, overlay, figures in (
                    ("GETAM", getam, {"activation": 0.704, "crf": 0.551}),
                    ("ViT CAM", cam, {"activation": 0.553, "crf": None}),
                    ("CNN CAM", cnn, {"activation": 0.647, "crf": None}),
                )
                for labels, figure in figures.items()
            ),
            ordered=True,
        ),
        "table4": Table(
            "Table 4: both paths on PASCAL VOC 2012",
            "The paper's figures are mIoU on VOC 2012, test as its server answered; the released ones are those of the "
            "authors' checkpoint. This run's are of its own data set; test is what tables.test_miou says.",
            (),
            tuple(
                Row(label, {}, figures, scores=(score,), given={TEST: test})
                for (label, score, test), figures in zip(
                    paths,
                    (
                        {"Paper, val": 0.706, "Paper, test": 0.704},
                        {"Paper, val": 0.704, "Paper, test": 0.699, "Released, val": 0.717, "Released, test": 0.723},
                    ),
                    strict=True,
                )
            ),
        ),
        "table5": Table(
            "Table 5: both paths on COCO 2014",
            "The paper's figures are mIoU on COCO 2014 val; the released one is that of the authors' checkpoint. This "
            "run's are of its own data set.",
            (),
            tuple(
                Row(label, {}, figures, scores=(score,))
                for (label, score, _), figures in zip(
                    paths, ({}, {"Paper, val": 0.349, "Released, val": 0.364}), strict=True
                )
            ),
        ),
        "table6": Table(
            "Table 6: share of activations that is not mined, alpha",
            ABLATION,
            OF_LABELS,
            tuple(
                Row(
                    f"alpha {value_label(alpha)}",
                    {"completion": {"method": "activation", "alpha": alpha}},
                    _figure(ALPHAS.get(alpha)),
                    value=alpha,
                )
                for alpha in settings.tables.alphas
            ),
            axis="completion.alpha",
            ordered=True,
        ),
        "table7": Table(
            "Table 7: label makers",
            ABLATION,
            (*OF_LABELS, COVERAGE),
            tuple(
                Row(capitalized(LABEL_METHODS[method].name), overlay, _figure(LABEL_MAKERS.get(method)))
                for method, overlay in of_labels.items()
            ),
            ordered=True,
        ),
        "sweep": _sweep(settings),
        "figure2": Table(
            "Figure 2: class activation maps",
            "Refined maps of one class of each image; the number of a method is the mIoU on train of its maps at their "
            "best threshold.",
            (MAPS,),
            (
                *(Row(label, {"classifier": {"readout": readout}, **cam}) for label, readout in READOUTS.items()),
                # The baselines come before the paper's method, which MAP_METHODS has first.
                *(
                    Row(capitalized(MAP_METHODS[key].name), of_maps[key])
                    for key in reversed(MAP_METHODS)
                    if key != "cam"
                ),
                Row("CNN CAM", cnn),
            ),
        ),
        "figure7": Table(
            "Figure 7: values of maps by how blocks are fused",
            "Raw maps of train, each divided by its maximum.",
            (),
            tuple(Row(fusion, {"maps": {"method": "getam", "fusion": fusion}}) for fusion in FUSIONS),
        ),
    }


def _figure(value: float | None) -> dict[str, float]:
    return {PAPER: value} if value else {}


def value_label(value: Any) -> str:
    """A setting's value in a label: text as it is, 32 for 32.0, other values as JSON."""
    if isinstance(value, str):
        return value
    return repr(value).removesuffix(".0") if isinstance(value, float) else json.dumps(value, default=str)


def _sweep(settings: Config) -> Table:
    path = tuple(settings.sweep.key.split("."))
    scores = tuple(
        score
        for score in SCORES
        if depends_on(score.of, path) and (score != SALIENCY or settings.saliency.source == "train")
    )
    rows = tuple(Row(f"{settings.sweep.key} = {value}", nest({path: value})) for value in settings.sweep.values)
    return Table(f"Sweep of {settings.sweep.key}", "", scores, rows, axis=settings.sweep.key)
