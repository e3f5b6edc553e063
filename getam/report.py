"""Every score of a run in one place: summary.json, summary.md, summary.html and the table on the terminal.

The scores are what the evaluating stages left in their JSON files, as fractions of 1; nothing is computed
here. A run that took only one of the two paths has no files of the other, whose section is then left out.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from getam.errors import InputError
from getam.files import read_json
from getam.run_folder import Run

PROTOCOLS = {
    "excluded": "left out",
    "background": "as background",
    "wrong": "as wrong",
}
"""What each protocol does with a pixel that is predicted as 255, in the order of the report."""

ABSENT = "-"


@dataclass(frozen=True)
class ScoreRow:
    """One score with its protocol, each field as it is shown."""

    score: str
    value: str
    split: str
    images: str = ABSENT
    unknown: str = ABSENT
    inference: str = ABSENT
    supervision: str = ABSENT


HEADINGS = ("Score", "Value", "Split", "Images", "Predicted 255", "Inference", "Supervision")


@dataclass(frozen=True)
class Measured:
    """One score as a number, beside the row that shows it.

    `classes` has what the score is the mean of, None for a class that nothing says anything about. `inference` is
    the row's, without what is found rather than set, as the best threshold is.
    """

    row: ScoreRow
    number: float | None
    classes: Mapping[str, float | None] = field(default_factory=dict)
    inference: str = ABSENT

    @property
    def protocol(self) -> dict[str, str]:
        """What two scores have to share to be compared, by the headings of the table."""
        shared = (self.row.split, self.row.images, self.row.unknown, self.inference, self.row.supervision)
        return dict(zip(HEADINGS[2:], shared, strict=True))


def summarize(run: Run) -> dict[str, Any]:
    """Gathers the scores of the run in folder `run` into one nested dict: the content of summary.json.

    Sections: classifier, saliency, pseudo_labels, deeplab, end_to_end, each only where the run has its file.
    A key starts with the split that it was measured on, as in `deeplab.val_miou` and
    `pseudo_labels.train_miou.excluded`. All scores lie in [0, 1]; the IoU of a class is None where
    neither ground truth nor prediction contain it.
    Raises InputError, naming the file and the key, for a file that lacks one.
    """
    summary = {}
    for section, (name, read) in _SECTIONS.items():
        path = run / name
        if not path.exists():
            continue
        try:
            summary[section] = read(read_json(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: not the scores that its stage writes ({error}); delete it and run the stage again"
            ) from None
    return summary


def _classifier(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split = metrics["split"]
    return {
        "split": split,
        "images": metrics["images"],
        "supervision": metrics.get("supervision", "I"),
        "image_labels": metrics.get("image_labels"),
        f"{split}_map": metrics["mean_average_precision"],
        f"{split}_average_precision": metrics["average_precision"],
    }


def _saliency(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "split": "val",
        "images": metrics["images"],
        "val_mae": metrics["mae"],
        "val_max_f": metrics["max_f"],
        "val_s_measure": metrics["s_measure"],
        "val_max_e": metrics["max_e"],
    }


def _pseudo_labels(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split, protocols = metrics["split"], metrics["protocols"]
    return {
        "split": split,
        "images": metrics["images"],
        "supervision": metrics["supervision"],
        "maps_supervision": metrics.get("maps_supervision", "I"),
        "image_labels": metrics.get("image_labels"),
        f"{split}_miou": {protocol: protocols[protocol]["miou"] for protocol in PROTOCOLS},
        f"{split}_iou": {protocol: protocols[protocol]["iou"] for protocol in PROTOCOLS},
        "unknown_share": metrics["unknown_share"],
        "coverage": metrics["coverage"],
        "best_threshold": metrics["best_threshold"],
    }


def _segmentation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split, protocol = metrics["split"], metrics["protocol"]
    return {
        "split": split,
        "images": metrics["images"],
        f"{split}_miou": metrics["miou"],
        f"{split}_iou": metrics["iou"],
        f"{split}_pixel_accuracy": metrics["pixel_accuracy"],
        "protocol": {
            **{key: protocol[key] for key in ("scales", "squares", "flip", "crf", "supervision")},
            **{key: protocol.get(key) for key in ("architecture", "image_labels")},
        },
    }


_SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "classifier": ("classifier/metrics.json", _classifier),
    "saliency": ("saliency_model/metrics.json", _saliency),
    "pseudo_labels": ("pseudo_labels.json", _pseudo_labels),
    "deeplab": ("deeplab/metrics.json", _segmentation),
    "end_to_end": ("end_to_end/metrics.json", _segmentation),
}

_SEGMENTERS = {"deeplab": "DeepLab", "end_to_end": "End to end"}
ARCHITECTURES = {"deeplabv3plus": "DeepLabV3+", "upernet": "UPerNet", "segformer": "SegFormer"}
"""Networks in the place of DeepLabv2, as they are shown."""


def score_rows(summary: Mapping[str, Any]) -> list[ScoreRow]:
    """The scores of `summarize` in the order of the workflow, values with three decimals."""
    return [measured.row for measured in measured_scores(summary)]


def measured_scores(summary: Mapping[str, Any]) -> list[Measured]:
    """The scores of `summarize` in the order of the workflow."""
    scores = []
    if classifier := summary.get("classifier"):
        split, images = classifier["split"], str(classifier["images"])
        supervision = describe_supervision(classifier["supervision"], classifier)
        number = classifier[f"{split}_map"]
        row = ScoreRow("Classifier mAP", three_decimals(number), split, images, supervision=supervision)
        scores.append(Measured(row, number, classifier[f"{split}_average_precision"]))
    if saliency := summary.get("saliency"):
        split, images = saliency["split"], str(saliency["images"])
        for score, key in {"MAE": "mae", "max F": "max_f", "S-measure": "s_measure", "max E": "max_e"}.items():
            number = saliency[f"{split}_{key}"]
            scores.append(Measured(ScoreRow(f"Saliency {score}", three_decimals(number), split, images), number))
    if labels := summary.get("pseudo_labels"):
        scores.extend(_pseudo_label_scores(labels))
    for title, section in _segmenters(summary):
        split, images, protocol = section["split"], str(section["images"]), section["protocol"]
        inference, supervision = describe_inference(protocol), describe_supervision(protocol["supervision"], protocol)
        for score, key in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy")):
            number = section[f"{split}_{key}"]
            row = ScoreRow(
                f"{title} {score}", three_decimals(number), split, images, inference=inference, supervision=supervision
            )
            classes = section[f"{split}_iou"] if key == "miou" else {}
            scores.append(Measured(row, number, classes, inference))
    return scores


def _segmenters(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Title and scores of each network that segments."""
    for section, title in _SEGMENTERS.items():
        if scores := summary.get(section):
            yield ARCHITECTURES.get(scores["protocol"]["architecture"], title), scores


