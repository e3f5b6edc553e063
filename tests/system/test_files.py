"""Files are whole or not there, and nothing that is read from them is trusted."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from getam.errors import InputError, MachineError
from getam.settings.foreign import read_key
from getam.system.files import (
    KEY,
    LOCK,
    MARKER,
    atomic_file,
    atomic_folder,
    fingerprint,
    locked_folder,
    read_array,
    read_arrays,
    read_json,
    users_folder,
    write_array,
    write_arrays,
    write_json,
    write_text,
)


class StoppedError(Exception):
    """What stops a writer half-way in these tests."""


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of another's with a file in it, to which links lead."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "precious").write_text("years")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Atomic writes


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("stop", [StoppedError, KeyboardInterrupt])
def test_a_stopped_write_leaves_the_old_file(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as temporary:
        left = temporary
        temporary.write_text("x")
    left.write_text("left behind, longer than what follows")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_of_the_temporary_name_is_not_written_through(
    tmp_path: Path, elsewhere: Path, link: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "index.csv"
    with atomic_file(path) as temporary:
        pass
    link(temporary, elsewhere / "precious")
    write_text(path, "new")
    assert (elsewhere / "precious").read_text() == "years"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_pipe_of_the_temporary_name_does_not_hang(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as temporary:
        pass
    os.mkfifo(temporary)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_of_the_temporary_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.partial.txt").mkdir()
    with pytest.raises(InputError, match=r"\.a\.partial\.txt: is in the way; remove it"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == [".a.partial.txt"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    (path / "old").write_text("")
    (path / MARKER).touch()
    with atomic_folder(path) as temporary:
        (temporary / "new").write_text("")
        assert names(path) == [MARKER, "old"]
    assert names(path) == [MARKER, "new"]
    assert names(tmp_path) == ["shard"]


@pytest.mark.parametrize("stop", [StoppedError, KeyboardInterrupt])
def test_a_stopped_folder_leaves_the_old_one(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    (path / "old").write_text("")
    (path / MARKER).touch()

    def write() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "new").write_text("")
            raise stop

    with pytest.raises(stop):
        write()
    assert names(path) == [MARKER, "old"]
    assert names(tmp_path) == ["shard"]


def test_a_folder_starts_empty_after_a_killed_process(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "shard") as temporary:
        left = temporary
    left.mkdir()
    (left / "stale").write_text("")
    (left / MARKER).touch()
    with atomic_folder(tmp_path / "shard") as temporary:
        assert names(temporary) == sorted([MARKER, LOCK])
    assert names(tmp_path) == ["shard"]


def write_with(error: OSError) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with atomic_file(path):
            raise error

    return write


def test_room_is_a_cure_of_a_full_disk_alone(tmp_path: Path) -> None:
    for code, cure in ((errno.ENOSPC, "make room, or choose another place"), (errno.EACCES, "choose another place")):
        with pytest.raises(InputError, match=rf"\); {cure}$"):
            write_with(OSError(code, "no"))(tmp_path / "a")


UNWRITABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda folder: write_text(folder, "x"), "Is a directory"),
    "below a file": (lambda folder: write_text(folder / "file" / "a.txt", "x"), "File exists|Not a directory"),
    "far below a file": (lambda folder: write_text(folder / "file" / "b" / "a.txt", "x"), "Not a directory"),
    "name too long": (lambda folder: write_text(folder / ("a" * 300), "x"), "File name too long"),
    "no room": (lambda folder: write_with(OSError(errno.ENOSPC, "No space left on device"))(folder / "a"), "No space"),
    "cut short by numpy": (
        lambda folder: write_with(OSError("8 requested and 3 written"))(folder / "a"),
        "8 requested",
    ),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, case: str) -> None:
    write, reason = UNWRITABLE[case]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("precious")
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path / 'out'))}.*: cannot be written \(({reason})"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]


def test_another_file_that_fails_within_a_write_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "source").read_bytes()
    assert names(tmp_path) == []


def test_a_file_in_use_on_a_network_file_system_is_said_and_is_no_obstacle_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a process has open stays under such a name when it is removed, and cannot be removed again.
    left = tmp_path / ".out.partial"
    left.mkdir()
    for name in (MARKER, ".nfs0001", "a"):
        (left / name).touch()

    def unlink(path: str | Path, **options: Any) -> None:
        if Path(path).name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        remove(path, **options)

    remove = os.unlink
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", unlink)
        message = r"\.out\.partial: cannot be emptied \(Device or resource busy\); end the process that has a file"
        with pytest.raises(MachineError, match=message), atomic_folder(tmp_path / "out"):
            pass
    with atomic_folder(tmp_path / "out"):
        pass
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER}


def test_a_full_disk_does_not_cost_what_an_unfinished_folder_has(tmp_path: Path) -> None:
    def stop() -> None:
        with atomic_folder(tmp_path / "shard", key="k") as folder:
            write_text(folder / "a.txt", "hours of work")
            write_with(OSError(errno.ENOSPC, "No space left on device"))(folder / "b.txt")

    with pytest.raises(InputError, match="No space left"):
        stop()
    with atomic_folder(tmp_path / "shard", key="k") as folder:
        assert (folder / "a.txt").read_text() == "hours of work"


# JSON


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"mIoU": 0.5, "classes": ["café"], "none": None}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert (tmp_path / "a.json").read_text().endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path, number: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": number})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: not valid JSON")):
        read_json(path)


def test_nan_is_refused_when_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"mIoU": NaN}')
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


# Arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_an_array_comes_back(tmp_path: Path, dtype: type[Any]) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_array(tmp_path / "a.npy", array)
    read = read_array(tmp_path / "a.npy")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_an_array_without_channels_comes_back(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", np.zeros((0, 3, 4), np.float32))
    assert read_array(tmp_path / "a.npy").shape == (0, 3, 4)


class Pickled:
    """Says so when a pickle of it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return write_text_beside, ("a pickle was read", __file__)


