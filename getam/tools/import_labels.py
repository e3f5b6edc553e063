"""Reads labels that a person has corrected in an annotation program, as label PNGs for completion.corrected."""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import Field

from getam.datasets.annotations.matching import DRIVE, ImageNameError, MissingImageError, NamedImages
from getam.datasets.class_names import read_lines
from getam.datasets.coco import Annotation, semantic_mask
from getam.datasets.documents import read_json_document
from getam.datasets.index import Index, IndexRow, read_index
from getam.errors import InputError
from getam.labels.corrections import files_of_index, read_correction
from getam.labels.outlines import BACKGROUND_NAME, LABEL_MAP, UNKNOWN_NAME, Outline, painted, value_of_name
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder
from getam.system.image_files import UNKNOWN, read_image, write_labels

MOST_POINTS = 100_000
"""Most corners of an outline."""

FURTHEST = 1_000_000
"""Largest coordinate of a corner, in pixels; the painting's integers hold it."""

BYTES = np.array([2**16, 2**8, 1], np.uint32)
"""The number of a color is the sum of its red, green and blue times these."""

logger = logging.getLogger(__name__)

Labels = Iterator[tuple[IndexRow, np.ndarray]]


class Arguments(MachineArguments):
    """Write <id>.png, label values 0..C and 255, from labelme's files, COCO's JSON, or VOC's masks of CVAT.

    The other way round is export-labels.
    """

    labels: Path = Field(
        description="folder of labelme's <id>.json, of label PNGs <id>.png, or with SegmentationClass and "
        f"{LABEL_MAP}; or a .json of COCO's form",
        json_schema_extra=POSITIONAL,
    )
    index: Path = Field(description="index.csv")
    out: Path = Field(description="folder to write, for completion.corrected")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    index = read_index(arguments.index)
    source = arguments.labels
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; name what the annotation program has written")
    read: Callable[[Path, Index], Labels]
    if source.is_file():
        read = _read_coco
    elif (source / "SegmentationClass").is_dir():
        read = _read_voc
    elif any(source.glob("*.json")):
        read = _read_labelme
    else:
        read = _read_masks
    written = 0
    with atomic_folder(arguments.out) as folder:
        for row, labels in read(source, index):
            write_labels(folder / f"{row.id}.png", labels)
            written += 1
        if not written:
            raise InputError(f"{source}: holds no labels of an image of {arguments.index}; name another folder")
    logger.info("%s: labels of %d images; name the folder in completion.corrected", arguments.out, written)


def _read_masks(folder: Path, index: Index) -> Labels:
    seen: set[int] = set()
    for id, path in files_of_index(folder, ".png", index).items():
        row = index.by_id[id]
        labels = read_correction(path, row, len(index.classes))
        seen.update(np.unique(labels).tolist())
        yield row, labels
    if UNKNOWN in seen <= {0, UNKNOWN}:
        raise InputError(
            f"{folder}: no file shows a class, only {' and '.join(map(str, sorted(seen)))}; write the value of its "
            f"class into an object's pixels ({index.classes[0]} is 1; {UNKNOWN} is unknown)"
        )


def _check_size(height: Any, width: Any, row: IndexRow, where: str) -> None:
    """Refuses outlines that were drawn on an image of another size, if the file says so.

    Raises:
        InputError: the size is not the one in the index.
    """
    if height is not None and width is not None and (height, width) != (row.height, row.width):
        raise InputError(
            f"{where}: was drawn on an image of {reprlib.repr(width)}x{reprlib.repr(height)} pixels, and {row.image} "
            f"has {row.width}x{row.height} (width x height); draw it on the photograph itself"
        )


def _value(name: Any, index: Index, where: str) -> int:
    value = value_of_name(name, index.classes) if isinstance(name, str) else None
    if value is None:
        raise InputError(
            f"{where}: label {reprlib.repr(name)} is none of the classes {', '.join(index.classes)}, nor "
            f"{BACKGROUND_NAME} or {UNKNOWN_NAME}; correct it"
        )
    return value


def _read_labelme(folder: Path, index: Index) -> Labels:
    for id, path in files_of_index(folder, ".json", index).items():
        row = index.by_id[id]
        content = read_json_document(path)
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            raise InputError(f"{path}: is no file of labelme's, which has shapes; remove it")
        _check_size(content.get("imageHeight"), content.get("imageWidth"), row, str(path))
        drawn = [_outline(shape, index, f"{path}, shape {number}") for number, shape in enumerate(shapes, start=1)]
        yield row, painted(drawn, (row.height, row.width))


def _outline(shape: Any, index: Index, where: str) -> Outline:
    if not isinstance(shape, dict):
        raise InputError(f"{where}: is no shape; save the file in labelme again")
    value = _value(shape.get("label"), index, where)
    points, kind = shape.get("points"), shape.get("shape_type", "polygon")
    if not _are_points(points):
        raise InputError(f"{where}: its points are no list of up to {MOST_POINTS} pairs of numbers; draw it again")
    corners = np.array(points, np.float64).reshape(-1, 2)
    if kind == "rectangle" and len(corners) == 2:
        (left, top), (right, bottom) = corners
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind != "polygon":
        raise InputError(f"{where}: is a {reprlib.repr(kind)}; regions are drawn as polygons or rectangles")
    return Outline(value, corners)


