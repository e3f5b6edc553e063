"""Files whose reading took gigabytes or hours, though they are small: each is refused, or read, in a bounded time.

Those that took a time quadratic in their size would take hours without their mends, so that no clock is looked at.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.bounded import said

from getam.datasets.index import composed
from getam.errors import InputError
from getam.system.image_files import image_size, orientation, read_image


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png_of_chunks(count: int) -> bytes:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    return png((b"IHDR", header), *[(b"prVt", b"")] * count, (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b""))


def jpeg_of(between: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()[:2] + between + buffer.getvalue()[2:]


def tiff_of_rows(count: int, *, mark: bytes = b"II*\0") -> bytes:
    """A gray TIFF of one column, a strip a row; its rows share their pixel."""
    order = "<" if mark.startswith(b"II") else ">"
    is_big = b"+" in mark
    start = mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if is_big else struct.pack(f"{order}I", 8))
    numbers = {256: 1, 257: count, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    place = len(start) + (8 + 9 * 20 + 8 if is_big else 2 + 9 * 12 + 4)
    form = f"{order}HHQQ" if is_big else f"{order}HHII"
    fields = [struct.pack(form, name, 4, 1, number) for name, number in numbers.items()]
    places, lengths = struct.pack(form, 273, 4, count, place), struct.pack(form, 279, 4, count, place + 4 * count)
    fields = [*fields[:5], places, *fields[5:], lengths]
    head = struct.pack(f"{order}{'Q' if is_big else 'H'}", 9) + b"".join(fields) + bytes(8 if is_big else 4)
    return start + head + struct.pack(f"{order}I", 0) * count + struct.pack(f"{order}I", 1) * count


def bmp_of_runs(side: int) -> bytes:
    """A BMP of run lengths: a pixel a row, and the end of the row, which Pillow fills pixel by pixel."""
    body = b"\x01\x05\0\0" * side
    size = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + size + bytes(1024) + body


COSTLY = {
    "chunks.png": (lambda much: png_of_chunks(200_000 if much else 30_000), "more than 200000 chunks"),
    "segments.jpg": (lambda much: jpeg_of(b"\xff\xe5\0\2" * (10_001 if much else 500)), "more than 10000 segments"),
    "filling.jpg": (lambda much: jpeg_of(b"\xff" * (70_000 if much else 500)), "bytes between its segments"),
    "strips.tif": (lambda much: tiff_of_rows(300_000 if much else 9000), "field 273 of 300000 values"),
    "strips_m.tif": (lambda much: tiff_of_rows(300_000 if much else 9000, mark=b"MM\0*"), "field 273 of 300000 values"),
    "big.tif": (lambda much: tiff_of_rows(300_000 if much else 9000, mark=b"II+\0"), "field 273 of 300000 values"),
    "runs.bmp": (lambda much: bmp_of_runs(3000 if much else 900), "a BMP of run lengths, of more than 8388608"),
}
"""An image of more headers than any encoder writes, or of no more than some do -> what is said of the first."""


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_an_image_costs_before_its_pixels_is_bounded(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    make, message = COSTLY[name]
    path = tmp_path / name
    path.write_bytes(make(False))
    read(path)
    path.write_bytes(make(True))
    with pytest.raises(InputError, match=rf"cannot be decoded \(.*{message}"):
        read(path)


def test_an_orientation_is_not_sought_in_megabytes(tmp_path: Path) -> None:
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    for size, turn in ((0, 6), (2**22, 1)):
        chunks = (b"IHDR", header), (b"eXIf", exif + bytes(size)), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b"")
        (tmp_path / "a.png").write_bytes(png(*chunks))
        assert orientation(tmp_path / "a.png") == turn


MANY = 600_000

SLOW: dict[str, tuple[str, Callable[[], str], str, str]] = {
    "declarations.xml": (
        "getam.datasets.documents",
        lambda: "<?xml " + "encoding='a' " * MANY,
        "read_xml_document(PATH)",
        "not a harmless, well-formed XML file",
    ),
    "blanks.xml": (
        "getam.datasets.documents",
        lambda: "<?xml version='1.0' encoding='gbk'?>" + " " * (5 * MANY) + "<annotation/>",
        "read_xml_document(PATH).tag",
        "annotation",
    ),
    "columns.csv": (
        "getam.datasets.documents",
        lambda: ",".join(map(str, range(MANY))) + ",7\n",
        "read_table(PATH)",
        "two columns are called '7'; rename one",
    ),
    "unread.csv": (
        "getam.datasets.annotations.tables",
        lambda: f"id,{','.join(f'c{n}' for n in range(MANY))}\na{',1' * MANY}\n",
        "len(read_label_table(PATH, is_photograph=lambda text: text == 'a').declared)",
        str(MANY),
    ),
    "quotes.csv": (
        "getam.datasets.annotations.tables",
        lambda: "id,labels\n" + ('a,"{' + '""' * 60_000 + '"\n') * 200,
        "len(read_label_table(PATH, is_photograph=lambda text: text == 'a').records)",
        "200",
    ),
    "words.txt": (
        "getam.datasets.annotations.tables",
        lambda: "photo" + " a" * MANY,
        "read_label_table(PATH, is_photograph=lambda text: text == 'photo', classes=['a', 'a a'])",
        "may be 'photo' with 'a', 'a'",
    ),
    "index.csv": (
        "getam.datasets.index",
        lambda: ",".join(f"c{n}" for n in range(30_000)) + "\na" * 30_000,
        "Path(PATH).with_name('classes.txt').write_text('cat') and read_index(PATH)",
        "index.csv: column 'height' is missing; run index-dataset again",
    ),
    "times.tsv": (
        "getam.runs.timings",
        lambda: "s\tmax_rss" + "".join(f"\tc{n}" for n in range(100_000)) + "\n1\t2" * 100_000,
        "PATH.parent.joinpath('benchmarks').mkdir() or PATH.rename(PATH.parent / 'benchmarks' / 'a.tsv') and "
        "stage_times(PATH.parent)[0].jobs",
        "100000",
    ),
    "train_deeplab.log": (
        "getam.runs.hours",
        lambda: "train_deeplab: epoch 1/1, " * MANY + "\n train_deeplab: epoch 1/1, x, 1 s, 2 images a second\n",
        "estimated_hours.__globals__['_epoch_rate'](PATH.parent, 'train_deeplab')",
        "2.0",
    ),
    "photographs.txt": (
        "getam.datasets.annotations.tables",
        lambda: "x " * 250 + "a " * MANY,
        "read_label_table(PATH, is_photograph=lambda text: set(text) <= {'x', ' '}, classes=['a'])",
        "line 1: begins with the names of 250 photographs; put commas",
    ),
    "regions.json": (
        "getam.datasets.coco",
        lambda: json.dumps([[0, 0, 1, 0, 1, 1]] * 100_000),
        "semantic_mask([Annotation(7, 1, False, read_json_document(PATH))], {1: 1}, (9, 9), source=PATH)",
        "annotation 7 has a malformed segmentation (the annotations of the image have outlines of more than 1000000",
    ),
    "accents.txt": (
        "getam.datasets.class_names",
        lambda: "a" + "\u0300" * MANY + "\u0323" * MANY,
        "read_classes(PATH)",
        f"has {2 * MANY + 1} letters; rename",
    ),
}
"""Files that took hours, since their readers' time was quadratic in the size: module, text, call, what is said."""


