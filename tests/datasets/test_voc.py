"""Data sets in VOC layout: what is indexed, and how every kind of damage stops before any training."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.images import save_gray, turn

from getam.cli import STAGES, command
from getam.datasets.index import Index, IndexRow, read_index
from getam.datasets.voc import index_voc, is_safe_id
from getam.errors import MAX_OFFENDERS, InputError
from getam.system.image_files import write_labels

CLASSES = ("cat", "dog", "potted plant")
TRAIN = {"t1": ("dog", "cat"), "t2": ("potted plant",), "t3": ("cat",)}
VAL: dict[str, tuple[str, ...]] = {"v1": ("dog",), "v2": ()}
WITH_MASK = ("t1", "v1", "v2")
SIZE = (12, 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small data set in VOC layout: three images in train, two in val, three classes, three masks."""
    root = tmp_path / "voc"
    (root / "classes.txt").parent.mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for split, images in {"train": TRAIN, "val": VAL}.items():
        write_list(root, split, list(images))
        for id, labels in images.items():
            write_photograph(root, id)
            write_annotation(root, id, labels)
    for id in WITH_MASK:
        write_mask(root, id, np.array([0, 1, 2, 3, 255], np.uint8))
    # One word a class: the plant's name has a space and stands in Annotations alone.
    (root / "image_labels.txt").write_text("t1 dog cat\nt2 dog\n\nt3 cat\nv1 dog\nunlisted cat\n")
    return root


def write_list(root: Path, split: str, ids: list[str]) -> None:
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{id}\n" for id in ids))


def write_photograph(root: Path, id: str, *, suffix: str = ".jpg") -> None:
    path = root / "JPEGImages" / f"{id}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(id.encode())).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(root: Path, id: str, values: np.ndarray, *, size: tuple[int, int] = SIZE) -> None:
    write_labels(root / "SegmentationClass" / f"{id}.png", np.resize(values, size))


def write_annotation(root: Path, id: str, labels: tuple[str, ...]) -> None:
    """In VOC's form, with a part that has a class's name inside every object."""
    path = root / "Annotations" / f"{id}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(f"<object><name>{name}</name><part><name>potted plant</name></part></object>" for name in labels)
    path.write_text(f"<annotation><filename>{id}.jpg</filename>{objects}</annotation>")


def index(root: Path, *, labels: str = "annotations") -> Index:
    return index_voc(root, labels=labels, threads=2)


def refusal(root: Path, *, labels: str = "annotations") -> str:
    with pytest.raises(InputError) as caught:
        index(root, labels=labels)
    return str(caught.value)


def expected_row(root: Path, id: str, split: str, labels: tuple[str, ...]) -> IndexRow:
    return IndexRow(
        id=id,
        split=split,
        image=root / "JPEGImages" / f"{id}.jpg",
        mask=root / "SegmentationClass" / f"{id}.png" if id in WITH_MASK else None,
        height=12,
        width=16,
        labels=labels,
    )


# What is indexed


def test_the_rows_of_a_data_set_with_annotations(root: Path) -> None:
    assert index(root) == Index(
        rows=(
            expected_row(root, "t1", "train", ("cat", "dog")),
            expected_row(root, "t2", "train", ("potted plant",)),
            expected_row(root, "t3", "train", ("cat",)),
            expected_row(root, "v1", "val", ("dog",)),
            expected_row(root, "v2", "val", ()),
        ),
        classes=CLASSES,
    )


def test_the_rows_of_a_data_set_with_a_label_file(root: Path) -> None:
    rows = index(root, labels="file").rows
    assert {row.id: row.labels for row in rows} == {
        "t1": ("cat", "dog"),
        "t2": ("dog",),
        "t3": ("cat",),
        "v1": ("dog",),
        "v2": (),
    }


def test_each_label_source_leaves_the_other_unread(root: Path) -> None:
    label_file = root / "image_labels.txt"
    text = label_file.read_text()
    label_file.unlink()
    index(root)
    label_file.write_text(text)
    for path in (root / "Annotations").iterdir():
        path.unlink()
    index(root, labels="file")