def _are_points(points: Any) -> bool:
    return (
        isinstance(points, list)
        and 0 < len(points) <= MOST_POINTS
        and all(
            isinstance(point, list)
            and len(point) == 2
            and all(
                isinstance(number, int | float) and not isinstance(number, bool) and -FURTHEST <= number <= FURTHEST
                for number in point
            )
            for point in points
        )
    )


def _read_voc(folder: Path, index: Index) -> Labels:
    # By a color's number: its label value, and whether it has one.
    table, is_known = np.zeros(2**24, np.uint8), np.zeros(2**24, bool)
    for color, value in _colors(folder / LABEL_MAP, index).items():
        table[BYTES @ color], is_known[BYTES @ color] = value, True
    for id, path in files_of_index(folder / "SegmentationClass", ".png", index).items():
        row = index.by_id[id]
        pixels = read_image(path)
        if pixels.shape[:2] != (row.height, row.width):
            raise InputError(
                f"{path}: size {pixels.shape[:2]} is not the image's {(row.height, row.width)} (H, W); export it again"
            )
        labels, unknown = np.empty(pixels.shape[:2], np.uint8), set[int]()
        # A row at a time, since the colors of a large mask take many times its own size.
        for line, colors in zip(labels, pixels, strict=True):
            numbers = colors.astype(np.uint32) @ BYTES
            unknown.update(numbers[~is_known[numbers]].tolist())
            line[:] = table[numbers]
        if unknown:
            color = tuple(min(unknown).to_bytes(3))
            raise InputError(f"{path}: holds the color {color}, which is not in {LABEL_MAP}; export both again")
        yield row, labels


def _colors(path: Path, index: Index) -> dict[tuple[int, ...], int]:
    """The label value of each color that a labelmap.txt lists."""
    values: dict[tuple[int, ...], int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        # A class's name may hold colons.
        parts = line.rsplit(":", 3)
        try:
            name, color = parts[0], tuple(int(level) for level in parts[1].split(","))
        except (IndexError, ValueError):
            raise InputError(f"{where}: is not name:red,green,blue:parts:actions; export it again") from None
        if len(color) != 3 or color in values or not all(0 <= level <= 255 for level in color):
            raise InputError(
                f"{where}: the color {reprlib.repr(color)} is no triple of 0 to 255, or stands there twice; export it "
                "again"
            )
        values[color] = 0 if name == "background" else _value(name, index, where)
    return values


def _read_coco(source: Path, index: Index) -> Labels:
    content = read_json_document(source)
    photographs = _Photographs(index)
    rows: dict[Any, IndexRow] = {}
    taken: set[str] = set()
    try:
        names = {each["id"]: each["name"] for each in content["categories"]}
        for each in content["images"]:
            row = photographs.row(each["file_name"], source)
            where = f"{source}, image {reprlib.repr(each['file_name'])}"
            if each["id"] in rows or row.id in taken:
                raise InputError(f"{where}: stands there twice, or has the id of another image; leave one of them")
            _check_size(each.get("height"), each.get("width"), row, where)
            rows[each["id"]] = row
            taken.add(row.id)
        drawn: dict[Any, list[Annotation]] = {id: [] for id in rows}
        for number, each in enumerate(content["annotations"], start=1):
            where = f"{source}, annotation {number}"
            value = _value(names[each["category_id"]], index, where)
            annotation = Annotation(number, value, False, each.get("segmentation"))
            if not annotation.is_outlined:
                raise InputError(f"{where}: has no outline; draw one, or take it off")
            drawn[each["image_id"]].append(annotation)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source}: is not of COCO's form ({type(error).__name__}: {error}); export it again"
        ) from None
    values = {value: value for value in range(UNKNOWN + 1)}
    for id, row in rows.items():
        yield row, semantic_mask(drawn[id], values, (row.height, row.width), source=source)


class _Photographs:
    """The photographs of an index, by what files of annotations call them."""

    def __init__(self, index: Index) -> None:
        self._rows = {PurePosixPath(os.path.abspath(row.image)): row for row in index.rows}
        paths = {path.relative_to("/"): row.id for path, row in self._rows.items()}
        self._named = NamedImages(Path("/"), [*paths], ids=paths)

    def row(self, text: Any, source: Path) -> IndexRow:
        """The row of a path, a file's name or an id.

        Raises:
            InputError: it names no photograph, or several.
        """
        path = PurePosixPath(DRIVE.sub("/", text.replace("\\", "/")))
        # Folders of another machine say nothing here, and a program may have an image of another suffix.
        for name in (str(path), path.name, path.stem):
            try:
                return self._rows[PurePosixPath("/") / self._named.named(name, base=Path("/"))]
            except MissingImageError:
                continue
            except ImageNameError as error:
                raise InputError(f"{source}: {error}") from None
        raise InputError(f"{source}: {reprlib.repr(text)} is of no image of the index; remove it")
