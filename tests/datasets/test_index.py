"""index.csv and classes.txt: what is written comes back, and what is broken is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getam.datasets.index import COLUMNS, Index, IndexRow, read_index, shard_of, write_index
from getam.errors import InputError


def row(id: str, *, split: str = "train", labels: tuple[str, ...] = ("cat",)) -> IndexRow:
    return IndexRow(
        id=id,
        split=split,
        image=Path(f"JPEGImages/{id}.jpg"),
        mask=Path(f"SegmentationClass/{id}.png") if split == "val" else None,
        height=3,
        width=4,
        labels=labels,
    )


INDEX = Index(
    rows=(row("a", labels=("cat", "potted plant")), row("b"), row("c", split="val", labels=())),
    classes=("cat", "dog", "potted plant"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index.csv that was just written."""
    write_index(tmp_path / "index.csv", INDEX)
    return tmp_path / "index.csv"


def test_the_files_are_plain_text(path: Path) -> None:
    assert path.read_text() == (
        "id,split,image,mask,height,width,labels\n"
        "a,train,JPEGImages/a.jpg,,3,4,cat;potted plant\n"
        "b,train,JPEGImages/b.jpg,,3,4,cat\n"
        "c,val,JPEGImages/c.jpg,SegmentationClass/c.png,3,4,\n"
    )
    assert (path.parent / "classes.txt").read_text() == "cat\ndog\npotted plant\n"


def test_the_index_comes_back(path: Path) -> None:
    assert read_index(path) == INDEX


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a;rm -rf b", "<script>", "$(x)", "é 犬", "=1+1", "'"])
def test_odd_names_come_back(tmp_path: Path, text: str) -> None:
    name = text.replace(";", "")
    index = Index(rows=(row(text, labels=(name,)), row("plain", labels=(name,))), classes=(name,))
    write_index(tmp_path / "index.csv", index)
    assert read_index(tmp_path / "index.csv") == index


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(path: Path, column: str) -> None:
    path.write_text(path.read_text().replace(column, "other", 1))
    with pytest.raises(InputError, match=re.escape(f"{path}: column '{column}' is missing; run index-dataset again")):
        read_index(path)


def test_an_empty_file_is_refused(path: Path) -> None:
    path.write_text("")
    with pytest.raises(InputError, match=r"column .* is missing"):
        read_index(path)


@pytest.mark.parametrize("line", ["b,train,JPEGImages/b.jpg,,three,4,cat", "b,train,JPEGImages/b.jpg", "b"])
def test_a_malformed_row_is_named_by_its_line(path: Path, line: str) -> None:
    path.write_text(path.read_text().replace("b,train,JPEGImages/b.jpg,,3,4,cat", line))
    with pytest.raises(InputError, match=re.escape(f"{path}, line 3: malformed row")):
        read_index(path)


def test_a_row_that_no_csv_has_is_named(path: Path) -> None:
    path.write_text(path.read_text().replace("b,train,JPEGImages/b.jpg", f"b,train,{'b' * 200_000}"))
    with pytest.raises(InputError, match=re.escape(f"{path}, line 3: malformed row (field larger than")):
        read_index(path)


def test_a_row_that_ends_before_its_labels_is_refused(path: Path) -> None:
    path.write_text(path.read_text().replace("b,train,JPEGImages/b.jpg,,3,4,cat", "b,train,JPEGImages/b.jpg,,3,4"))
    with pytest.raises(InputError, match="line 3: malformed row"):
        read_index(path)


def test_a_label_of_no_class_is_named(path: Path) -> None:
    (path.parent / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"line 2: 'potted plant' is not in classes\.txt; run index-dataset again"):
        read_index(path)


@pytest.mark.parametrize("name", ["index.csv", "classes.txt"])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path.parent / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"{path.parent / name}: no such file; run index-dataset again")):
        read_index(path)


def test_a_binary_file_is_named(path: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=re.escape(f"{path}: not UTF-8 text")):
        read_index(path)


def test_splits_rows_and_classes_are_found() -> None:
    assert [one.id for one in INDEX.split("train")] == ["a", "b"]
    assert [one.id for one in INDEX.split("val")] == ["c"]
    assert INDEX.split("test") == []
    assert INDEX.row("b", source=Path("manifest.json")) is INDEX.rows[1]
    # Counted from 0: the label value of a class is one more.
    assert INDEX.class_indices(INDEX.rows[0]) == [0, 2]
    assert INDEX.class_indices(INDEX.rows[2]) == []


def test_class_indices_ascend_whatever_the_order_of_the_labels() -> None:
    assert INDEX.class_indices(row("x", labels=("potted plant", "cat"))) == [0, 2]


def test_an_id_that_is_not_there_is_named_with_its_source() -> None:
    with pytest.raises(InputError, match=r"^maps/000/manifest\.json: id 'zzz' is not in index\.csv; run the stage"):
        INDEX.row("zzz", source=Path("maps/000/manifest.json"))


@settings(deadline=None)
@given(count=st.integers(0, 60), shards=st.integers(1, 70))
def test_shards_are_consecutive_parts_of_nearly_equal_length(count: int, shards: int) -> None:
    rows = [row(str(number)) for number in range(count)]
    parts = [shard_of(rows, shard, shards) for shard in range(shards)]
    assert [one for part in parts for one in part] == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_id_that_cannot_be_seen_for_what_it_is_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path / "index.csv", Index(rows=(row("a\u00a0b", labels=("x",)),), classes=("x",)))
    with pytest.raises(InputError, match=r"line 2: id .* is not a plain file name"):
        read_index(tmp_path / "index.csv")