def write_text_beside(text: str, path: str) -> None:
    raise AssertionError(text + path)


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    objects = np.array([Pickled()], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_array(path, objects)
    assert names(tmp_path) == []
    np.save(path, objects, allow_pickle=True)
    with pytest.raises(InputError, match=re.escape(f"{path}: not a plain .npy array")):
        read_array(path)


def whole_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), np.float32))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"text", whole_array()[:-1], whole_array()[:20], b"\x80\x04N."])
def test_a_broken_array_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: not a plain .npy array")):
        read_array(path)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["archive", "broken archive"])
def test_an_archive_for_an_array_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3)) if kind == "archive" else file.write(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_array(path)


@pytest.mark.parametrize("kind", ["foreign", "file", "link", "working directory", "above"])
def test_folders_of_others_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: pytest.fail("deletes"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    paths = {"foreign": "../thesis", "file": "../file", "link": "../link", "working directory": ".", "above": ".."}
    with pytest.raises(InputError, match="choose another output folder"), atomic_folder(Path(paths[kind])):
        pytest.fail("begins")
    assert (tmp_path / "thesis" / "text").read_text() == "years"


def test_folder_of_a_stage_is_replaced(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "shard") as folder:
            (folder / name).touch()
    assert sorted(path.name for path in (tmp_path / "shard").iterdir()) == [MARKER, "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


# A folder beside the one that is written


@pytest.mark.parametrize("name", [".shard.partial", ".shard.old"])
def test_a_folder_of_the_users_in_the_way_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").touch()
    with pytest.raises(InputError, match=rf"{name}: is in the way; remove it"), atomic_folder(tmp_path / "shard"):
        raise AssertionError
    assert (tmp_path / name / "precious").exists()
    assert not (tmp_path / "shard").exists()


def test_a_link_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".shard.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is in the way"), atomic_folder(tmp_path / "shard", key="k"):
        raise AssertionError


@pytest.mark.parametrize(
    "put",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_bytes(b"k" * 10_000),
    ],
)
def test_what_is_no_key_of_an_unfinished_folder_starts_it_anew(tmp_path: Path, put: Callable[[Path], object]) -> None:
    partial = tmp_path / ".shard.partial"
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / "old").touch()
    put(partial / KEY)
    assert read_key(partial / KEY) is None
    with atomic_folder(tmp_path / "shard", key="k") as folder:
        assert not (folder / "old").exists()
        assert read_key(folder / KEY) == "k"
    assert names(tmp_path / "shard") == [MARKER]


