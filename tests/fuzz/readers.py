"""Every reader of foreign bytes, with honest files that are changed for it."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from mutations import (
    Change,
    changed_bytes,
    changed_gzip,
    changed_json,
    changed_mat,
    changed_png,
    changed_safetensors,
    changed_zip,
    sometimes,
)
from page import Page
from PIL import Image
from torch import nn
from torch.optim import AdamW

from getam.datasets.annotations.json_files import read_json_labels
from getam.datasets.annotations.xml_files import read_xml_labels
from getam.datasets.archives import Archive, unpack
from getam.datasets.class_names import read_classes
from getam.datasets.coco import index_coco
from getam.datasets.folder import read_list
from getam.datasets.index import IndexRow, read_index
from getam.datasets.sbd import read_sbd_mask
from getam.datasets.voc import VOC_CLASSES
from getam.datasets.voc_files import read_annotation
from getam.errors import InputError
from getam.networks.checkpoints import (
    _checksum,
    load_state,
    read_description,
    read_tensors,
    save_state,
)
from getam.networks.pretrained import read_state
from getam.networks.weight_files import read_safetensors
from getam.runs.verdicts import WORDS, read_verdicts
from getam.scores.voc_submission import FOLDER, check_submission
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import read_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.system.files import read_array, read_json
from getam.system.image_files import (
    decoded_size,
    image_size,
    orientation,
    read_gray,
    read_image,
    read_labels,
    read_note,
    read_palette,
    read_saliency,
    write_labels,
)
from getam.training.loop import Position


@dataclass(frozen=True)
class Reader:
    """How files of a kind are read.

    Attributes:
        name: name of the file.
        seeds: contents of honest files.
        change: makes a content another.
        read: reads the file at a path.
    """

    name: str
    seeds: list[bytes]
    change: Change
    read: Callable[[Path], object]


MEMORY = 1000
"""Most megabytes that reading one input may take beside what the process has."""

SECONDS = 5.0
"""Most seconds of its process's time that reading one input may take."""

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
NOTES = ("x", '\'-1, "y"', "", "-\n@;=z")
LABELS = (np.arange(12 * 20) % 21).reshape(12, 20).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def readers(scratch: Path) -> list[Reader]:
    """The readers; `scratch` is an empty folder for what they write."""
    photograph = Image.fromarray(PIXELS)
    exif = photograph.getexif()
    exif[0x0112] = 6
    photographs = [
        saved(photograph, "JPEG", exif=exif),
        saved(photograph, "JPEG", progressive=True),
        saved(photograph.convert("CMYK"), "JPEG"),
        saved(photograph, "WEBP", lossless=True),
        saved(photograph, "WEBP", exif=exif),
        saved(photograph, "TIFF"),
        *(saved(photograph, "TIFF", compression=each) for each in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")),
        saved(photograph, "BMP"),
        saved(photograph.convert("P"), "BMP"),
    ]
    pngs = [saved(photograph.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "P", "1", "LA")]
    write_labels(scratch / "labels.png", LABELS, note="key")
    masks = [(scratch / "labels.png").read_bytes(), saved(Image.fromarray(LABELS), "PNG")]
    return [
        Reader("photograph", photographs, changed_bytes, read_photograph),
        Reader("photograph.png", pngs, sometimes(changed_png), read_photograph),
        Reader("mask.png", masks, sometimes(changed_png), read_mask),
        Reader("a.npy", arrays(), changed_bytes, read_array),
        Reader("a.mat", [mat()], sometimes(changed_mat), read_sbd_mask),
        *documents(scratch),
        *verdicts(scratch),
        *weights(scratch),
        *archives(scratch),
        coco(scratch),
    ]


def all_of(*reads: Callable[[Path], object]) -> Callable[[Path], None]:
    """A reader that reads a file by each of these, also where another has refused it."""

    def read(path: Path) -> None:
        for each in reads:
            with suppress(InputError):
                each(path)

    return read


read_photograph = all_of(read_image, decoded_size, image_size, orientation, read_gray, read_saliency)
read_mask = all_of(read_note, read_palette, read_labels)
read_xml = all_of(read_xml_labels, read_annotation)


def arrays() -> list[bytes]:
    contents = []
    for array in (np.ones((3, 4, 5), np.float32), np.ones((2, 6), np.float16).T, np.zeros((0, 2))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        contents.append(buffer.getvalue())
    return contents


def mat() -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"GTcls": {"Segmentation": LABELS}}, do_compression=True)
    return buffer.getvalue()