@pytest.mark.parametrize("name", SLOW)
def test_no_document_takes_a_quadratic_time(tmp_path: Path, name: str) -> None:
    module, text, call, message = SLOW[name]
    path = tmp_path / name
    path.write_text(text(), encoding="utf-8")
    assert message in said(module, call.replace("PATH", f"Path({str(path)!r})"), memory=1000)


def test_accents_are_composed_where_there_are_few() -> None:
    assert composed("cafe\u0301") == "caf\u00e9"
    assert composed("a" + "\u0323\u0302" * 15) == unicodedata.normalize("NFC", "a" + "\u0323\u0302" * 15)
    many = "e" + "\u0301" * 31
    assert composed(many) == many


def test_arrays_of_a_user_are_held_once(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(300_000_000, np.uint8))
    call = f"read_arrays(Path({str(tmp_path / 'a.npz')!r}))['a'].shape"
    assert said("getam.system.files", call, memory=400) == "(300000000,)"


def test_the_fuzzing_entry_reads_its_honest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fuzz"))
    kinds = importlib.import_module("readers").readers(tmp_path)
    assert len(kinds) > 20
    for kind in kinds:
        for content in kind.seeds:
            (tmp_path / kind.name).write_bytes(content)
            kind.read(tmp_path / kind.name)


def test_the_colors_of_a_large_mask_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "SegmentationClass").mkdir()
    Image.new("P", (8000, 8000)).save(tmp_path / "SegmentationClass" / "a.png", compress_level=1)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\n")
    row = "IndexRow('a', 'train', Path('a.jpg'), None, 8000, 8000, ())"
    read = f"run.__globals__['_read_voc'](Path({str(tmp_path)!r}), Index(({row},), ('cat',)))"
    call = f"[labels.shape for _, labels in {read}]"
    assert said("getam.tools.import_labels", call, memory=800) == "[(8000, 8000)]"


def test_images_of_an_import_are_told_apart_in_linear_time(tmp_path: Path) -> None:
    names = [f"i{number}" for number in range(80_000)]
    images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(names)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": [], "images": images, "annotations": []}))
    rows = "IndexRow(f'i{n}', 'train', Path(f'/x/i{n}.jpg'), None, 1, 1, ()) for n in range(80_000)"
    read = f"run.__globals__['_read_coco'](Path({str(tmp_path / 'a.json')!r}), Index(tuple({rows}), ('cat',)))"
    assert said("getam.tools.import_labels", f"len(list({read}))", memory=1000) == "80000"
