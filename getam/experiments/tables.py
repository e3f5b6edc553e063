"""Definitions of the paper's tables, of the runs that its figures compare, and of sweeps, as data.

A row is the run with an overlay of a few settings; getam.experiments.variants finds which files it shares with other
rows. The paper's figures are fractions of 1, measured under the protocol that the caption names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from getam.experiments.table_scores import PAPER
from getam.experiments.variants import depends_on
from getam.runs.artifacts import Titles, capitalized, common_segmenter_title, of_kind, path_of
from getam.runs.summary import PROTOCOL_TITLES
from getam.settings.completion import LABEL_METHODS
from getam.settings.config import Config
from getam.settings.flags import nest
from getam.settings.maps import MAP_METHODS
from getam.settings.reading import merge


class Score(NamedTuple):
    """A score: a number in a JSON file of a run."""

    heading: str
    file: str
    """Path in the folder of the run."""
    path: tuple[str, ...]
    """Nested keys of the number in the file."""
    of: str
    """Path of the file on whose settings the score depends."""
    round: int = 1
    """The round of the run that it is a score of."""


class Row(NamedTuple):
    """One run of a comparison."""

    label: str
    overlay: Mapping[str, Any]
    """Settings in which the row differs from the run."""
    paper: Mapping[str, float] = {}
    """The paper's figures for the row, by heading."""
    value: float | None = None
    """Value of the setting in which the rows differ, if it is a number."""
    scores: tuple[Score, ...] | None = None
    """Scores of this row in place of the table's."""
    given: Mapping[str, float | None] = {}
    """Scores that were measured elsewhere, by heading."""
    split: str = "train"
    """The split for which the row's maps and pseudo labels are made."""


class Table(NamedTuple):
    """A comparison of runs."""

    title: str
    caption: str
    scores: tuple[Score, ...]
    rows: tuple[Row, ...]
    axis: str = ""
    """The setting that the rows' values belong to; empty if none."""
    ordered: bool = False
    """Whether the paper's figures order the rows, so that the order of this run's scores can be compared."""
    seeds: int = 1
    """Number of seeds with which each row's run is made: its own, and the next ones."""
    full: str = ""
    """Label of the row of full supervision, of whose scores the others' shares are shown; empty if there is none."""
    lines: Literal["runs", "scores"] = "runs"
    """What a line of the table is: a row's run, or a score of the only row's run with its values by seed."""


CLASSIFIER = Score(
    "Classifier mAP, val", path_of("classifier_scores"), ("mean_average_precision",), path_of("classifier")
)
SALIENCY = Score("Saliency MAE, val", path_of("saliency_scores"), ("mae",), path_of("saliency_model"))
MAPS = Score("Maps, best threshold", path_of("label_scores"), ("best_threshold", "miou"), path_of("refined"))
MAPS_AT_FIXED = Score(
    "Maps, fixed threshold", path_of("label_scores"), ("fixed_threshold", "miou"), path_of("label_scores")
)
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
"""All scores that a sweep may change."""
SALIENCY_MEASURES = {"max F": "max_f", "S-measure": "s_measure", "max E": "max_e"}
UNKNOWN_SHARE = COVERAGE._replace(heading="Unknown share", path=("unknown_share",))
PIXEL_ACCURACY = ("pixel_accuracy",)
EVERY_SCORE = (
    CLASSIFIER,
    SALIENCY,
    *(SALIENCY._replace(heading=f"Saliency {name}, val", path=(key,)) for name, key in SALIENCY_MEASURES.items()),
    MAPS,
    MAPS_AT_FIXED,
    *LABELS,
    UNKNOWN_SHARE,
    COVERAGE,
    DEEPLAB._replace(heading="{segmenter} mIoU, val"),
    DEEPLAB._replace(heading="{segmenter} pixel accuracy, val", path=PIXEL_ACCURACY),
    END_TO_END._replace(heading="End to end mIoU, val"),
    END_TO_END._replace(heading="End to end pixel accuracy, val", path=PIXEL_ACCURACY),
)
"""Every score of the first round of a run's summary, in its order."""

VAL, TEST = "val", "test"