def documents(scratch: Path) -> list[Reader]:
    (scratch / "classes.txt").write_text("aeroplane\ncat\ndog\n")
    voc = (
        b"<annotation><object><name>cat</name><part><name>head</name></part></object>"
        b"<object><name>dog</name></object></annotation>"
    )
    cvat = (
        b"<?xml version='1.0' encoding='utf-8'?><annotations><meta><task><labels><label><name>cat</name></label>"
        b"</labels></task></meta><image id='0' name='a.jpg' width='9' height='9'><box label='cat' xtl='1'/></image>"
        b"</annotations>"
    )
    labelme = {"shapes": [{"label": "cat", "points": [[1, 2]]}], "flags": {"dog": True}, "imagePath": "a.jpg"}
    studio = [
        {
            "data": {"image": "/data/upload/1/01234567-a.jpg"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": ["cat"]}}], "was_cancelled": False}],
        }
    ]
    forms: list[Any] = [labelme, studio, coco_values()]
    model = {
        "kind": "classifier",
        "classes": ["cat", "dog"],
        "settings": read_config([]).classifier.model_dump(mode="json"),
    }
    table = b"id,split,image,mask,labels\na,train,a.jpg,,cat;dog\nb,val,b.jpg,b.png,\n"
    index = b"id,split,image,mask,height,width,labels\na,train,a.jpg,,9,9,aeroplane\nb,val,b.jpg,b.png,3,3,\n"
    anchors = b"base: &base {x: [1, 2], y: &y {z: 1e-4}}\nmore: {<<: *base, w: *y}\nday: 2024-01-01\n"
    return [
        Reader("a.xml", [voc, cvat], changed_bytes, read_xml),
        Reader("labels.json", [json.dumps(form).encode() for form in forms], sometimes(changed_json), read_json_labels),
        Reader("results.json", [json.dumps(model).encode()], sometimes(changed_json), read_json),
        Reader("model.json", [json.dumps(model).encode()], sometimes(changed_json), read_model),
        Reader("list.csv", [table], changed_bytes, read_list),
        Reader("index.csv", [index], changed_bytes, read_index),
        Reader("names.txt", [b"cat\ndog\nhair drier\n"], changed_bytes, read_classes),
        Reader("a.yaml", [BASE_CONFIG.read_bytes(), anchors, anchors, anchors], changed_bytes, read_yaml),
    ]


def read_model(path: Path) -> None:
    read_description(path.parent, kind="classifier", settings=ClassifierSettings)


def verdicts(scratch: Path) -> list[Reader]:
    """Files of verdicts as getam reads them, and as the audit page does."""
    ids = ("a", "b", "__proto__", "=1;-2")
    entries = [
        {"id": id, "verdict": word, "note": note} for id, word, note in zip(ids, (*WORDS, "bad"), NOTES, strict=True)
    ]
    as_json, stored = (json.dumps(each).encode() for each in ({"run": "demo", "verdicts": entries}, entries))
    as_csv = b'id,verdict,note\r\na,good,"x, y"\nb,bad,\'=1\n__proto__,unsure,"\'- ""z""\n@"\n'
    page = Page(ids, scratch, memory=MEMORY, seconds=SECONDS)

    def read(path: Path) -> None:
        read_verdicts(path, ids)

    return [
        Reader("verdicts.json", [as_json], sometimes(changed_json), read),
        Reader("verdicts.csv", [as_csv], changed_bytes, read),
        Reader("page.json", [as_json], sometimes(changed_json), page.take),
        Reader("page.csv", [as_csv], changed_bytes, page.take),
        Reader("page.storage", [stored], sometimes(changed_json), page.open),
    ]


def weights(scratch: Path) -> list[Reader]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    contents = []
    for content in (model.state_dict(), {"state_dict": model.state_dict(), "epoch": 3, "args": {"lr": 0.1}}):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            contents.append(buffer.getvalue())
    progress = {"epoch": 1, "batch": 0, "sums": {}, "history": [{"loss": 1.0}], "best": 0.5}
    save_state(scratch / "state.safetensors", model, optimizer, key="key", progress=progress)
    state = (scratch / "state.safetensors").read_bytes()

    def resume(path: Path) -> None:
        load_state(path, model, optimizer, Position, key="key")
        # Again with a fitting checksum, as who tampers with a state gives it one.
        try:
            tensors, metadata = read_safetensors(path)
        except Exception:
            return
        metadata["checksum"] = _checksum(tensors, metadata.get("progress", ""))
        header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
        header["__metadata__"] = metadata
        text = json.dumps(header).encode()
        body = path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :]
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        load_state(path, model, optimizer, Position, key="key")

    return [
        Reader("a.pth", contents, sometimes(changed_zip), read_state),
        Reader("a.safetensors", [state], sometimes(changed_safetensors), all_of(read_state, read_tensors)),
        Reader("state.safetensors", [state], sometimes(changed_safetensors), resume),
    ]