@pytest.mark.parametrize("name", [MARKER, LOCK])
def test_a_link_in_an_unfinished_folder_is_not_followed(tmp_path: Path, elsewhere: Path, name: str) -> None:
    partial = tmp_path / ".shard.partial"
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / name).unlink(missing_ok=True)
    (partial / name).symlink_to(elsewhere / "precious")
    os.utime(elsewhere / "precious", ns=(10**18, 10**18))
    with pytest.raises(InputError, match=r"shard\.partial: "), atomic_folder(tmp_path / "shard", key="k"):
        raise AssertionError
    assert (elsewhere / "precious").read_text() == "years"
    assert (elsewhere / "precious").stat().st_mtime_ns == 10**18


def test_a_locked_folder_that_is_a_link_is_left_alone(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / ".state").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"\.state: is a link, .*; remove it"), locked_folder(tmp_path / ".state"):
        raise AssertionError
    assert names(elsewhere) == ["precious"]


@pytest.mark.parametrize("name", ["shard", ".shard.old"])
@pytest.mark.parametrize("put", ["folder", "file", "link"])
@pytest.mark.parametrize("before", [True, False])
def test_what_appears_while_a_folder_is_written_is_kept(
    tmp_path: Path, elsewhere: Path, name: str, put: str, before: bool
) -> None:
    if before:
        with atomic_folder(tmp_path / "shard") as folder:
            (folder / "first").touch()
    path = tmp_path / name

    def write() -> None:
        with atomic_folder(tmp_path / "shard", key="k") as folder:
            (folder / "hours").touch()
            if name == "shard" and before:
                shutil.rmtree(path)
            if put == "folder":
                path.mkdir()
                (path / "precious").write_text("mine")
            elif put == "file":
                path.write_text("mine")
            else:
                path.symlink_to(elsewhere)

    with pytest.raises(InputError, match=rf"{name}: (holds files that no stage|is a link or a file|is in the way)"):
        write()
    assert (path if put == "file" else path / "precious").read_text() in ("mine", "years")
    # What was written is kept as after a full disk, since the user has only to move what is in the way.
    with atomic_folder(tmp_path / "other"):
        pass
    assert (tmp_path / ".shard.partial" / "hours").exists()


def test_what_appears_between_check_and_rename_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "shard") as folder:
        (folder / "first").touch()
    replace = Path.replace

    def late(self: Path, target: Path) -> Path:
        if self == tmp_path / "shard":
            shutil.rmtree(self)
            self.mkdir()
            (self / "precious").touch()
        return replace(self, target)

    def write() -> None:
        with atomic_folder(tmp_path / "shard", key="k"):
            monkeypatch.setattr(Path, "replace", late)

    with pytest.raises(InputError, match="holds files that no stage has written"):
        write()
    assert (tmp_path / "shard" / "precious").exists()


@pytest.mark.parametrize("put", ["folder", "file"])
def test_what_appears_at_the_last_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: str) -> None:
    replace = Path.replace

    def late(self: Path, target: Path) -> Path:
        if target == tmp_path / "shard":
            target.mkdir() if put == "folder" else target.write_text("mine")
            if put == "folder":
                (target / "precious").touch()
        return replace(self, target)

    def write() -> None:
        with atomic_folder(tmp_path / "shard", key="k"):
            monkeypatch.setattr(Path, "replace", late)

    with pytest.raises(InputError, match=r"shard: cannot be written .*; choose another place"):
        write()
    assert (tmp_path / "shard" / "precious").exists() or (tmp_path / "shard").read_text() == "mine"


