"""Writes image labels in every form that getam new reads, into a folder of photographs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

Labels = Mapping[str, Sequence[str]]
"""Path of a photograph below its folder -> the classes that it shows; a photograph without an entry is unlabelled."""


def write_photograph(path: Path, *, seed: int = 0, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_photographs(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        write_photograph(folder / name, seed=number)


def _rows(path: Path, rows: Sequence[Sequence[str]], *, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def _classes(labels: Labels) -> list[str]:
    return sorted({name for names in labels.values() for name in names})


def write_names(folder: Path, labels: Labels) -> None:
    _rows(folder / "labels.csv", [("path", "labels"), *((path, ";".join(names)) for path, names in labels.items())])


def write_names_in_quotes(folder: Path, labels: Labels) -> None:
    rows = [(str(Path(path).with_suffix("")), ", ".join(names)) for path, names in labels.items()]
    _rows(folder / "labels.csv", [("id", "tags"), *rows])


def write_names_with_bars(folder: Path, labels: Labels) -> None:
    _rows(
        folder / "labels.tsv",
        [("file", "class"), *((path, "|".join(names)) for path, names in labels.items())],
        delimiter="\t",
    )


def write_a_row_a_label(folder: Path, labels: Labels) -> None:
    rows = [(path, name) for path, names in labels.items() for name in (*names, *names[:1]) or ("",)]
    _rows(folder / "labels.csv", [("image", "label"), *rows], delimiter=";")


def write_a_column_a_class(folder: Path, labels: Labels) -> None:
    classes = _classes(labels)
    rows = [(path, *(str(int(name in names)) for name in classes)) for path, names in labels.items()]
    _rows(folder / "labels.csv", [("path", *classes), *rows])


def write_labelme_flags(folder: Path, labels: Labels) -> None:
    for path, names in labels.items():
        flags = {name: name in names for name in _classes(labels)}
        content = {"version": "5.5", "flags": flags, "shapes": [], "imagePath": Path(path).name, "imageData": None}
        (folder / path).with_suffix(".json").write_text(json.dumps(content))


def write_labelme_shapes(folder: Path, labels: Labels) -> None:
    for path, names in labels.items():
        shapes = [
            {"label": name, "points": [[0, 0], [3, 4]], "shape_type": "rectangle", "flags": {}}
            for name in (*names, *names)
        ]
        content = {"version": "5.5", "flags": {}, "shapes": shapes, "imagePath": f"../elsewhere/{path}"}
        (folder / path).with_suffix(".json").write_text(json.dumps(content))


def write_coco(folder: Path, labels: Labels) -> None:
    classes = {name: 7 * number for number, name in enumerate(reversed(_classes(labels)), start=1)}
    content = {
        "images": [
            {"id": number, "file_name": f"images/{path}", "height": 12, "width": 16}
            for number, path in enumerate(labels)
        ],
        "annotations": [
            {"id": 100 * number + extra, "image_id": number, "category_id": classes[name], "bbox": [0, 0, 4, 4]}
            for number, names in enumerate(labels.values())
            for extra, name in enumerate([*names, *names])
        ],
        "categories": [{"id": id, "name": name} for name, id in classes.items()],
    }
    (folder / "exported by something.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_voc(folder: Path, labels: Labels) -> None:
    for path, names in labels.items():
        objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
        xml = (folder / path).with_suffix(".xml")
        xml.write_text(f"<annotation><filename>other.jpg</filename>{objects}</annotation>", encoding="utf-8")


def write_label_studio(folder: Path, labels: Labels) -> None:
    def task(number: int, path: str, names: Sequence[str]) -> dict[str, object]:
        choices = {"type": "choices", "from_name": "choice", "to_name": "image", "value": {"choices": [*names]}}
        boxes = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": [*names[:1]]}}
        results = [choices, boxes, {"type": "rating", "value": {"rating": 3}}] if names else []
        skipped = {"was_cancelled": True, "result": []}
        image = f"/data/local-files/?d=store/{path}"
        return {"id": number, "data": {"image": image}, "annotations": [{"result": results}, skipped]}

    content = [task(number, path, names) for number, (path, names) in enumerate(labels.items())]
    (folder / "project-1.json").write_text(json.dumps(content))


def write_cvat(folder: Path, labels: Labels) -> None:
    meta = "".join(f"<label><name>{name}</name><type>tag</type></label>" for name in _classes(labels))
    images = []
    for number, (path, names) in enumerate(labels.items()):
        tags = "".join(f'<tag label={quoteattr(name)} source="manual"></tag>' for name in names[:1])
        boxes = "".join(f'<box label={quoteattr(name)} xtl="1" ytl="1" xbr="3" ybr="3"/>' for name in names[1:])
        images.append(f'<image id="{number}" name={quoteattr(path)} width="16" height="12">{tags}{boxes}</image>')
    text = f"<annotations><version>1.1</version><meta><task><labels>{meta}</labels></task></meta>{''.join(images)}"
    (folder / "annotations.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>{text}</annotations>')


FORMS: dict[str, Callable[[Path, Labels], None]] = {
    "names": write_names,
    "names in quotes": write_names_in_quotes,
    "names with bars": write_names_with_bars,
    "a row a label": write_a_row_a_label,
    "a column a class": write_a_column_a_class,
    "labelme flags": write_labelme_flags,
    "labelme shapes": write_labelme_shapes,
    "COCO": write_coco,
    "VOC": write_voc,
    "Label Studio": write_label_studio,
    "CVAT": write_cvat,
}
"""The forms of files, each with a function that writes labels in it into the folder of the photographs."""