def test_the_order_is_that_of_the_lists(root: Path) -> None:
    write_list(root, "train", ["t3", "t1", "t2"])
    assert [row.id for row in index(root).rows] == ["t3", "t1", "t2", "v1", "v2"]


def test_masks_may_be_missing(root: Path) -> None:
    for path in (root / "SegmentationClass").iterdir():
        path.unlink()
    (root / "SegmentationClass").rmdir()
    assert [row.mask for row in index(root).rows] == [None] * 5


def test_images_may_be_png_or_jpeg(root: Path) -> None:
    for id, suffix in (("t1", ".png"), ("t2", ".jpeg")):
        (root / "JPEGImages" / f"{id}.jpg").unlink()
        write_photograph(root, id, suffix=suffix)
    assert [row.image.name for row in index(root).rows] == ["t1.png", "t2.jpeg", "t3.jpg", "v1.jpg", "v2.jpg"]


@pytest.mark.parametrize("id", ["a;rm -rf b", "<script>", "$(touch x)", "a'b\"c", "100%", "{shard}", "犬 é", "a,b"])
def test_ids_with_characters_of_a_shell_or_a_page_are_plain_text(root: Path, tmp_path: Path, id: str) -> None:
    write_list(root, "train", [id, *TRAIN])
    write_photograph(root, id)
    write_annotation(root, "other", ("cat",))
    (root / "Annotations" / "other.xml").rename(root / "Annotations" / f"{id}.xml")
    write_mask(root, id, np.array([1], np.uint8))
    out = tmp_path / "out" / "index.csv"
    assert run_index(root, out) == 0
    row = read_index(out).rows[0]
    assert (row.id, row.image, row.labels) == (id, root / "JPEGImages" / f"{id}.jpg", ("cat",))
    assert row.mask == root / "SegmentationClass" / f"{id}.png"


@pytest.mark.parametrize(
    ("id", "safe"),
    [
        ("2007_000032", True),
        ("a.b", True),
        ("a" * 200, True),
        ("a" * 201, False),
        ("", False),
        (".", False),
        ("..", False),
        (".hidden", False),
        ("-rf", False),
        ("a/b", False),
        ("../x", False),
        ("a\\b", False),
        ("a\x00b", False),
        ("a\nb", False),
        ("a\u202eb", False),
    ],
)
def test_which_ids_are_safe(id: str, safe: bool) -> None:
    assert is_safe_id(id) is safe


