"""image_labels.txt in every form that people write, and the names of files that other tools and systems give.

The data set is nine photographs of 64x48 with two classes of one word and one of two, five in train and four in val.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from getam.cli import STAGES, command
from getam.datasets.index import read_index
from getam.datasets.voc import index_voc
from getam.errors import InputError
from getam.system.image_files import write_labels

CLASSES = ("cat", "dog", "potted plant")
LABELS = {f"img{number}": ((CLASSES[number % 3],) if number else ("cat", "potted plant")) for number in range(9)}
TRAIN, VAL = [*LABELS][:5], [*LABELS][5:]
QUOTED = {"cat": "cat", "dog": "dog", "potted plant": '"potted plant"'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for number, id in enumerate(LABELS):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{id}.jpg")
    write_lists(root, TRAIN, VAL)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


def write_lists(root: Path, train: list[str], val: list[str]) -> None:
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split, ids in {"train": train, "val": val}.items():
        (folder / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")


def write_list(root: Path, text: str) -> None:
    (root / "image_labels.txt").write_text(text, encoding="utf-8")


def write_lines(root: Path) -> None:
    write_list(root, "".join(f"{id} {' '.join(QUOTED[name] for name in names)}\n" for id, names in LABELS.items()))


def write_masks(root: Path, *, ending: str = "") -> None:
    for id, names in LABELS.items():
        mask = np.zeros((48, 64), np.uint8)
        for number, name in enumerate(names):
            mask[10 * number : 10 * number + 10] = CLASSES.index(name) + 1
        write_labels(root / "SegmentationClass" / f"{id}{ending}.png", mask)


def write_annotations(root: Path, *, declaration: str = "", encoding: str = "utf-8", filename: str = "a.jpg") -> None:
    (root / "Annotations").mkdir(exist_ok=True)
    for id, names in LABELS.items():
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        text = f"{declaration}<annotation><filename>{filename}</filename>{objects}</annotation>"
        (root / "Annotations" / f"{id}.xml").write_bytes(text.encode(encoding))


def labels(root: Path, source: str = "file") -> dict[str, tuple[str, ...]]:
    return {row.id: row.labels for row in index_voc(root, labels=source, threads=2).rows}


def refusal(root: Path, source: str = "file") -> str:
    with pytest.raises(InputError) as caught:
        index_voc(root, labels=source, threads=2)
    return str(caught.value)


# Lists


def joined(separator: str, *, header: str = "", suffix: str = "", names: str = "", quote: bool = False) -> str:
    """A list with cells between separators, or with a cell of names that `names` joins."""
    lines = []
    for id, found in LABELS.items():
        cells = [QUOTED[name] if quote else name for name in found]
        lines.append(separator.join([id + suffix, *([names.join(cells)] if names else cells)]))
    return "\n".join([*([header] if header else []), *lines]) + "\n"


def a_row_a_label(separator: str, header: str) -> str:
    rows = [f"{id}{separator}{name}" for id, names in LABELS.items() for name in names]
    return "\n".join([header, *rows]) + "\n"


LISTS: dict[str, str] = {
    "spaces and quotes": joined(" ", quote=True),
    "spaces, and one reading fits the classes": joined("  "),
    "spaces, with suffixes": joined(" ", suffix=".jpg", quote=True),
    "spaces and commas": joined(" ", names=", "),
    "spaces, with a header": joined(" ", header="image labels", quote=True),
    "spaces, a row a label": a_row_a_label(" ", "img99 dog"),
    "commas": joined(","),
    "commas and blanks": joined(", "),
    "commas and quotes": joined(",", quote=True),
    "tabs": joined("\t"),
    "a tab, and names between spaces": joined("\t", names=" "),
    "CSV with a header": joined(",", header="id,labels", names=";"),
    "CSV with a header, names between spaces": joined(",", header="image_name,tags", names=" "),
    "CSV with a header, a row a label": a_row_a_label(",", "filename,class"),
    "CSV with a column a class": "id,potted plant,cat,dog\n"
    + "".join(
        f"{id},{','.join(str(int(name in names)) for name in ('potted plant', 'cat', 'dog'))}\n"
        for id, names in LABELS.items()
    ),
    "semicolons with unquoted commas": joined(";", header="id;labels", names=", "),
    "TSV with a header and paths": "labels\tpath\n"
    + "".join(f"{'|'.join(names)}\tJPEGImages/{id}.jpg\n" for id, names in LABELS.items()),
    "rows of a larger data set first": "other1,cat\nother2,dog,cat\n" + joined(","),
    "blank lines and another line end": joined(" ", quote=True).replace("\n", "  \r\n\r\n"),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_a_list_gives_the_same_labels(root: Path, name: str) -> None:
    write_list(root, LISTS[name])
    assert labels(root) == {id: tuple(sorted(names)) for id, names in LABELS.items()}


def test_ids_may_have_spaces(root: Path) -> None:
    for id in LABELS:
        path = root / "JPEGImages" / f"{id}.jpg"
        path.rename(path.with_name(f"my {id} x.jpg"))
    write_lists(root, [f"my {id} x" for id in TRAIN], [f"my {id} x" for id in VAL])
    for form in ("spaces and quotes", "commas", "spaces, and one reading fits the classes"):
        write_list(root, _with_ids(form))
        assert labels(root) == {f"my {id} x": tuple(sorted(names)) for id, names in LABELS.items()}


def _with_ids(form: str) -> str:
    text = LISTS[form]
    for id in LABELS:
        text = text.replace(id, f"my {id} x")
    return text


READINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    # What stands in the list; what the message says.
    "a name with a space that is two classes": (
        "img1 potted plant\n",
        ("line 1: 'img1 potted plant' may be 'img1' with 'potted', 'plant' or 'img1' with 'potted plant'; put commas",),
    ),
    "an id that is another id with a class": (
        "img1 cat\n",
        ("line 1: 'img1 cat' may be 'img1' with 'cat' or 'img1 cat' with no class; put commas between",),
    ),
    "nothing": ("", ("image_labels.txt: is empty; write a header, such as id,labels, and a row a photograph",)),
    "an id twice": ("img1 cat dog\nimg1 cat\n", ("image_labels.txt: id 'img1' stands there twice; leave one",)),
    "a class and none of one id": ("img1\nimg1 cat\n", ("image_labels.txt: id 'img1' stands there twice; leave one",)),
    "a cell without end": (
        f"img1 {'x' * 140_000},cat\n",
        ("image_labels.txt, line 1: malformed row (field larger than field limit (131072)); correct the quotes",),
    ),
    "no id at all": (
        "cat img1\ndog img2\n",
        ("line 1: 'cat' is no image in ", "JPEGImages, and neither is any other line's; begin each with an id"),
    ),
    "0 and 1 without a header": ("img1,0,1,0\nimg2,1,0,0\n", ("has 0 and 1 without names of classes; write a header",)),
    "a malformed quote": ('img1,"cat\nimg2,dog\n', ("image_labels.txt, line 2: malformed row",)),
    "a label of no class": (
        "img0 cat\nimg1 cow\nimg2 dog\nimg3 dog\nimg4 dog\n",
        (
            "img1: label 'cow' is not in ",
            "correct it in ",
            "image_labels.txt, line 2, where a name with a space stands",
        ),
    ),
}


@pytest.mark.parametrize("name", READINGS)
def test_what_has_two_readings_is_shown_with_its_line(root: Path, name: str) -> None:
    text, parts = READINGS[name]
    if "space" in name:
        (root / "classes.txt").write_text("cat\ndog\npotted plant\npotted\nplant\n")
    if "another id" in name:
        Image.new("RGB", (64, 48)).save(root / "JPEGImages" / "img1 cat.jpg")
    write_list(root, text)
    message = refusal(root)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_a_line_of_any_length_is_read(root: Path) -> None:
    write_list(root, LISTS["commas"].replace(",", " ") + f"other{' x' * 300_000}\n")
    assert labels(root)["img1"] == ("dog",)


# Images of val that nobody has labelled


def unlabelled(root: Path, source: str) -> list[str]:
    return [row.id for row in index_voc(root, labels=source, threads=2).rows if not row.labelled]


def test_a_missing_line_and_an_empty_one_differ(root: Path) -> None:
    write_list(root, joined(" ", quote=True).replace('img5 "potted plant"\n', "").replace("img6 cat\n", "img6\n"))
    assert unlabelled(root, "file") == ["img5"]
    assert [labels(root)[id] for id in ("img5", "img6")] == [(), ()]
    write_list(root, LISTS["CSV with a header"].replace("img5,potted plant\n", "").replace("img6,cat", "img6,"))
    assert unlabelled(root, "file") == ["img5"]


def test_an_image_of_val_without_its_mask_or_annotation_is_not_labelled(root: Path) -> None:
    write_masks(root)
    write_annotations(root)
    assert unlabelled(root, "masks") == unlabelled(root, "annotations") == []
    (root / "SegmentationClass" / "img7.png").unlink()
    (root / "Annotations" / "img8.xml").unlink()
    write_labels(root / "SegmentationClass" / "img6.png", np.zeros((48, 64), np.uint8))
    assert unlabelled(root, "masks") == ["img7"]
    assert unlabelled(root, "annotations") == ["img8"]


def test_what_nobody_has_labelled_is_said_and_comes_back(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(root)
    out = tmp_path / "out" / "index.csv"

    def run() -> str:
        words = ["--root", root, "--labels", "file", "--splits", '["train", "val"]', "--threads", "1", "--out", out]
        assert command("getam", STAGES, ["index-dataset", *map(str, words)]) == 0
        return capsys.readouterr().err

    assert "labelled" not in run()
    assert out.read_text().startswith("id,split,image,mask,height,width,labels\n")
    write_list(root, (root / "image_labels.txt").read_text().replace("img7 dog\n", ""))
    assert "val: nobody has labelled 1 of 4 images, which are left out of scores by image labels" in run()
    assert json.loads((out.parent / "index.json").read_text())["splits"]["val"]["unlabelled"] == 1
    index = read_index(out)
    assert index == index_voc(root, labels="file", threads=1)
    assert [row.id for row in index.labelled("val")] == ["img5", "img6", "img8"]
    out.write_text(out.read_text().replace(",no\n", ",perhaps\n"))
    with pytest.raises(InputError, match=r"line 9: malformed row .*; run index-dataset again"):
        read_index(out)


# Names of files


def test_ids_may_have_the_suffix_of_their_photographs(root: Path) -> None:
    write_lines(root)
    write_masks(root)
    write_annotations(root)
    before = {source: index_voc(root, labels=source, threads=2) for source in ("file", "masks", "annotations")}
    write_lists(root, [f"{id}.jpg" for id in TRAIN], [f"{id}.jpg" for id in VAL])
    assert {source: index_voc(root, labels=source, threads=2) for source in before} == before
    # A photograph whose name has two suffixes is meant where there is one.
    (root / "JPEGImages" / "img8.jpg").rename(root / "JPEGImages" / "img8.jpg.jpg")
    write_list(root, LISTS["commas"].replace("img8,", "img8.jpg,"))
    assert labels(root)["img8.jpg"] == ("potted plant",)


@pytest.mark.parametrize("suffix", [".jfif", ".Jpg", ".JPEG", ".webp", ".TIF", ".bmp", ".Png"])
def test_suffixes_of_photographs_in_any_case(root: Path, suffix: str) -> None:
    write_lines(root)
    path = root / "JPEGImages" / "img2.jpg"
    if suffix.lower() in (".webp", ".tif", ".bmp", ".png"):
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    else:
        path.rename(path.with_suffix(suffix))
    (row,) = (row for row in index_voc(root, labels="file", threads=2).rows if row.id == "img2")
    assert row.image.name == f"img2{suffix}"


def test_a_photograph_is_what_its_bytes_say(root: Path) -> None:
    write_lines(root)
    path = root / "JPEGImages" / "img2.jpg"
    Image.open(path).save(root / "img2.webp")
    (root / "img2.webp").rename(path)
    assert labels(root)["img2"] == ("potted plant",)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_written_in_two_ways(root: Path, form: str) -> None:
    write_masks(root)
    write_annotations(root)
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for folder in ("JPEGImages", "SegmentationClass", "Annotations"):
        for path in [*(root / folder).iterdir()]:
            path.rename(path.with_name(unicodedata.normalize(other, f"é{path.name}")))
    ids = [unicodedata.normalize(form, f"é{id}") for id in LABELS]
    write_lists(root, ids[:5], ids[5:])
    write_list(root, unicodedata.normalize(form, LISTS["commas"].replace("img", "éimg")))
    expected = {f"éimg{number}": tuple(sorted(names)) for number, names in enumerate(LABELS.values())}
    for source in ("file", "masks", "annotations"):
        assert labels(root, source) == expected
    rows = index_voc(root, labels="file", threads=2).rows
    assert all(row.image.is_file() and row.mask is not None and row.mask.is_file() for row in rows)


def test_classes_with_accents_may_be_written_in_two_ways(root: Path) -> None:
    (root / "classes.txt").write_text(unicodedata.normalize("NFD", "zèbre\ncat\ndog\npotted plant\n"), encoding="utf-8")
    write_list(root, LISTS["commas"].replace("img1,dog", "img1,zèbre"))
    assert labels(root)["img1"] == (unicodedata.normalize("NFC", "zèbre"),)


def test_a_file_in_the_place_of_a_photograph_is_named(root: Path) -> None:
    write_lines(root)
    path = root / "JPEGImages" / "img2.jpg"
    path.rename(path.with_suffix(".heic"))
    message = refusal(root)
    assert "img2.jpg: no such image; add the file or take its id off the list; img2.heic lies there, and " in message


def test_lists_with_more_than_ids_are_named(root: Path) -> None:
    write_lines(root)
    write_lists(root, [*TRAIN[:-1], "img4  -1"], VAL)
    assert refusal(root).endswith("take its id off the list; img4 is there: write one id a line, and nothing else")
    write_lists(root, [*TRAIN[:-1], "/JPEGImages/img4.jpg /SegmentationClass/img4.png"], VAL)
    assert "is not a plain file name (" in refusal(root)
    assert refusal(root).endswith("rename the image, or write its id alone")


# XML


ENCODINGS = {
    "gb2312": ('<?xml version="1.0" encoding="GB2312"?>\n', "gb2312", "照片/猫.jpg"),
    "gbk": ("<?xml version='1.0' encoding='gbk'?>", "gbk", "照片/猫.jpg"),
    "Latin-1": ('<?xml version="1.0" encoding="ISO-8859-1"?>', "latin-1", "été.jpg"),
    "Windows": ('<?xml version="1.0" encoding="windows-1252"?>', "cp1252", "été.jpg"),
    "UTF-16": ('<?xml version="1.0" encoding="utf-16"?>', "utf-16", "été.jpg"),
    "Latin-1 undeclared": ("", "latin-1", "été.jpg"),
    "gb2312 undeclared": ('<?xml version="1.0"?>', "gb2312", "照片/猫.jpg"),
    "gb2312 as UTF-8": ('<?xml version="1.0" encoding="UTF-8"?>', "gb2312", "照片/猫.jpg"),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_annotations_in_other_encodings(root: Path, name: str) -> None:
    declaration, encoding, filename = ENCODINGS[name]
    write_annotations(root, declaration=declaration, encoding=encoding, filename=filename)
    assert labels(root, "annotations") == {id: tuple(sorted(names)) for id, names in LABELS.items()}


def test_names_of_classes_in_the_encoding_that_is_declared(root: Path) -> None:
    (root / "classes.txt").write_text("照片\n", encoding="utf-8")
    for id in LABELS:
        text = '<?xml version="1.0" encoding="gb2312"?><annotation><object><name>照片</name></object></annotation>'
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{id}.xml").write_bytes(text.encode("gb2312"))
    assert {*labels(root, "annotations").values()} == {("照片",)}
    for path in (root / "Annotations").iterdir():
        path.write_bytes(path.read_bytes().replace(b' encoding="gb2312"', b""))
    message = refusal(root, "annotations").splitlines()[1]
    assert "img0.xml: has names in another encoding than UTF-8, and does not say in which; declare it in the" in message


# Masks


def test_masks_may_be_called_after_their_kind(root: Path) -> None:
    write_lines(root)
    write_masks(root, ending="_mask")
    rows = index_voc(root, labels="file", threads=2).rows
    assert [row.mask.name for row in rows if row.mask is not None] == [f"{id}_mask.png" for id in LABELS]
    assert labels(root, "masks") == {id: tuple(sorted(names)) for id, names in LABELS.items()}
    # Not where that is the mask of another photograph.
    Image.new("RGB", (64, 48)).save(root / "JPEGImages" / "img0_mask.jpg")
    assert index_voc(root, labels="file", threads=2).rows[0].mask is None


def no_png(root: Path) -> None:
    write_masks(root)
    for path in [*(root / "SegmentationClass").iterdir()]:
        Image.open(path).convert("L").save(path.with_suffix(".jpg"))
        path.unlink()


def a_jpeg(root: Path) -> None:
    no_png(root)
    paths = sorted((root / "SegmentationClass").iterdir())
    write_masks(root)
    for path in paths:
        (path if path.stem != "img7" else path.with_suffix(".png")).unlink()


def other_names(root: Path) -> None:
    write_masks(root, ending="_gt")


def arrays(root: Path) -> None:
    (root / "SegmentationClass").mkdir()
    for id in LABELS:
        np.save(root / "SegmentationClass" / f"{id}.npy", np.zeros((48, 64), np.uint8))


LYING: dict[str, tuple[Callable[[Path], None], str]] = {
    "JPEGs": (no_png, "has 9 files, such as img0.jpg, and no mask <id>.png of an image; name the masks by the ids and"),
    "a JPEG among PNGs": (
        a_jpeg,
        "SegmentationClass/img7.jpg: a mask must be a PNG, whose pixels are label values (JPEG changes them); make it",
    ),
    "other names": (other_names, "SegmentationClass: has 9 files, such as img0_gt.png, and no mask <id>.png of an"),
    "arrays": (arrays, "SegmentationClass: has 9 files, such as img0.npy, and no mask <id>.png of an image; name the"),
}


@pytest.mark.parametrize("source", ["file", "masks"])
@pytest.mark.parametrize("name", LYING)
def test_a_folder_without_a_mask_that_is_read_is_not_passed_over(root: Path, name: str, source: str) -> None:
    write_lines(root)
    write, message = LYING[name]
    write(root)
    assert message in refusal(root, source)


def test_masks_of_photographs_that_are_in_no_list_may_lie_there(root: Path) -> None:
    write_lines(root)
    Image.new("RGB", (64, 48)).save(root / "JPEGImages" / "other.jpg")
    write_labels(root / "SegmentationClass" / "other.png", np.ones((48, 64), np.uint8))
    assert [row.mask for row in index_voc(root, labels="file", threads=2).rows] == [None] * 9