BACKBONES = {"ViT": 0.679, "Hybrid": 0.704, "DeiT": 0.66, "DeiT-distilled": 0.697}
"""The paper's figures of table 2, by the names in tables.backbones."""
ALPHAS = {0.85: 0.692, 0.9: 0.704, 0.95: 0.7, 1: 0.689}
"""The paper's figures of table 6, by alpha."""
FUSIONS = ("sum", "product", "matmul")

LABEL_MAKERS = {"activation": 0.704, "rrm": 0.626, "crf": 0.551}
"""The paper's figures of table 7, whose order the table keeps; label methods that the paper lacks follow."""
READOUTS = {"CAM, token ignored": "ignore", "CAM, token added": "add"}

ABLATION = (
    "The paper's figures are the mIoU on VOC 2012 val of the network that is trained end to end; this run's are those "
    "of its pseudo labels on train and of the {segmenter} that is trained on them. Orders can be compared, values "
    "cannot."
)


def definitions(settings: Config) -> dict[str, Table]:
    """All comparisons by their names: table1 to table8, seeds, sweep, figure2 and figure7."""
    return {name: _with_segmenter(define(settings), settings) for name, define in _DEFINITIONS.items()}


def _with_segmenter(table: Table, settings: Config) -> Table:
    """Replaces {segmenter} by the name of the network that the table's runs train on pseudo labels."""
    own = settings.deeplab.architecture
    architectures = (row.overlay.get("deeplab", {}).get("architecture", own) for row in table.rows)
    titles = Titles(common_segmenter_title(architectures))

    def filled(scores: tuple[Score, ...]) -> tuple[Score, ...]:
        return tuple(score._replace(heading=capitalized(titles.fill(score.heading))) for score in scores)

    rows = tuple(row if row.scores is None else row._replace(scores=filled(row.scores)) for row in table.rows)
    return table._replace(caption=titles.fill(table.caption), scores=filled(table.scores), rows=rows)


def _table1(settings: Config) -> Table:
    return Table(
        "Table 1: pseudo labels",
        "The paper's figures are the mIoU of pseudo labels on VOC 2012 train and val, where its authors leave pixels "
        "without a label out. In this run, train is the whole split that its networks are trained on, with SBD's "
        "images if it has them; the pseudo labels of val are made by the networks that were trained on train.",
        (MAPS, *LABELS, COVERAGE),
        (Row("train", {}, {PAPER: 0.696}), Row("val", {}, {PAPER: 0.667}, split="val")),
    )


def _table2(settings: Config) -> Table:
    return Table(
        "Table 2: backbones, trained end to end",
        "The paper's figures are the mIoU on VOC 2012 val, each backbone with ImageNet's weights. Networks that "
        "are trained from scratch differ in their architecture alone: a DeiT is then a ViT.",
        (END_TO_END,),
        tuple(
            Row(name, {"end_to_end": overlay}, _figure(BACKBONES.get(name)))
            for name, overlay in settings.tables.backbones.items()
        ),
        ordered=True,
        seeds=settings.tables.row_seeds,
    )


def _table3(settings: Config) -> Table:
    getam, cam, cnn = _maps("getam"), _maps("cam"), _cnn_maps(settings)
    completion, crf = _labels("activation"), _labels("crf")
    completion_name, crf_name = LABEL_METHODS["activation"].name, LABEL_METHODS["crf"].name
    return Table(
        "Table 3: maps and label makers",
        ABLATION,
        (MAPS, *OF_LABELS),
        (
            Row(f"GETAM + {completion_name}", getam | completion, {PAPER: 0.704}),
            Row(f"GETAM + {crf_name}", getam | crf, {PAPER: 0.551}),
            Row(f"ViT CAM + {completion_name}", cam | completion, {PAPER: 0.553}),
            Row(f"ViT CAM + {crf_name}", cam | crf),
            Row(f"CNN CAM + {completion_name}", cnn | completion, {PAPER: 0.647}),
            Row(f"CNN CAM + {crf_name}", cnn | crf),
        ),
        ordered=True,
        seeds=settings.tables.row_seeds,
    )