def _pseudo_label_scores(labels: Mapping[str, Any]) -> Iterator[Measured]:
    split, images = labels["split"], str(labels["images"])
    supervision = describe_supervision(labels["supervision"], labels)
    if best := labels["best_threshold"]:
        # Neither completion nor saliency in this one, and the ground truth chose the threshold: an upper
        # bound of what a threshold on the maps can give.
        chosen = f"the best on {split}"
        used = describe_supervision(labels["maps_supervision"], labels)
        inference = f"threshold {best['threshold']:.2f}, {chosen}"
        row = ScoreRow("Maps mIoU", three_decimals(best["miou"]), split, images, inference=inference, supervision=used)
        yield Measured(row, best["miou"], inference=f"threshold: {chosen}")
    for protocol, meaning in PROTOCOLS.items():
        number = labels[f"{split}_miou"][protocol]
        row = ScoreRow(
            "Pseudo labels mIoU", three_decimals(number), split, images, unknown=meaning, supervision=supervision
        )
        yield Measured(row, number, labels[f"{split}_iou"][protocol])
    for score, key in (("unknown share", "unknown_share"), ("coverage", "coverage")):
        row = ScoreRow(f"Pseudo labels {score}", three_decimals(labels[key]), split, images, supervision=supervision)
        yield Measured(row, labels[key])


def describe_supervision(used: str, scores: Mapping[str, Any]) -> str:
    """What the networks learned from, and where the image labels among it come from: "I+S (annotations)"."""
    source = scores.get("image_labels")
    return f"{used} ({source})" if source else used


def describe_inference(protocol: Mapping[str, Any]) -> str:
    """How a network's predictions were made, from what its scores say: "scale 1, flip, no CRF"."""
    key = "squares" if protocol["squares"] else "scales"
    sizes = protocol[key]
    parts = [f"{key[:-1] if len(sizes) == 1 else key} " + " ".join(f"{size:g}" for size in sizes)]
    parts += ["flip"] if protocol["flip"] else []
    parts += ["CRF" if protocol["crf"] else "no CRF"]
    return ", ".join(parts)


def scores_table(summary: Mapping[str, Any]) -> str:
    """The scores as an aligned table of plain text, without a line feed at its end."""
    return aligned_table(HEADINGS, [astuple(row) for row in score_rows(summary)], right={1, 3})