def test_a_users_folder_has_one_writer_and_keeps_no_trace(tmp_path: Path) -> None:
    with users_folder(tmp_path / "out"):
        (tmp_path / "out" / "a").touch()
        with (
            pytest.raises(InputError, match="out: another process is writing it; wait for it or stop it"),
            users_folder(tmp_path / "out"),
        ):
            raise AssertionError
    assert names(tmp_path / "out") == ["a"]
    with pytest.raises(StoppedError), users_folder(tmp_path / "new"):
        raise StoppedError
    assert names(tmp_path) == ["out"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "shard", key="first") as folder:
        (folder / "a").write_text("first")

    def write_second() -> None:
        with atomic_folder(tmp_path / "shard", key="second") as folder:
            (folder / "a").write_text("second")

    replace = Path.replace
    renamed: list[Path] = []

    def killed(self: Path, target: Path) -> Path:
        nonlocal renamed
        if self.is_dir() and renamed:
            raise MemoryError
        renamed += [self] if self.is_dir() else []
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(MemoryError):
        write_second()
    monkeypatch.undo()
    assert not (tmp_path / "shard").exists()

    def stopped_by_bad_input() -> None:
        with atomic_folder(tmp_path / "shard", key="second") as folder:
            assert (folder / "a").read_text() == "second"
            raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        stopped_by_bad_input()
    assert (tmp_path / "shard" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="cannot be written"),
        atomic_folder(tmp_path / "file" / "000"),
    ):
        raise AssertionError


def test_a_path_through_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to("results")
    with (
        pytest.raises(InputError, match=r"\.000\.partial: cannot be written \(Too many levels of symbolic links\)"),
        atomic_folder(tmp_path / "results" / "000"),
    ):
        pass


def test_a_path_through_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/model\.json: Not a directory; name the folder"):
        read_json(tmp_path / "file" / "model.json")
    with pytest.raises(InputError, match=r"file/a\.png: Not a directory"):
        fingerprint([tmp_path / "file" / "a.png"])


def test_arrays_are_a_sound_archive_that_numpy_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    numbers = np.random.default_rng(0).integers(0, 3, (2, 200, 300)).astype(np.uint8)
    arrays = {
        "few": np.arange(6, dtype=np.float16).reshape(2, 3),
        "none": np.zeros((0, 3)),
        "turned": numbers[:, ::2].T,
    }
    write_arrays(path, arrays)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["few.npy", "none.npy", "turned.npy"]
    assert path.stat().st_size < numbers.size / 6
    with np.load(path, allow_pickle=False) as found:
        for name, array in arrays.items():
            for again in (found[name], read_arrays(path)[name]):
                np.testing.assert_array_equal(again, array)
                assert again.dtype == array.dtype
    assert names(tmp_path) == ["a.npz"]
    with pytest.raises(ValueError, match="pickle"):
        write_arrays(path, {"objects": np.array([{}])})


def test_fingerprint_takes_names_that_are_no_text(tmp_path: Path) -> None:
    # As from an archive in Latin-1.
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    path.touch()
    assert fingerprint([path])


def test_fingerprint_sees_a_changed_file_and_names_a_missing_one(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"one")
        os.utime(path, ns=(10**18, 10**18))
    before = fingerprint(paths)
    assert fingerprint(paths) == before
    assert fingerprint(reversed(paths)) != before
    os.utime(paths[1], ns=(10**18, 10**18 + 1))
    touched = fingerprint(paths)
    assert touched != before
    paths[1].write_bytes(b"other")
    os.utime(paths[1], ns=(10**18, 10**18))
    assert fingerprint(paths) not in (before, touched)
    paths[1].unlink()
    with pytest.raises(InputError, match=r"b\.png: no such file"):
        fingerprint(paths)