def _table4(settings: Config) -> Table:
    test = settings.tables.test_miou
    return Table(
        "Table 4: both paths on PASCAL VOC 2012",
        "The paper's figures are the mIoU on VOC 2012 val and, by its evaluation server, on test; the released ones "
        "are those of the authors' checkpoint. This run's scores are of its own data set; those of test are taken "
        "from tables.test_miou.",
        (),
        (
            Row(
                "Multi-stage",
                {},
                {"Paper, val": 0.706, "Paper, test": 0.704},
                scores=(DEEPLAB._replace(heading=VAL),),
                given={TEST: test.multi_stage},
            ),
            Row(
                "End to end",
                {},
                {"Paper, val": 0.704, "Paper, test": 0.699, "Released, val": 0.717, "Released, test": 0.723},
                scores=(END_TO_END._replace(heading=VAL),),
                given={TEST: test.end_to_end},
            ),
        ),
    )


def _table5(settings: Config) -> Table:
    return Table(
        "Table 5: both paths on COCO 2014",
        "The paper's figures are the mIoU on COCO 2014 val; the released one is that of the authors' checkpoint. This "
        "run's scores are of its own data set.",
        (),
        (
            Row("Multi-stage", {}, scores=(DEEPLAB._replace(heading=VAL),)),
            Row(
                "End to end",
                {},
                {"Paper, val": 0.349, "Released, val": 0.364},
                scores=(END_TO_END._replace(heading=VAL),),
            ),
        ),
    )


def _table6(settings: Config) -> Table:
    return Table(
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
        seeds=settings.tables.row_seeds,
    )


def _table7(settings: Config) -> Table:
    return Table(
        "Table 7: label makers",
        ABLATION,
        (*OF_LABELS, COVERAGE),
        tuple(
            Row(capitalized(LABEL_METHODS[method].name), _labels(method), _figure(LABEL_MAKERS.get(method)))
            for method in LABEL_MAKERS | LABEL_METHODS
        ),
        ordered=True,
        seeds=settings.tables.row_seeds,
    )


FULL = "F: ground truth"
"""The row of table 8 whose segmenter learns from masks."""


def _table8(settings: Config) -> Table:
    second = max(2, settings.rounds)
    of_first = (MAPS, *LABELS[:2], UNKNOWN_SHARE, DEEPLAB)
    # The end-to-end network makes its own maps and labels, and has no rounds.
    of_both = (*of_first, END_TO_END)
    of_last = tuple(score if score is MAPS else score._replace(round=second) for score in of_first)
    completion, bands = LABEL_METHODS["activation"].name, LABEL_METHODS["bands"].name
    kinds = {
        f"I+S: GETAM + {completion}": _in_both({"completion": {"method": "activation"}}),
        f"I: GETAM + {bands}": merge(
            _in_both({"completion": {"method": "bands"}}), {"end_to_end": {"saliency_weight": 0}}
        ),
    }
    rows: list[Row] = []
    for label, labels in kinds.items():
        kind = label.partition(":")[0]
        if kind != "I" and settings.saliency.source == "none":
            continue
        plain = merge(labels, _in_both({"maps": {"propagation": "none"}}))
        propagated = merge(settings.tables.propagated, labels)
        rows += [
            Row(label, plain | {"rounds": 1}, scores=of_both),
            Row(f"{kind}: + propagation", propagated | {"rounds": 1}, scores=of_both),
            Row(f"{kind}: + {second} rounds", propagated | {"rounds": second}, scores=of_last),
        ]
    rows.append(Row(FULL, {"deeplab": {"labels": "truth"}, "rounds": 1}, scores=(DEEPLAB,)))
    return Table(
        "Table 8: beyond the paper",
        "Each row changes one thing of the row before, on the same classifier: I image labels alone, I+S with "
        "saliency, F masks. With F the same segmenter learns from the ground truth of those train images that have it.",
        (),
        tuple(rows),
        seeds=settings.tables.row_seeds,
        full=FULL,
    )


def _in_both(overlay: Mapping[str, Any]) -> dict[str, Any]:
    """An overlay of maps or labels, for the multi-stage path and for the end-to-end network's own."""
    return {**overlay, "end_to_end": dict(overlay)}


