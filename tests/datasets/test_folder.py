"""Lists of photographs anywhere: what is indexed, and how every kind of damage stops before any training."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.workplace import PROJECT

from getam.cli import STAGES, command
from getam.datasets import documents
from getam.datasets.folder import LIST_COLUMNS, classes_file, index_folder, read_list
from getam.datasets.index import Index, IndexRow, read_index
from getam.datasets.sources import folder_sources
from getam.errors import InputError
from getam.settings.config import validate_config
from getam.settings.reading import read_yaml
from getam.system.image_files import write_labels

ROWS = [
    ("t1", "train", "photographs/deep/t1.JPG", "masks/t1.png", "dog;potted plant"),
    ("v1", "val", "photographs/v1.webp", "", "犬"),
    ("t2", "train", "photographs/t2.tif", "", ""),
    ("t3", "train", "photographs/a b.bmp", "", "犬"),
]
CLASSES = ("dog", "potted plant", "犬")
SIZE = (12, 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A list of three photographs in train and one in val, of which one has a mask."""
    (tmp_path / "photographs" / "deep").mkdir(parents=True)
    for number, (_, _, image, mask, _) in enumerate(ROWS):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / image)
        if mask:
            write_labels(tmp_path / mask, np.resize(np.array([0, 1, 2, 255], np.uint8), SIZE))
    return write(tmp_path / "mine.csv", ROWS)