def aligned_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: set[int]) -> str:
    """A table of plain text, the columns `right` (counted from 0) flush right, without a line feed at its end."""
    table = [headings, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def summary_markdown(summary: Mapping[str, Any], run_name: str) -> str:
    """The content of summary.md: the scores with their protocols, and the IoU of each class."""
    scores = [astuple(row) for row in score_rows(summary)]
    lines = [f"# Scores of the run {escape(run_name)}", ""]
    if not scores:
        return "\n".join([*lines, "No stage has written a score yet.", ""])
    lines += [
        "All scores are fractions of 1. Ground truth 255 is ignored, one confusion matrix is summed over all",
        "images at their original size, and the mIoU is the mean over the classes and the background.",
        "Supervision: I image labels, S saliency, V a person's verdicts on pseudo labels, F pixel labels (of",
        "pretrained weights); in brackets where the image labels come from.",
        "",
        *markdown_table(HEADINGS, scores, right={1, 3}),
    ]
    columns = _iou_columns(summary)
    if columns:
        names = list(dict.fromkeys(name for ious in columns.values() for name in ious))
        rows = [(name, *(three_decimals(ious.get(name)) for ious in columns.values())) for name in names]
        right = set(range(1, len(columns) + 1))
        lines += ["", "## IoU of each class", "", *markdown_table(("Class", *columns), rows, right=right)]
    return "\n".join([*lines, ""])


def summary_html(summary: Mapping[str, Any], run_name: str) -> str:
    """The content of summary.html: as summary.md, for Snakemake's report, which shows no Markdown."""
    scores = [astuple(row) for row in score_rows(summary)]
    parts = [html_table(HEADINGS, scores, right={1, 3})]
    if columns := _iou_columns(summary):
        names = dict.fromkeys(name for ious in columns.values() for name in ious)
        rows = [(name, *(three_decimals(ious.get(name)) for ious in columns.values())) for name in names]
        right = set(range(1, len(columns) + 1))
        parts += ["<h2>IoU of each class</h2>", html_table(("Class", *columns), rows, right=right)]
    return html_page(f"Scores of the run {run_name}", parts)


def html_page(title: str, parts: Sequence[str]) -> str:
    """A page of parts that are HTML, in a plain style, with its title above them."""
    title = html.escape(title)
    style = "body{font:14px sans-serif;margin:16px}td,th{padding:2px 12px;text-align:left;border-bottom:1px solid #ddd}"
    style += "table{border-collapse:collapse}.right{text-align:right}h1{font-size:18px}h2{font-size:16px}"
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{style}</style>'
    return "\n".join([head, f"<h1>{title}</h1>", *parts, ""])


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: set[int]) -> str:
    """A table; cells may hold any text, and the columns numbered in `right` are set to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        marks = (' class="right"' if column in right else "" for column in range(len(cells)))
        texts = (html.escape(cell) for cell in cells)
        return "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in zip(marks, texts, strict=True))

    lines = [line(headings, "th"), *(line(cells, "td") for cells in rows)]
    return "<table>\n" + "\n".join(f"<tr>{cells}</tr>" for cells in lines) + "\n</table>"


def _iou_columns(summary: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """Heading -> IoU by class, of the run's label sources."""
    columns = {}
    if labels := summary.get("pseudo_labels"):
        for protocol in ("excluded", "background"):
            heading = f"Pseudo labels ({labels['split']}, 255 {PROTOCOLS[protocol]})"
            columns[heading] = labels[f"{labels['split']}_iou"][protocol]
    for title, scores in _segmenters(summary):
        columns[f"{title} ({scores['split']})"] = scores[f"{scores['split']}_iou"]
    return columns


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: set[int]) -> list[str]:
    """A table's lines; cells may hold any text, and the columns numbered in `right` are set to the right."""
    rules = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [[escape(heading) for heading in headings], rules]
    lines += [[escape(cell) for cell in cells] for cells in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def escape(text: str) -> str:
    """Text on one line that adds no markup, tag or table cell: class names come from the data set."""
    # Character references do this in every dialect; what a backslash escapes differs between them.
    text = " ".join(text.split()).replace("&", "&amp;")
    return "".join(f"&#{ord(character)};" if character in r"|`<>*[]\~$" else character for character in text)


def three_decimals(value: float | None) -> str:
    """A score as it is shown everywhere: three decimals, or what stands for none."""
    return ABSENT if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign; no sign where three decimals show none."""
    if value is None:
        return ABSENT
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"