def _of_rounds(scores: tuple[Score, ...], settings: Config) -> tuple[Score, ...]:
    """Those of the scores that each round of the run has anew, of its further rounds."""
    return tuple(
        score._replace(heading=f"{score.heading}, round {number}", round=number)
        for number in range(2, settings.rounds + 1)
        for score in scores
        if score.of in (path_of("pseudo_labels"), path_of("deeplab_scores"))
    )


def _seeds(settings: Config) -> Table:
    count = settings.tables.seeds
    trainings = settings.trainings()
    trained = [artifact.title for artifact in of_kind("training") if artifact.section in trainings]
    saliency_is_trained = "saliency" in trainings
    return Table(
        f"Scores over {count} seeds",
        f"The run {settings.run} is made with {count} seeds: each of its trainings ({', '.join(trained)}) takes the "
        "seed of its section, and then the next ones. What no seed touches is made once."
        + ("" if saliency_is_trained else " The run trains no saliency network, so that it has no score of one."),
        tuple(
            score
            for score in (*EVERY_SCORE, *_of_rounds(EVERY_SCORE, settings))
            if score.file != SALIENCY.file or saliency_is_trained
        ),
        (Row(settings.run, {}),),
        seeds=count,
        lines="scores",
    )


def _sweep(settings: Config) -> Table:
    path = tuple(settings.sweep.key.split("."))
    # Each other setting is swept at the best threshold alone.
    thresholds = (MAPS_AT_FIXED,) if path[0] == "score_labels" else ()
    scores = tuple(
        score
        for score in (*thresholds, *SCORES, *_of_rounds(SCORES, settings))
        if depends_on(score.of, path, round=score.round) and (score != SALIENCY or settings.saliency.source == "train")
    )
    rows = tuple(Row(f"{settings.sweep.key} = {value}", nest({path: value})) for value in settings.sweep.values)
    return Table(
        f"Sweep of {settings.sweep.key}", "", scores, rows, axis=settings.sweep.key, seeds=settings.tables.row_seeds
    )


def _figure2(settings: Config) -> Table:
    # The baselines come before the paper's method, which is the first of MAP_METHODS.
    methods = [method for method in reversed(MAP_METHODS) if method != "cam"]
    return Table(
        "Figure 2: class activation maps",
        "Refined maps of one class of each image. The number at a method is the mIoU on train of its maps at their "
        "best threshold.",
        (MAPS,),
        (
            *(Row(label, {"classifier": {"readout": readout}} | _maps("cam")) for label, readout in READOUTS.items()),
            *(Row(capitalized(MAP_METHODS[method].name), _maps(method)) for method in methods),
            Row("CNN CAM", _cnn_maps(settings)),
        ),
    )


def _figure7(settings: Config) -> Table:
    return Table(
        "Figure 7: values of maps by how blocks are fused",
        "Raw maps of train, each divided by its maximum.",
        (),
        tuple(Row(fusion, {"maps": {"method": "getam", "fusion": fusion}}) for fusion in FUSIONS),
    )


_DEFINITIONS: dict[str, Callable[[Config], Table]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    "table5": _table5,
    "table6": _table6,
    "table7": _table7,
    "table8": _table8,
    "seeds": _seeds,
    "sweep": _sweep,
    "figure2": _figure2,
    "figure7": _figure7,
}
"""Name of a comparison -> its definition, in which {segmenter} stands for the network trained on pseudo labels."""


def _maps(method: str) -> dict[str, Any]:
    """The overlay for the maps of a method."""
    return {"maps": {"method": method}}


def _cnn_maps(settings: Config) -> dict[str, Any]:
    """The overlay for the CAM of a CNN."""
    return {"classifier": settings.tables.cnn} | _maps("cam")


def _labels(method: str) -> dict[str, Any]:
    """The overlay for the pseudo labels of a method."""
    return {"completion": {"method": method}}


def _figure(value: float | None) -> dict[str, float]:
    """The paper's figure of a row; empty if the paper has none."""
    return {PAPER: value} if value else {}


def value_label(value: Any) -> str:
    """A setting's value in a label: text as it is, 32 for 32.0, other values as JSON."""
    if isinstance(value, str):
        return value
    return repr(value).removesuffix(".0") if isinstance(value, float) else json.dumps(value, default=str)