def test_windows_line_ends_and_blank_lines_are_read(root: Path) -> None:
    for path in (root / "classes.txt", root / "ImageSets" / "Segmentation" / "train.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"  \r\n\r\n"))
    assert [row.id for row in index(root).split("train")] == list(TRAIN)
    assert index(root).classes == CLASSES


def test_masks_may_end_with_capitals(root: Path) -> None:
    path = root / "SegmentationClass" / "t1.png"
    path.rename(path.with_suffix(".PNG"))
    assert index(root).by_id["t1"].mask == path.with_suffix(".PNG")


@pytest.mark.parametrize("name", ["classes.txt", "image_labels.txt", "ImageSets/Segmentation/train.txt"])
def test_a_mark_of_utf8_at_the_start_is_no_part_of_a_name(root: Path, name: str) -> None:
    before = index(root, labels="file")
    (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    assert index(root, labels="file") == before


def test_turned_photographs_of_the_masks_size_are_reported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn(root / "JPEGImages" / "t1.jpg", 3)
    # Without a mask nothing is drawn on it.
    turn(root / "JPEGImages" / "t2.jpg", 6)
    # Drawn on the upright photograph.
    turn(root / "JPEGImages" / "v1.jpg", 8)
    write_mask(root, "v1", np.array([1], np.uint8), size=(16, 12))
    out = tmp_path / "out" / "index.csv"
    assert run_index(root, out) == 0
    turned = [str(root / "JPEGImages" / f"{id}.jpg") for id in ("t1", "v1")]
    assert json.loads((out.parent / "index.json").read_text())["turned"] == turned
    error = capsys.readouterr().err
    for path in turned:
        assert f"{path} is turned by EXIF" in error
    assert "2 photographs with a mask are turned by EXIF" in error


def test_masks_that_lack_in_val_are_reported(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "SegmentationClass" / "v2.png").unlink()
    assert run_index(root, tmp_path / "out" / "index.csv") == 0
    assert "val: 1 of 2 images have no mask" in capsys.readouterr().err


@pytest.mark.parametrize(("copies", "across"), [({"t2": "t1"}, 0), ({"t2": "t1", "v1": "t1"}, 1), ({"v1": "t1"}, 1)])
def test_files_that_are_there_twice_are_reported(
    root: Path, tmp_path: Path, copies: dict[str, str], across: int, capsys: pytest.CaptureFixture[str]
) -> None:
    images = root / "JPEGImages"
    for copy, id in copies.items():
        (images / f"{copy}.jpg").write_bytes((images / f"{id}.jpg").read_bytes())
    out = tmp_path / "out" / "index.csv"
    assert run_index(root, out) == 0
    # Those across splits come first.
    expected = [[str(images / f"{id}.jpg"), str(images / f"{copy}.jpg")] for copy, id in sorted(copies.items())[::-1]]
    assert json.loads((out.parent / "index.json").read_text())["repeated"] == expected
    where = f"{across} of them in two splits, by which a score is better" if across else "each in one split"
    assert f"{len(copies)} images are there twice, {where}" in capsys.readouterr().err


# What is refused


def test_a_repeated_id_in_a_label_file(root: Path) -> None:
    append(root / "image_labels.txt", "t1 cat")
    assert refusal(root, labels="file") == f"{root / 'image_labels.txt'}: id 't1' stands there twice; leave one"


def test_a_mask_without_a_class_is_named_where_labels_are_masks(root: Path) -> None:
    for id in TRAIN:
        write_mask(root, id, np.array([1], np.uint8))
    write_mask(root, "t2", np.array([0, 255], np.uint8))
    path = root / "SegmentationClass" / "t2.png"
    assert refusal(root, labels="masks").startswith(f"t2: no image label in {path}; label the image")


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize(("values", "said"), [([0, 255], "0 and 255"), ([255], "255"), ([0], "0")])
def test_masks_without_a_class_value_are_refused_as_one_where_labels_are_masks(
    root: Path, negatives: bool, values: list[int], said: str
) -> None:
    for id in (*TRAIN, *VAL):
        write_mask(root, id, np.array(values, np.uint8))
    with pytest.raises(InputError) as caught:
        index_voc(root, labels="masks", threads=1, negatives=negatives)
    assert str(caught.value) == (
        f"{root / 'SegmentationClass'}: no mask shows a class, only {said}; write the value of its class into an "
        "object's pixels (cat is 1, dog is 2 and so on; 255 is void, which isn't scored), or remove the masks and set "
        "data.labels to annotations or file"
    )
    for path in (root / "SegmentationClass").iterdir():
        path.unlink()
    assert len(index(root).rows) == 5


@pytest.mark.parametrize("wrong", ["damaged", "of another size", "missing"])
def test_what_is_wrong_with_single_masks_comes_before_that_none_shows_a_class(root: Path, wrong: str) -> None:
    for id in (*TRAIN, *VAL):
        write_mask(root, id, np.array([0], np.uint8))
    path = root / "SegmentationClass" / "t2.png"
    if wrong == "damaged":
        path.write_bytes(b"x")
    elif wrong == "missing":
        path.unlink()
    else:
        write_mask(root, "t2", np.array([1], np.uint8), size=(9, 9))
    message = refusal(root, labels="masks")
    assert "no mask shows a class" not in message
    assert str(path) in message


def test_masks_of_test_need_no_class(root: Path) -> None:
    write_list(root, "test", ["x1"])
    write_photograph(root, "x1")
    write_mask(root, "x1", np.array([0], np.uint8))
    (row,) = index_voc(root, labels="masks", threads=1, splits=("test",)).rows
    assert row.labels == ()


def a_folder(out: Path) -> Path:
    out.mkdir(parents=True)
    return out


def classes_a_folder(out: Path) -> Path:
    (out.parent / "classes.txt").mkdir(parents=True)
    return out


def below_a_file(out: Path) -> Path:
    out.parent.mkdir()
    out.write_text("precious")
    return out / "deep" / "index.csv"


def no_utf8(out: Path) -> Path:
    return out.parent / os.fsdecode(b"caf\xe9") / "index.csv"


OUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder": (a_folder, "--out {}: is a folder; name a file"),
    "classes.txt a folder": (classes_a_folder, "classes.txt: is a folder"),
    "below a file": (below_a_file, "out/index.csv: is a file; name a path below a folder"),
    "not UTF-8": (no_utf8, "caf\\udce9/index.csv': is no UTF-8"),
}


@pytest.mark.parametrize("name", OUTS)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(
    root: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = OUTS[name]
    out = make(tmp_path / "out" / "index.csv")
    (root / "JPEGImages" / "t1.jpg").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert run_index(root, out) == 1
    error = capsys.readouterr().err
    assert message.format(out) in error
    assert error.count("getam index-dataset: ") == 1
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_root_whose_name_is_not_utf8_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = root.rename(tmp_path / os.fsdecode(b"voc\xff"))
    assert run_index(odd, tmp_path / "out" / "index.csv") == 1
    error = capsys.readouterr().err
    assert "voc\\udcff': is no UTF-8, in which index.csv is written; rename the folder" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_xml(root: Path, text: str) -> None:
    (root / "Annotations" / "t3.xml").write_text(text)


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def _lists(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


ENTITY_BOMB = (
    '<!DOCTYPE a [<!ENTITY a "cat">' + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in ("ab", "bc", "cd", "de"))
) + "]><annotation><object><name>&e;</name></object></annotation>"
EXTERNAL_ENTITY = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><object><name>&x;</name></object></annotation>'
)

Damage = tuple[Callable[[Path], object], tuple[str, ...]]

DAMAGES: dict[str, Damage] = {
    # What is done to the data set; what the message must say: the place and the cure.
    "image missing": (
        lambda root: (root / "JPEGImages" / "t2.jpg").unlink(),
        ("JPEGImages/t2.jpg: no such image", "add the file or take its id off the list"),
    ),
    "image truncated": (
        lambda root: cut(root / "JPEGImages" / "t2.jpg"),
        ("JPEGImages/t2.jpg: cannot be decoded", "replace the file"),
    ),
    "image of text": (
        lambda root: (root / "JPEGImages" / "v1.jpg").write_text("text"),
        ("JPEGImages/v1.jpg: cannot be decoded", "replace the file"),
    ),
    "mask of another size": (
        lambda root: write_mask(root, "t1", np.array([1], np.uint8), size=(16, 12)),
        ("SegmentationClass/t1.png: the mask is 12x16, its image 16x12 pixels", "make them equal"),
    ),
    "mask beyond the classes": (
        lambda root: write_mask(root, "v1", np.array([0, 37, 255], np.uint8)),
        ("SegmentationClass/v1.png: mask value 37 is beyond the 3 classes", "allowed: 0 to 3, and 255"),
    ),
    "mask one beyond the classes": (
        lambda root: write_mask(root, "v1", np.array([0, 4], np.uint8)),
        ("SegmentationClass/v1.png: mask value 4 is beyond", "allowed: 0 to 3, and 255"),
    ),
    "mask of colors": (
        lambda root: Image.new("RGB", (16, 12)).save(root / "SegmentationClass" / "t1.png"),
        ("SegmentationClass/t1.png: a mask must be a palette or gray PNG", "convert its colors"),
    ),
    "mask of four bits": (
        lambda root: save_gray(root / "SegmentationClass" / "t1.png", 4),
        ("SegmentationClass/t1.png: a 4-bit gray PNG", "save it with 8 bits"),
    ),
    "mask that is a JPEG": (
        lambda root: Image.new("L", (16, 12)).save(root / "SegmentationClass" / "t1.png", format="JPEG"),
        ("SegmentationClass/t1.png: a mask must be a PNG, this one is JPEG", "make it anew as PNG"),
    ),
    "mask that is a broken link": (
        lambda root: (root / "SegmentationClass" / "t2.png").symlink_to(root / "nowhere"),
        ("SegmentationClass/t2.png: is a link to no file", "correct it or remove it"),
    ),
    "mask of a photograph that EXIF turns": (
        lambda root: turn(root / "JPEGImages" / "t1.jpg", 6),
        ("JPEGImages/t1.jpg: EXIF orientation 6 turns the photograph, but its mask", "save the photograph without"),
    ),
    "mask truncated": (
        lambda root: cut(root / "SegmentationClass" / "t1.png"),
        ("SegmentationClass/t1.png: cannot be decoded", "replace the file"),
    ),
    "id that climbs": (
        lambda root: append(_lists(root, "train"), "../x"),
        ("train.txt: id '../x' is not a plain file name", "rename the image"),
    ),
    "id with a folder": (
        lambda root: append(_lists(root, "val"), "a/b"),
        ("val.txt: id 'a/b' is not a plain file name", "rename the image"),
    ),
    "long id": (
        lambda root: append(_lists(root, "train"), "ä" * 101),
        ("ä' is not a plain file name", "or longer than 200 bytes); rename the image"),
    ),
    "absolute id": (
        lambda root: append(_lists(root, "train"), "/etc/passwd"),
        ("train.txt: id '/etc/passwd' is not a plain file name", "rename the image"),
    ),
    "id twice": (
        lambda root: append(_lists(root, "train"), "t1"),
        ("train.txt: id 't1' stands there twice; leave one",),
    ),
    "id in both splits": (
        lambda root: append(_lists(root, "val"), "t1"),
        ("id 't1' is in train.txt and in val.txt", "not trained on"),
    ),
    "no label in train": (
        lambda root: write_annotation(root, "t3", ()),
        ("t3: no image label in ", "Annotations/t3.xml; label the image or take its id off train.txt"),
    ),
    "label of no class": (
        lambda root: write_annotation(root, "t3", ("cow",)),
        ("t3: label 'cow' is not in ", "classes.txt; add it there or correct it"),
    ),
    "label of no class in val": (
        lambda root: write_annotation(root, "v2", ("cow",)),
        ("v2: label 'cow' is not in ",),
    ),
    "no classes.txt": (
        lambda root: (root / "classes.txt").unlink(),
        ("classes.txt: no such file", "'potted plant' of t2 is none of VOC's 20"),
    ),
    "empty classes.txt": (
        lambda root: (root / "classes.txt").write_text("\n \n"),
        ("classes.txt: no class names; write one a line",),
    ),
    **{
        f"{name} among the classes": (
            lambda root, name=name: append(root / "classes.txt", name),  # type: ignore[misc]
            (f"classes.txt: {name!r} is no class but label value 0 (unknown pixels are 255); take it off the list",),
        )
        for name in ("_background_", "__ignore__", "Background", "BACKGROUND", "bg", "void")
    },
    "class twice": (
        lambda root: append(root / "classes.txt", "dog"),
        ("classes.txt: class 'dog' stands there twice", "must differ"),
    ),
    "class with a separator": (
        lambda root: append(root / "classes.txt", "cow;sheep"),
        ("classes.txt: class name 'cow;sheep' holds ';'", "rename the class"),
    ),
    "class with a control character": (
        lambda root: append(root / "classes.txt", "co\x07w"),
        ("classes.txt: class name 'co\\x07w' holds", "rename the class"),
    ),
    "too many classes": (
        lambda root: (root / "classes.txt").write_text("".join(f"{number}\n" for number in range(255))),
        ("classes.txt: 255 classes; label PNGs hold at most 254",),
    ),
    "no list": (lambda root: _lists(root, "val").unlink(), ("val.txt: no such file", "needs it")),
    "empty list": (lambda root: _lists(root, "train").write_text(""), ("train.txt: no ids; write one",)),
    "binary list": (
        lambda root: _lists(root, "train").write_bytes(b"\xff\xfe\x00"),
        ("train.txt: cannot be read as UTF-8 text", "save it as such"),
    ),
    "no annotation": (
        lambda root: (root / "Annotations" / "t3.xml").unlink(),
        ("Annotations/t3.xml: no such file; add it, or set data.labels to file",),
    ),
    "annotation that is a folder": (
        lambda root: ((root / "Annotations" / "t3.xml").unlink(), (root / "Annotations" / "t3.xml").mkdir()),
        ("Annotations/t3.xml: cannot be read (Is a directory); replace it",),
    ),
    "broken annotation": (
        lambda root: cut(root / "Annotations" / "t3.xml"),
        ("Annotations/t3.xml: not a harmless, well-formed XML file", "replace it"),
    ),
    "entity bomb": (
        lambda root: write_xml(root, ENTITY_BOMB),
        ("Annotations/t3.xml: not a harmless", "EntitiesForbidden", "replace it"),
    ),
    "external entity": (
        lambda root: write_xml(root, EXTERNAL_ENTITY),
        ("Annotations/t3.xml: not a harmless", "EntitiesForbidden", "replace it"),
    ),
    "annotation in an unknown encoding": (
        lambda root: write_xml(root, '<?xml version="1.0" encoding="klingon"?><annotation/>'),
        ("Annotations/t3.xml: not a harmless", "replace it"),
    ),
    "id too long for a file": (
        lambda root: append(_lists(root, "train"), "é" * 200),
        ("train.txt: id 'é", "rename the image"),
    ),
}

damages = pytest.mark.parametrize("name", DAMAGES)


@damages
def test_a_damage_gives_one_message_with_place_and_cure(root: Path, name: str) -> None:
    damage, parts = DAMAGES[name]
    damage(root)
    message = refusal(root)
    for part in parts:
        assert part in message
    assert "\n" not in message


def run_index(root: Path, out: Path, *words: str) -> int:
    given = ["--root", str(root), "--labels", "annotations", "--threads", "1", "--out", str(out), *words]
    return command("getam", STAGES, ["index-dataset", *given])


@damages
def test_a_damage_ends_the_command_with_nothing_written(
    root: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, parts = DAMAGES[name]
    damage(root)
    before = sorted(tmp_path.rglob("*"))
    assert run_index(root, tmp_path / "results" / "index.csv") == 1
    error = capsys.readouterr().err
    assert parts[0] in error
    assert error.count("getam index-dataset: ") == 1
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damage_leaves_an_earlier_index_as_it_was(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "index.csv"
    log = tmp_path / "index.log"
    assert run_index(root, out, "--log", str(log)) == 0
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()[-2:]] == [
        "index_dataset: train: 3 images, 1 with a mask",
        "index_dataset: val: 2 images, 2 with a mask",
    ]
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    assert {path.name for path in before} == {"index.csv", "classes.txt", "index.json"}
    assert read_index(out) == index(root)
    append(root / "classes.txt", "cow")
    cut(root / "JPEGImages" / "t1.jpg")
    assert run_index(root, out, "--log", str(log)) == 1
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before
    assert "t1.jpg: cannot be decoded" in log.read_text()


def test_a_missing_folder_names_its_key(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert message == f"{tmp_path / 'nowhere'}: no such folder; set data.root to a folder in VOC layout"


def test_an_image_without_label_in_a_label_file(root: Path) -> None:
    path = root / "image_labels.txt"
    path.write_text(path.read_text().replace("t3 cat", "t3"))
    message = (
        f"t3: no image label in {path}; label the image or take its id off train.txt; if it shows none of the classes"
    )
    assert refusal(root, labels="file") == f"{message}, set data.negatives to background"
    assert index_voc(root, labels="file", threads=1, negatives=True).by_id["t3"].labels == ()
    path.write_text(path.read_text().replace("t3\n", ""))
    assert refusal(root, labels="file") == f"{message}, set data.negatives to background"
    # Nobody has said that it shows none.
    with pytest.raises(InputError) as caught:
        index_voc(root, labels="file", threads=1, negatives=True)
    assert str(caught.value) == f"{message}, write a line with its id alone"


@pytest.mark.parametrize("labels", ["annotations", "masks"])
def test_images_without_a_class_are_learned_from_where_they_are_wanted(root: Path, labels: str) -> None:
    for id in TRAIN:
        write_mask(root, id, np.array([0, 1], np.uint8))
    write_mask(root, "t3", np.array([0, 255], np.uint8))
    write_annotation(root, "t3", ())
    assert refusal(root, labels=labels).endswith("if it shows none of the classes, set data.negatives to background")
    assert index_voc(root, labels=labels, threads=1, negatives=True).by_id["t3"].labels == ()
    words = ["--root", str(root), "--labels", labels, "--negatives", "background", "--out", str(root / "index.csv")]
    assert command("getam", STAGES, ["index-dataset", *words]) == 0
    assert read_index(root / "index.csv").by_id["t3"].labels == ()


def test_a_label_of_no_class_in_a_label_file(root: Path) -> None:
    path = root / "image_labels.txt"
    path.write_text(path.read_text().replace("t3 cat", "t3 cat cow"))
    assert refusal(root, labels="file").startswith("t3: label 'cow' is not in ")


def test_a_missing_label_file(root: Path) -> None:
    (root / "image_labels.txt").unlink()
    assert refusal(root, labels="file").startswith(f"{root / 'image_labels.txt'}: no such file")


def test_names_of_parts_are_no_labels(root: Path) -> None:
    write_xml(
        root,
        "<annotation><object><name> cat </name><part><name>dog</name></part></object><name>dog</name></annotation>",
    )
    assert index(root).by_id["t3"].labels == ("cat",)
    write_xml(root, "<annotation><object><part><name>dog</name></part></object></annotation>")
    assert refusal(root).startswith("t3: no image label in ")


def test_several_offenders_stand_in_one_message(root: Path) -> None:
    (root / "JPEGImages" / "t1.jpg").unlink()
    cut(root / "SegmentationClass" / "v1.png")
    lines = refusal(root).splitlines()
    assert lines[0] == "2 problems:"
    assert [re.search(r"\w+\.(jpg|png)", line)[0] for line in lines[1:]] == ["t1.jpg", "v1.png"]  # type: ignore[index]


@pytest.mark.parametrize("count", [MAX_OFFENDERS, MAX_OFFENDERS + 5])
def test_offenders_beyond_twenty_are_counted(root: Path, count: int) -> None:
    write_list(root, "train", [f"missing{number:02}" for number in range(count)])
    for number in range(count):
        write_annotation(root, f"missing{number:02}", ("cat",))
    lines = refusal(root).splitlines()
    assert lines[0] == f"{count} problems:"
    assert [line.split("/")[-1].split(".")[0] for line in lines[1:21]] == [f"missing{n:02}" for n in range(20)]
    assert lines[21:] == (["  and 5 more"] if count > MAX_OFFENDERS else [])


def test_offending_ids_are_all_listed_before_any_image_is_read(root: Path) -> None:
    append(_lists(root, "train"), "../x")
    append(_lists(root, "val"), "t1")
    (root / "JPEGImages" / "t2.jpg").unlink()
    lines = refusal(root).splitlines()
    assert lines[0] == "2 problems:"
    assert "'../x'" in lines[1]
    assert "'t1'" in lines[2]


# Real photographs


def test_the_real_photographs_are_indexed(shared: Path) -> None:
    real = index(shared / "data" / "msrc", labels="file")
    assert len(real.split("train")) == 299
    assert len(real.split("val")) == 88
    assert len(real.classes) == 14
    assert all(row.labels for row in real.rows)
    assert all(row.mask is not None for row in real.split("val"))


# Masks without a class, and two photographs of one id


@pytest.mark.parametrize("values", [[0, 255], [255]])
def test_masks_without_any_class_are_refused(root: Path, values: list[int]) -> None:
    for id in WITH_MASK:
        write_mask(root, id, np.array(values, np.uint8))
    only = " and ".join(map(str, values))
    cure = rf"no mask shows a class, only {only}; write the value of its class .* \(cat is 1, dog is 2 and so on; 255"
    with pytest.raises(InputError, match=cure):
        index(root)
    # One mask with a class is enough.
    write_mask(root, "v2", np.array([*values, 2], np.uint8))
    assert len(index(root).rows) == 5


def test_two_photographs_of_one_id_are_refused(root: Path) -> None:
    write_photograph(root, "t2", suffix=".png")
    with pytest.raises(InputError, match=r"JPEGImages/t2\.jpg and t2\.png have one id; rename or remove one of them"):
        index(root)
