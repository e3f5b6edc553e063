"""A shard folder that exists is complete and says how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import getam.version
from getam.errors import InputError
from getam.index import Index, IndexRow
from getam.settings import RefineSettings
from getam.shards import check_classes, new_shard, read_manifest, rows_of, shard_folders, shard_name

SETTINGS = RefineSettings(iterations=2, dilations=(1, 2))
CLASSES = ("cat", "dog")
INDEX = Index(
    rows=tuple(
        IndexRow(id=id, split="train", image=Path(f"{id}.jpg"), mask=None, height=3, width=4, labels=("cat",))
        for id in ("a", "b", "c")
    ),
    classes=CLASSES,
)


def write_shard(path: Path, *, ids: tuple[str, ...] = ("b", "a"), written: tuple[str, ...] = ("a", "b")) -> None:
    with new_shard(path, ids=ids, suffix=".npy", classes=CLASSES, settings=SETTINGS, facts={"size": 7}) as folder:
        for id in written:
            (folder / f"{id}.npy").write_bytes(b"")


def test_the_manifest_says_what_is_in_a_shard_and_how_it_was_made(tmp_path: Path) -> None:
    write_shard(tmp_path / "000")
    assert json.loads((tmp_path / "000" / "manifest.json").read_text()) == {
        "ids": ["b", "a"],
        "classes": ["cat", "dog"],
        "settings": {"iterations": 2, "dilations": [1, 2]},
        "version": getam.version.VERSION,
        "size": 7,
    }
    assert sorted(path.name for path in (tmp_path / "000").iterdir()) == [".getam", "a.npy", "b.npy", "manifest.json"]


def test_a_shard_may_have_no_settings(tmp_path: Path) -> None:
    with new_shard(tmp_path / "000", ids=[], suffix=".png", classes=CLASSES, settings=None):
        pass
    assert read_manifest(tmp_path / "000")["settings"] == {}


def test_a_missing_file_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"000: 2 files were not written, first b\.npy"):
        write_shard(tmp_path / "000", ids=("a", "b", "c"), written=("a",))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_stage_leaves_the_old_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "000")

    def stop() -> None:
        with new_shard(tmp_path / "000", ids=["c"], suffix=".npy", classes=CLASSES, settings=SETTINGS) as folder:
            (folder / "c.npy").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert read_manifest(tmp_path / "000")["ids"] == ["b", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["000"]


def test_rows_come_in_the_order_of_the_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "000")
    assert rows_of(tmp_path / "000", INDEX) == [INDEX.rows[1], INDEX.rows[0]]


def test_a_shard_of_other_images_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "000", ids=("a", "zzz"), written=("a", "zzz"))
    with pytest.raises(InputError, match=r"000/manifest\.json: id 'zzz' is not in index\.csv"):
        rows_of(tmp_path / "000", INDEX)


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat",), ("cat", "dog", "cow")])
def test_a_shard_of_other_classes_is_named(tmp_path: Path, classes: tuple[str, ...]) -> None:
    write_shard(tmp_path / "000")
    with pytest.raises(InputError, match=r"000/manifest\.json: was made for other classes than index\.csv has; run"):
        rows_of(tmp_path / "000", Index(rows=INDEX.rows, classes=classes))


def test_classes_are_compared_by_order_whatever_holds_them() -> None:
    check_classes(["cat", "dog"], INDEX, source=Path("model.json"))
    with pytest.raises(InputError, match=r"^model\.json: "):
        check_classes(["dog", "cat"], INDEX, source=Path("model.json"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / '000'}: no such folder; run the stage")):
        read_manifest(tmp_path / "000")
    (tmp_path / "000").mkdir()
    with pytest.raises(InputError, match=r"000/manifest\.json: no such file"):
        read_manifest(tmp_path / "000")


@pytest.mark.parametrize("text", ["[]", "{}", '{"ids": "abc"}', "3"])
def test_a_manifest_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: holds no list of ids; delete the folder"):
        read_manifest(tmp_path)


def test_shard_folders_are_those_of_the_number_given(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / shard_name(number)).mkdir()
    assert shard_folders(tmp_path, 2) == [tmp_path / "000", tmp_path / "001"]
    assert shard_name(999) == "999"
