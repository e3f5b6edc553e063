"""A shard folder that exists is complete and says how it was made; one that was stopped is gone on with."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import getam.datasets.shards
import getam.system.version
from getam.datasets.index import Index, IndexRow
from getam.datasets.shards import (
    QUEUED,
    ShardWriter,
    check_classes,
    new_shard,
    read_manifest,
    rows_of,
    shard_folders,
    shard_name,
)
from getam.errors import InputError
from getam.settings.maps import RefineSettings
from getam.system.files import tells_case_apart

SETTINGS = RefineSettings(iterations=2, dilations=(1, 2))
CLASSES = ("cat", "dog")
INDEX = Index(
    rows=tuple(
        IndexRow(id=id, split="train", image=Path(f"{id}.jpg"), mask=None, height=3, width=4, labels=("cat",))
        for id in ("a", "b", "c")
    ),
    classes=CLASSES,
)


@contextmanager
def shard_of(path: Path, ids: Sequence[str], **changes: Any) -> Iterator[ShardWriter]:
    how: dict[str, Any] = {"suffix": ".npy", "classes": CLASSES, "settings": SETTINGS} | changes
    with new_shard(path, ids=ids, threads=2, **how) as shard:
        yield shard


def write(path: Path, text: str = "") -> None:
    path.write_text(text)


def write_shard(path: Path, *, ids: tuple[str, ...] = ("b", "a"), written: tuple[str, ...] = ("a", "b")) -> None:
    with shard_of(path, ids, manifest_entries={"size": 7}) as shard:
        for id in written:
            shard.submit(id, write)


def test_the_manifest_says_what_is_in_a_shard_and_how_it_was_made(tmp_path: Path) -> None:
    write_shard(tmp_path / "000")
    assert json.loads((tmp_path / "000" / "manifest.json").read_text()) == {
        "ids": ["b", "a"],
        "classes": ["cat", "dog"],
        "settings": {"iterations": 2, "dilations": [1, 2]},
        "version": getam.system.version.VERSION,
        "size": 7,
    }
    assert sorted(path.name for path in (tmp_path / "000").iterdir()) == [".getam", "a.npy", "b.npy", "manifest.json"]


def test_a_shard_may_have_no_settings(tmp_path: Path) -> None:
    with shard_of(tmp_path / "000", [], settings=None):
        pass
    assert read_manifest(tmp_path / "000")["settings"] == {}


def test_ids_that_would_be_one_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".getam").touch()
    assert tells_case_apart(tmp_path)
    # So does a file system look that takes upper and lower case for the same.
    (tmp_path / ".GETAM").touch()
    assert not tells_case_apart(tmp_path)
    monkeypatch.setattr(getam.datasets.shards, "tells_case_apart", lambda folder: False)
    message = r"000: the ids 'a' and 'A' differ in upper and lower case alone, .*; put the results on another one"
    with pytest.raises(InputError, match=message):
        write_shard(tmp_path / "000", ids=("a", "b", "A"), written=())
    write_shard(tmp_path / "001")


def test_a_missing_file_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"000: 2 files were not written, first b\.npy"):
        write_shard(tmp_path / "000", ids=("a", "b", "c"), written=("a",))
    assert list(tmp_path.iterdir()) == []


ROWS = {row.id: row for row in INDEX.rows}
BATCHES = [[ROWS["a"], ROWS["b"]], [ROWS["c"]]]


def stopped(path: Path, error: BaseException, **changes: Any) -> None:
    """Writes a and c of three images, then ends with `error`."""

    def stop() -> None:
        with shard_of(path, ["a", "b", "c"], **changes) as shard:
            for id in ("a", "c"):
                shard.submit(id, write, "first")
            assert sum(shard.wait()) <= 2
            raise error

    with pytest.raises(type(error)):
        stop()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("CUDA out of memory"), OSError("disk full")])
def test_a_stopped_shard_is_gone_on_with(tmp_path: Path, error: BaseException) -> None:
    stopped(tmp_path / "000", error)
    assert not (tmp_path / "000").exists()
    with shard_of(tmp_path / "000", ["a", "b", "c"]) as shard:
        # Batches stay whole: a is computed once more beside b.
        assert shard.unfinished(BATCHES) == BATCHES[:1]
        for id in ("a", "b"):
            shard.submit(id, write, "second")
    assert {path.name: path.read_text() for path in (tmp_path / "000").glob("*.npy")} == {
        "a.npy": "second",
        "b.npy": "second",
        "c.npy": "first",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000"]
    assert ".key" not in [path.name for path in (tmp_path / "000").iterdir()]


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": RefineSettings(iterations=3, dilations=(1, 2))},
        {"manifest_entries": {"size": 8}},
        {"classes": ("dog", "cat")},
        {"suffix": ".png"},
        {"inputs": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_stopped_shard_of_other_making_is_begun_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    photograph = tmp_path / "a.jpg"
    photograph.write_bytes(b"1")
    stopped(tmp_path / "out" / "000", KeyboardInterrupt(), inputs=[photograph])
    if changes.get("inputs"):
        photograph.write_bytes(b"22")
    how = {"inputs": [photograph]} | {name: value for name, value in changes.items() if name != "inputs"}
    with shard_of(tmp_path / "out" / "000", ["a", "b", "c"], **how) as shard:
        assert shard.unfinished(BATCHES) == BATCHES
        for id in ("a", "b", "c"):
            shard.submit(id, write)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000"]


def test_bad_input_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    stopped(tmp_path / "000", InputError("a.jpg: cannot be decoded"))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_stage_leaves_the_old_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "000")
    stopped(tmp_path / "000", KeyboardInterrupt())
    assert read_manifest(tmp_path / "000")["ids"] == ["b", "a"]


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"gone\.npy: no such file"),
        shard_of(tmp_path / "000", [], inputs=[tmp_path / "gone.npy"]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def fail(path: Path) -> None:
    raise InputError(f"{path.name}: cannot be written")


@pytest.mark.parametrize("in_processes", [False, True])
def test_what_a_worker_raises_is_raised(tmp_path: Path, in_processes: bool) -> None:
    def run() -> None:
        with shard_of(tmp_path / "000", ["a", "b"], in_processes=in_processes) as shard:
            shard.submit("a", write)
            shard.submit("b", fail)

    with pytest.raises(InputError, match=r"^b\.npy: cannot be written$"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_lets_only_so_many_wait(tmp_path: Path) -> None:
    started: list[Path] = []
    ids = [str(number) for number in range(60)]

    def slow(path: Path) -> None:
        started.append(path)
        time.sleep(0.002)
        write(path)

    with shard_of(tmp_path / "000", ids) as shard:
        done = 0
        for number, id in enumerate(ids):
            done += shard.submit(id, slow)
            # Two workers write, the others wait.
            assert number + 1 - done <= 2 + QUEUED
        assert done + sum(shard.wait()) == 60
    assert len(started) == 60


def test_a_slow_file_holds_up_no_other(tmp_path: Path) -> None:
    released = threading.Event()

    def write_when(path: Path) -> None:
        if path.stem == "0":
            assert released.wait(300)
        write(path)

    ids = [str(number) for number in range(30)]
    with shard_of(tmp_path / "000", ids) as shard:
        for id in ids:
            shard.submit(id, write_when)
        released.set()


def test_write_all_counts_what_is_done(tmp_path: Path) -> None:
    rows = [ROWS[id] for id in ("a", "b", "c")]
    with shard_of(tmp_path / "000", ["a", "b", "c"]) as shard:
        counts = list(shard.write_all(rows, write, lambda row: (row.id * 2,)))
    assert sum(counts) == 3
    assert [(tmp_path / "000" / f"{id}.npy").read_text() for id in "abc"] == ["aa", "bb", "cc"]


def write_when_settled(path: Path, folder: Path) -> None:
    (folder / "begun").touch()
    while not (folder / "settled").exists():
        time.sleep(0.01)
    path.write_text("")


def test_an_interrupt_doesnt_wait_for_what_processes_have_yet_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(number) for number in range(QUEUED)]

    def watched(pending: set[Future[None]], *arguments: Any, **options: Any) -> Any:
        if interrupted:
            (tmp_path / "settled").touch()
        return wait(pending, *arguments, **options)

    interrupted: list[bool] = []
    monkeypatch.setattr(getam.datasets.shards, "wait", watched)

    def stop() -> None:
        with new_shard(
            tmp_path / "000", ids=ids, suffix=".npy", classes=CLASSES, settings=None, in_processes=True
        ) as shard:
            for id in ids:
                shard.submit(id, write_when_settled, tmp_path)
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            interrupted.append(True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    # It alone was being written.
    assert [path.name for path in (tmp_path / ".000.partial").glob("*.npy")] == ["0.npy"]


def test_two_writers_of_one_shard_are_refused(tmp_path: Path) -> None:
    with shard_of(tmp_path / "000", ["a"]) as shard:
        other = RefineSettings(iterations=9, dilations=(1,))
        message = r"000\.partial: another process is writing it; wait for it or stop it"
        with pytest.raises(InputError, match=message), shard_of(tmp_path / "000", ["a"], settings=other):
            pass
        shard.submit("a", write, "first")
    assert (tmp_path / "000" / "a.npy").read_text() == "first"
    assert sorted(path.name for path in (tmp_path / "000").iterdir()) == [".getam", "a.npy", "manifest.json"]


def test_an_empty_file_is_not_a_written_one(tmp_path: Path) -> None:
    def stop() -> None:
        with shard_of(tmp_path / "000", ["a", "b", "c"]) as shard:
            shard.submit("c", write, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    with shard_of(tmp_path / "000", ["a", "b", "c"]) as shard:
        assert shard.unfinished(BATCHES) == BATCHES
        for id in ("a", "b", "c"):
            shard.submit(id, write, "x")


def test_a_change_of_the_code_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path / "000", KeyboardInterrupt())
    monkeypatch.setattr(getam.system.version, "source_hash", lambda: "another")
    with shard_of(tmp_path / "000", ["a", "b", "c"]) as shard:
        assert shard.unfinished(BATCHES) == BATCHES
        for id in ("a", "b", "c"):
            shard.submit(id, write)


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
    message = r"000/manifest\.json: was made for other classes than index\.csv has; run its stage again, or take"
    with pytest.raises(InputError, match=message) as error:
        rows_of(tmp_path / "000", Index(rows=INDEX.rows, classes=classes))
    assert str(error.value).endswith(f"(cat, dog there, {', '.join(classes)} here)")


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


@pytest.mark.parametrize("name", ["ids", "classes", "rejected", "corrected", "settings"])
@pytest.mark.parametrize("value", [None, True, -7, "x", [None], [["x"]], [{}], {"x": 1}])
def test_a_manifest_with_an_entry_of_another_type_is_named(tmp_path: Path, name: str, value: object) -> None:
    if (name, value) == ("settings", {"x": 1}):
        value = []
    (tmp_path / "manifest.json").write_text(json.dumps({"ids": ["a"], "classes": ["cat"], name: value}))
    with pytest.raises(InputError, match=rf"manifest\.json: holds no (list of )?{name}; delete the folder"):
        read_manifest(tmp_path)


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
