"""Image labels in JSON: of labelme (a file a photograph), of COCO's form, and of Label Studio's export.

Shapes, boxes and outlines are read as labels of the photograph that they are drawn on.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from getam.datasets.annotations.records import Annotations, Record
from getam.datasets.documents import read_json_document
from getam.errors import InputError, listed

LABELME, COCO, LABEL_STUDIO = "labelme", "COCO", "Label Studio"

SUFFIXES = (".json",)

UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
"""A file name to which Label Studio has given a prefix when it was uploaded."""


class _FormError(Exception):
    """The content of a file is not of the form that its outline promises; the message says where."""


def read_json_labels(path: Path) -> Annotations | None:
    """Reads the image labels of a JSON file; None if it is of none of the known forms.

    Raises:
        InputError: the file is no JSON, or is damaged.
    """
    content = read_json_document(path)
    for recognize, read in (
        (_is_labelme, _read_labelme),
        (_is_coco, _read_coco),
        (_is_label_studio, _read_label_studio),
    ):
        try:
            if recognize(content):
                return read(path, content)
        except _FormError as error:
            raise InputError(f"{path}: {error}; export it again") from None
    return None


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "shapes" in content and ("imagePath" in content or "flags" in content)


def _read_labelme(path: Path, content: Any) -> Annotations:
    flags = _typed(content.get("flags") or {}, dict, "flags")
    if wrong := [name for name, is_set in flags.items() if not isinstance(is_set, bool)]:
        raise _FormError(f"flag {wrong[0]!r} is neither true nor false")
    shapes = [_typed(shape, dict, "a shape") for shape in _typed(content["shapes"], list, "shapes")]
    names = {_typed(shape.get("label"), str, "the label of a shape") for shape in shapes}
    record = Record(
        photograph=path.with_suffix("").as_posix(),
        names=frozenset(names | {name for name, is_set in flags.items() if is_set}),
        where=str(path),
        base=path.parent,
        by_stem=True,
    )
    return Annotations(LABELME, (path,), (record,), declared=frozenset(flags))


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _read_coco(path: Path, content: Any) -> Annotations:
    categories = {
        _identity(each.get("id"), "the id of a category"): _typed(each.get("name"), str, "the name of a category")
        for each in _entries(content, "categories")
    }
    files: dict[int | str, str] = {}
    for each in _entries(content, "images"):
        id = _identity(each.get("id"), "the id of an image")
        if id in files:
            raise _FormError(f"two images have the id {id!r}")
        files[id] = _typed(each.get("file_name"), str, "the file_name of an image")
    names: dict[int | str, set[str]] = {id: set() for id in files}
    problems = []
    for number, each in enumerate(_entries(content, "annotations"), start=1):
        image, category = (_identity(each.get(key), key) for key in ("image_id", "category_id"))
        if image not in files:
            problems.append(f"{path}: annotation {number} is of the unknown image {image!r}; correct it")
        elif category not in categories:
            problems.append(
                f"{path}: annotation {number}, of {files[image]!r}, is of the unknown category {category!r}; correct it"
            )
        else:
            names[image].add(categories[category])
    if problems:
        raise InputError(listed(problems))
    records = tuple(
        Record(file, frozenset(names[id]), f"{path}, image {file!r}", path.parent) for id, file in files.items()
    )
    return Annotations(COCO, (path,), records, declared=frozenset(categories.values()))


def _is_label_studio(content: Any) -> bool:
    is_export = isinstance(content, list) and bool(content) and all(isinstance(task, dict) for task in content)
    if is_export and all("annotation_id" in task for task in content):
        raise _FormError("is Label Studio's JSON-MIN, which says too little, not its JSON")
    return is_export and all("annotations" in task and isinstance(task.get("data"), dict) for task in content)


def _read_label_studio(path: Path, content: Any) -> Annotations:
    records = []
    for number, task in enumerate(content, start=1):
        photograph, stored = _photograph_of_task(task["data"])
        where = f"{path}, task {number} ({photograph!r})"
        for annotation in _typed(task["annotations"], list, "annotations"):
            # A task that its annotator skipped is a photograph that nobody has labelled.
            if _typed(annotation, dict, "an annotation").get("was_cancelled") is not True:
                names = frozenset(_names_of_results(_typed(annotation.get("result"), list, "a result")))
                records.append(Record(photograph, names, where, path.parent, stored=stored))
    return Annotations(LABEL_STUDIO, (path,), tuple(records))


def _photograph_of_task(data: dict[str, Any]) -> tuple[str, str | None]:
    """The name of a task's photograph, and the one of the server's copy if it was uploaded.

    Label Studio gives it as a URL or as a path on its server.
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if "image" not in texts and len(texts) != 1:
        raise _FormError(f"a task names its photograph neither by `image` nor alone: {reprlib.repr(data)}")
    text = texts["image"] if "image" in texts else next(iter(texts.values()))
    if not text.startswith("/") and "://" not in text:
        return text, None
    try:
        url = urlsplit(text)
        # A photograph of local storage: /data/local-files/?d=folder/1.jpg
        path = parse_qs(url.query).get("d", [unquote(url.path)])[0].lstrip("/")
    except ValueError:
        raise _FormError(f"{text!r} is no address of a photograph") from None
    uploaded = UPLOADED.fullmatch(PurePosixPath(path).name)
    return (uploaded[1], uploaded[0]) if uploaded and "upload/" in path else (path, None)


def _names_of_results(results: list[Any]) -> Iterator[str]:
    """Yields the classes that results of an annotation name: choices, and labels of boxes, outlines and brushes.

    Of a taxonomy it is the last name of each chosen path.
    """
    for result in results:
        kind = _typed(result, dict, "a result").get("type")
        if kind == "taxonomy":
            value = _typed(result.get("value"), dict, "the value of a result")
            for path in _typed(value.get(kind, []), list, f"the {kind} of a result"):
                names = _typed(path, list, f"one of the {kind} of a result")
                yield _typed(names[-1] if names else None, str, f"one of the {kind} of a result")
        elif kind == "choices" or (isinstance(kind, str) and kind.endswith("labels")):
            value = _typed(result.get("value"), dict, "the value of a result")
            for name in _typed(value.get(kind, []), list, f"the {kind} of a result"):
                yield _typed(name, str, f"one of the {kind} of a result")


def _entries(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [_typed(each, dict, f"one of {key}") for each in _typed(content[key], list, key)]


def _identity(value: Any, what: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _FormError(f"{what} is {reprlib.repr(value)}, neither a whole number nor a text")
    return value


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise _FormError(f"{what} is {reprlib.repr(value)}, no {KINDS[kind]}")
    return value


KINDS: dict[type, str] = {dict: "object", list: "list", str: "text"}
"""What JSON calls Python's types, for messages."""