def archives(scratch: Path) -> list[Reader]:
    row = IndexRow("a", "test", Path("a.jpg"), None, *LABELS.shape, ())
    picture = (scratch / "labels.png").read_bytes()
    tars = {}
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=format) as tar:
            names = {tarfile.GNU_FORMAT: [str(FOLDER / "a.png")], tarfile.PAX_FORMAT: ["set/b", "set/" + "long" * 40]}
            for name in names[format]:
                member = tarfile.TarInfo(name)
                member.size = len(picture)
                tar.addfile(member, io.BytesIO(picture))
        tars[format] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("set/a.png", picture)
        zipped.writestr("set/deep/b.txt", "text" * 100)
    archive = Archive("http://localhost/set.tgz", None, "in", "set")

    def check(path: Path) -> None:
        check_submission(path, [row], num_classes=len(VOC_CLASSES))

    def take(path: Path) -> None:
        unpack(archive, path, scratch / "unpacked")

    return [
        Reader("results.tgz", [tars[tarfile.GNU_FORMAT]], sometimes(changed_gzip), check),
        Reader("set.tgz", [tars[tarfile.PAX_FORMAT]], sometimes(changed_gzip), take),
        Reader("set.zip", [buffer.getvalue()], sometimes(changed_zip), take),
    ]


def coco_values() -> dict[str, Any]:
    polygon = [[2, 3, 8, 3, 8, 7, 2, 7], [10, 3, 14, 3.5, 14, 7]]
    segmentations = (polygon, {"size": [12, 20], "counts": [100, 40, 100]}, {"size": [12, 20], "counts": "T3X1T3"}, [])
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 12, "width": 20} for n in range(1, 5)],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 5, "iscrowd": n % 2, "segmentation": segmentation}
            for n, segmentation in enumerate(segmentations, start=1)
        ],
    }


def coco(scratch: Path) -> Reader:
    (scratch / "photographs").mkdir()
    for number in range(1, 5):
        Image.fromarray(LABELS).save(scratch / "photographs" / f"{number}.png")

    def read(path: Path) -> None:
        files = {"train": (str(path), str(scratch / "photographs"))}
        index_coco(scratch, files=files, masks=scratch / "masks", threads=1)

    return Reader("instances.json", [json.dumps(coco_values()).encode()], sometimes(changed_json), read)
