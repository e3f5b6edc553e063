"""Image labels in XML: VOC's (a file a photograph) and CVAT's export for images (tags, and labels of shapes)."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from getam.datasets.annotations.records import Annotations, Record
from getam.datasets.documents import read_xml_document
from getam.errors import InputError

VOC, CVAT = "VOC XML", "CVAT"

SUFFIXES = (".xml",)


def read_xml_labels(path: Path) -> Annotations | None:
    """Reads the image labels of an XML file; None if it is of none of the known forms.

    Raises:
        InputError: the file is no harmless XML, or is damaged.
    """
    root = read_xml_document(path)
    if root.tag == "annotation":
        return _read_voc(path, root)
    if root.tag == "annotations":
        return _read_cvat(path, root)
    return None


def _read_voc(path: Path, root: Element) -> Annotations:
    """The names of `object/name`; those of an object's parts are no image labels."""
    names = [each.findtext("name") for each in root.findall("object")]
    if None in names:
        raise InputError(f"{path}: an object has no name; write one")
    record = Record(
        photograph=path.with_suffix("").as_posix(),
        names=frozenset(name for name in names if name is not None),
        where=str(path),
        base=path.parent,
        by_stem=True,
    )
    return Annotations(VOC, (path,), (record,))


def _read_cvat(path: Path, root: Element) -> Annotations:
    if root.find("track") is not None:
        raise InputError(f"{path}: is of a video; export the task as `CVAT for images`")
    records = []
    for image in root.findall("image"):
        photograph = image.get("name")
        if photograph is None:
            raise InputError(f"{path}: an image has no name; export it again")
        names = frozenset(label for each in image if (label := each.get("label")) is not None)
        records.append(Record(photograph, names, f"{path}, image {photograph!r}", path.parent))
    declared = {label.findtext("name") for label in root.iterfind("meta//label")}
    return Annotations(CVAT, (path,), tuple(records), declared=frozenset(name for name in declared if name))