def write(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = LIST_COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def expected(root: Path, row: tuple[str, ...], labels: tuple[str, ...]) -> IndexRow:
    id, split, image, mask, _ = row
    mask_path = root.parent / mask if mask else None
    return IndexRow(id, split, root.parent / image, mask_path, *SIZE, labels)


def index(root: Path, **settings: object) -> Index:
    return index_folder(root, threads=2, **settings)  # type: ignore[arg-type]


# What is indexed


def test_the_rows_of_a_list(root: Path) -> None:
    assert index(root) == Index(
        rows=(
            expected(root, ROWS[0], ("dog", "potted plant")),
            expected(root, ROWS[2], ()),
            expected(root, ROWS[3], ("犬",)),
            expected(root, ROWS[1], ("犬",)),
        ),
        classes=CLASSES,
    )


def test_the_file_of_classes_gives_their_order_and_those_without_a_photograph(root: Path) -> None:
    classes_file(root).write_text("犬\nhorse\npotted plant\ndog\n")
    write_labels(root.parent / "masks" / "t1.png", np.resize(np.array([0, 3, 4, 255], np.uint8), SIZE))
    found = index(root)
    assert found.classes == ("犬", "horse", "potted plant", "dog")
    assert found.by_id["t1"].labels == ("potted plant", "dog")


def test_further_columns_are_not_read_and_masks_need_none(root: Path) -> None:
    rows = [(id, split, image, "0", "0", labels, "note") for id, split, image, _, labels in ROWS]
    write(root, rows, ("id", "split", "image", "height", "width", "labels", "note"))
    assert [row.mask for row in index(root).rows] == [None] * 4
    assert [(row.height, row.width) for row in index(root).rows] == [SIZE] * 4


def test_paths_may_be_absolute_or_climb(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = [("t1", "train", str(tmp_path / ROWS[0][2]), f"../{ROWS[0][3]}", "dog;potted plant")]
    found = index(write(tmp_path / "lists" / "other.csv", rows))
    assert found.rows[0].image == tmp_path / ROWS[0][2]
    assert found.rows[0].mask == tmp_path / "lists" / ".." / ROWS[0][3]


def test_an_index_is_a_list(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "index.csv"
    assert run_index(root, out) == 0
    assert index(out) == read_index(out)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_may_save_it_with_another_separator(root: Path, delimiter: str) -> None:
    before = index(root)
    with root.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([LIST_COLUMNS, *ROWS, ("",) * 5])
    assert index(root) == before


def test_splits_may_be_empty_but_for_the_first(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, [row for row in ROWS if row[1] == "train"])
    assert run_index(root, tmp_path / "out" / "index.csv") == 0
    assert "no image is in val: no network is scored" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"mine\.csv: no row of the split test; write some"):
        index(root, splits=("test",))
    with pytest.raises(InputError, match=r"mine\.csv: no row of the split train; write some"):
        index(write(root, ROWS[1:2]))


def test_a_part_of_a_list_and_expected_numbers(root: Path) -> None:
    assert [row.id for row in index(root, images=1).rows] == ["t1", "v1"]
    with pytest.raises(InputError, match=r"split train: 3 images where data\.counts\.train expects 4"):
        index(root, counts={"train": 4, "val": 1})


def test_the_report_of_an_index(root: Path, tmp_path: Path) -> None:
    assert run_index(root, tmp_path / "out" / "index.csv") == 0
    report = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (report["format"], report["root"]) == ("folder", str(root))
    assert report["splits"]["train"] == {
        "images": 3,
        "masks": 1,
        "images_of_class": {"dog": 1, "potted plant": 1, "犬": 1},
    }


# What is refused


def change(root: Path, number: int, column: str, value: str) -> None:
    rows = [list(row) for row in ROWS]
    rows[number][LIST_COLUMNS.index(column)] = value
    write(root, [tuple(row) for row in rows])


def append(root: Path, *row: str) -> None:
    write(root, [*ROWS, row])


def labels(text: str) -> Callable[[Path], object]:
    return lambda root: change(root, 3, "labels", text)


Damage = tuple[Callable[[Path], object], tuple[str, ...]]

DAMAGES: dict[str, Damage] = {
    "no list": (lambda root: root.unlink(), ("mine.csv: no such file",)),
    "a folder": (
        lambda root: (root.unlink(), root.mkdir()),
        ("mine.csv: is a folder; data.format folder reads a list",),
    ),
    "an empty list": (lambda root: root.write_text("\n"), ("mine.csv: is empty; write a header",)),
    "no column": (
        lambda root: write(root, [("t1", "train")], ("id", "split")),
        ("mine.csv: column 'image' is missing; a list has id, split, image, mask, labels",),
    ),
    "a column twice": (
        lambda root: write(root, [], ("id", "split", "image", "labels", "labels")),
        ("mine.csv: two columns are called 'labels'; rename one",),
    ),
    "a row of few cells": (
        lambda root: append(root, "t4", "train"),
        ("mine.csv, line 6: 2 cells where the header has 5; give each column one",),
    ),
    "an open quote": (
        lambda root: root.write_text(root.read_text() + 't4,train,"a.jpg,,dog\n'),
        ("mine.csv, line 6: malformed row", "correct the quotes"),
    ),
    "no UTF-8": (
        lambda root: root.write_bytes("id;Größe\n".encode("utf-16")),
        ("mine.csv: cannot be read as UTF-8 text", "save it as such"),
    ),
    "an unknown split": (
        lambda root: change(root, 0, "split", "trian"),
        ("mine.csv, line 2: split 'trian' is none of train, val, test",),
    ),
    "an id twice": (
        lambda root: append(root, *ROWS[1]),
        ("mine.csv, line 6: id 'v1' stands there twice, first in ", "mine.csv, line 3; leave one"),
    ),
    "an id that climbs": (
        lambda root: change(root, 0, "id", "../t1"),
        ("mine.csv, line 2: '../t1': its id is not a plain file name; rename the file",),
    ),
    "no path": (lambda root: change(root, 0, "image", ""), ("mine.csv, line 2: no path in the column image",)),
    "no photograph": (
        lambda root: change(root, 0, "image", "photographs/none.jpg"),
        ("photographs/none.jpg: no such image; add the file or take its id off the list",),
    ),
    "no image": (
        lambda root: change(root, 0, "image", "/etc/passwd"),
        ("/etc/passwd: cannot be decoded", "take its id off the list"),
    ),
    "a path with a zero": (lambda root: change(root, 0, "image", "a\0b"), ("cannot be decoded (", "embedded null ")),
    "a damaged photograph": (
        lambda root: (root.parent / ROWS[0][2]).write_bytes(b"text"),
        ("t1.JPG: cannot be decoded", "replace the file"),
    ),
    "no mask": (
        lambda root: change(root, 0, "mask", "none.png"),
        ("mine.csv, line 2: ", "none.png: no such mask; add it, or leave the cell empty"),
    ),
    "a mask of another size": (
        lambda root: write_labels(root.parent / ROWS[0][3], np.zeros((3, 4), np.uint8)),
        ("masks/t1.png: the mask is 4x3, its image 16x12 pixels",),
    ),
    "a mask beyond the classes": (
        lambda root: write_labels(root.parent / ROWS[0][3], np.full(SIZE, 4, np.uint8)),
        ("masks/t1.png: mask value 4 is beyond the 3 classes",),
    ),
    "a label of no class": (
        lambda root: classes_file(root).write_text("dog\n犬\n"),
        ("mine.csv, line 2: label 'potted plant' is not in ", "mine.classes.txt; add it there or correct it"),
    ),
    "no labels at all": (
        lambda root: write(root, [(*row[:4], "") for row in ROWS]),
        ("mine.csv: no class names",),
    ),
    "a label twice": (labels("dog; dog"), ("mine.csv, line 5: label 'dog' stands there twice; leave one",)),
    "the background": (labels("dog;_Background_"), ("mine.csv, line 5: '_Background_' is no class but label value 0",)),
    "names with commas": (
        labels("dog, potted plant"),
        ("mine.csv, line 5: label 'dog, potted plant' is one name or several", "join names by ; or write the names of"),
    ),
    "names with a bar": (labels("dog|potted plant"), ("line 5: label 'dog|potted plant' is one name or several",)),
    "an unlabeled class": (labels("Unlabeled"), ("mine.csv, line 5: 'Unlabeled' is no class", "take it off the list")),
    "folders of Windows": (
        lambda root: change(root, 1, "image", "photographs\\v1.webp"),
        ("mine.csv, line 3: ", "photographs\\v1.webp: no such file; write a path below the list's folder, with /"),
    ),
    "a mask of Windows": (
        lambda root: change(root, 0, "mask", "C:\\masks\\t1.png"),
        ("mine.csv, line 2: ", "C:\\masks\\t1.png: no such file; write a path below the list's folder, with /"),
    ),
    "a cell of pandas": (
        labels("NaN"),
        ("mine.csv, line 5: 'NaN' is what programs write for no name; leave the cell",),
    ),
    "a void class": (labels("void"), ("mine.csv, line 5: 'void' is no class", "take it off the list")),
    "a control character": (labels("d\x07og"), ("mine.csv, line 5: class name 'd\\x07og' holds ';' or a control",)),
    "a direction that changes": (labels("d\u202eog"), ("mine.csv, line 5: class name 'd\\u202eog' holds",)),
    "a formula": (
        labels("=HYPERLINK(1)"),
        ("mine.csv, line 5: class name '=HYPERLINK(1)' begins like a formula", "rename the class"),
    ),
    "a long name": (labels("x" * 201), ("mine.csv, line 5: class name 'xxxxxxxxxxxxxxxxxxxx'... has 201 letters",)),
    "a class twice": (
        lambda root: classes_file(root).write_text("dog\ndog\n"),
        ("mine.classes.txt: class 'dog' stands there twice",),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_ends_the_command_with_one_message_and_nothing_written(
    root: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, parts = DAMAGES[name]
    damage(root)
    before = sorted(tmp_path.rglob("*"))
    assert run_index(root, tmp_path / "results" / "index.csv") == 1
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert error.count("getam index-dataset: ") == 1
    assert "problems" not in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def run_index(root: Path, out: Path) -> int:
    words = ["--format", "folder", "--root", str(root), "--threads", "1", "--out", str(out)]
    return command("getam", STAGES, ["index-dataset", *words])


def test_a_list_of_many_damages_counts_them(root: Path) -> None:
    write(root, [("..", "trian", "", "", "") for _ in range(30)])
    with pytest.raises(InputError, match=r"^119 problems:\n(.*\n){20}  and 99 more$"):
        read_list(root)


def test_a_document_that_is_too_large_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "DOCUMENT_BYTES", 10)
    with pytest.raises(InputError, match=r"mine\.csv: is larger than 10 bytes; take what isn't needed out of it"):
        read_list(root)


def test_labels_come_from_the_list_alone(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--format", "folder", "--root", str(root), "--labels", "masks", "--out", str(tmp_path / "index.csv")]
    assert command("getam", STAGES, ["index-dataset", *words]) == 1
    assert "the labels are in the list; write annotations" in capsys.readouterr().err


def test_a_list_whose_name_is_no_utf8_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = root.rename(tmp_path / os.fsdecode(b"mine\xff.csv"))
    assert run_index(odd, tmp_path / "out" / "index.csv") == 1
    assert "is no UTF-8, in which index.csv is written" in capsys.readouterr().err


# Photographs that nobody has labelled, and accents


def with_labelled(root: Path, number: int, said: str) -> Path:
    rows = [(*row, "yes") for row in ROWS]
    rows[number] = (*ROWS[number][:4], "" if said == "no" else ROWS[number][4], said)
    return write(root, rows, (*LIST_COLUMNS, "labelled"))


def test_a_photograph_of_val_may_be_one_that_nobody_has_labelled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index(with_labelled(root, 1, "")).by_id["v1"].labelled
    found = index(with_labelled(root, 1, "no"))
    assert [row.id for row in found.rows if not row.labelled] == ["v1"]
    monkeypatch.chdir(tmp_path)
    assert run_index(root, tmp_path / "index.csv") == 0
    assert "val: nobody has labelled 1 of 1 images" in capsys.readouterr().err
    # An index is a list.
    assert index(tmp_path / "index.csv") == read_index(tmp_path / "index.csv")


@pytest.mark.parametrize(
    ("number", "said", "message"),
    [
        (0, "no", "line 2: is in train, or has labels, and labelled says no; write yes, or take the row off the list"),
        (1, "never", "line 3: 'never' in the column labelled is neither yes nor no"),
    ],
)
def test_what_is_not_labelled_is_in_val_and_has_no_labels(root: Path, number: int, said: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index(with_labelled(root, number, said))


def test_accents_of_a_list_may_be_written_otherwise_than_those_of_the_files(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "été")
    folder.mkdir()
    (tmp_path / ROWS[0][2]).rename(folder / unicodedata.normalize("NFD", "à.jpg"))
    row = (unicodedata.normalize("NFD", "à"), "train", unicodedata.normalize("NFC", "été/à.jpg"), *ROWS[0][3:])
    found = index(write(root, [row, *ROWS[1:]])).rows[0]
    assert found.id == unicodedata.normalize("NFC", "à")
    assert found.image.is_file()
    # A change of the file is noticed by the name that it has.
    settings = validate_config(read_yaml(PROJECT / "config.yaml")).data.model_copy(update={"root": root})
    assert str(found.image) in folder_sources(settings, ["train"]).indexed
