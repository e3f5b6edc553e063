"""Downloads from a server on loopback that drops, truncates, corrupts or forgets; archives of every kind."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from getam.cli import STAGES, TOOLS, command
from getam.datasets import archives as module
from getam.datasets.archives import DATA_SETS, Archive, fetch
from getam.errors import InputError, MachineError

CONTENT = np.random.default_rng(0).bytes(300_000)
FILES = {"set/a.bin": CONTENT, "set/deep/b.txt": b"text", "elsewhere/c.txt": b"not this"}


def tar_of(
    files: dict[str, bytes], mode: str = "w:gz", extra: Callable[[tarfile.TarFile], None] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if extra is not None:
            extra(archive)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Server:
    """Serves one file; `plan` says what each connection does: whole, drop (half of it), norange, corrupt, none."""

    def __init__(self) -> None:
        self.content = b""
        self.plan: list[str] = []
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.content)))
                self.end_headers()

            def do_GET(self) -> None:
                what = server.plan.pop(0) if server.plan else "whole"
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                if what == "none":
                    self.send_error(404)
                    return
                first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and what != "norange" else 0
                body = server.content[first:]
                if first >= len(server.content):
                    self.send_error(416)
                    return
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(body)))
                if first:
                    last = len(server.content) - 1
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.content)}")
                self.end_headers()
                if what == "corrupt":
                    body = body[:10] + bytes([body[10] ^ 1]) + body[11:]
                self.wfile.write(body[: len(body) // 2] if what == "drop" else b"" if what == "silent" else body)

            def log_message(self, *words: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def archive(self, content: bytes, name: str = "set.tgz", *, checked: bool = True) -> Archive:
        self.content = content
        md5 = hashlib.md5(content).hexdigest() if checked else None
        return Archive(f"http://127.0.0.1:{self.http.server_port}/{name}", md5, "in", "set")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", 10.0)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def unpacked(data: Path) -> dict[str, bytes]:
    folder = data / "in" / "set"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {"a.bin": CONTENT, "deep/b.txt": b"text", ".getam": b""}


@pytest.mark.parametrize(
    ("name", "content"),
    [("set.tgz", tar_of(FILES)), ("set.tar", tar_of(FILES, "w")), ("set.zip", zip_of(FILES))],
)
def test_an_archive_is_unpacked_and_removed(name: str, content: bytes, server: Server, tmp_path: Path) -> None:
    archive = server.archive(content, name)
    fetch(archive, tmp_path)
    assert unpacked(tmp_path) == WHOLE
    assert [path.name for path in (tmp_path / ".downloads").iterdir() if not path.name.startswith(".")] == []
    fetch(archive, tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    "plan", [["drop"], ["drop", "drop", "drop"], ["drop", "norange"], ["silent", "drop", "silent"]]
)
def test_a_connection_that_ends_early_is_taken_up_again(plan: list[str], server: Server, tmp_path: Path) -> None:
    server.plan = list(plan)
    fetch(server.archive(tar_of(FILES)), tmp_path)
    assert unpacked(tmp_path) == WHOLE
    # A server that cannot go on gives all of the file.
    assert len(server.ranges) == len(plan) + (plan[-1] != "norange")
    assert server.ranges[0] is None
    if plan[0] == "drop":
        assert server.ranges[1] == f"bytes={len(server.content) // 2}-"


def test_a_download_that_was_stopped_goes_on(server: Server, tmp_path: Path) -> None:
    archive = server.archive(tar_of(FILES))
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "set.tgz.partial").write_bytes(server.content[:1000])
    fetch(archive, tmp_path)
    assert server.ranges == ["bytes=1000-"]
    assert unpacked(tmp_path) == WHOLE
    # Stopped after the last byte, before it was checked.
    other = tmp_path / "other"
    (other / ".downloads").mkdir(parents=True)
    (other / ".downloads" / "set.tgz.partial").write_bytes(server.content)
    fetch(archive, other)
    assert unpacked(other) == WHOLE


def test_a_download_does_not_go_through_a_link(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".downloads").mkdir()
    (tmp_path / "elsewhere").write_text("another's")
    (tmp_path / ".downloads" / "set.tgz.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"set\.tgz\.partial: is a link, .*; remove it"):
        fetch(server.archive(tar_of(FILES)), tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "another's"


def test_a_corrupt_file_is_removed_and_never_unpacked(server: Server, tmp_path: Path) -> None:
    archive = server.archive(tar_of(FILES))
    server.plan = ["corrupt"]
    with pytest.raises(InputError, match=rf"gave a file with MD5 \w+ instead of {archive.md5}, which is removed"):
        fetch(archive, tmp_path)
    assert not (tmp_path / "in").exists()
    fetch(archive, tmp_path)
    assert unpacked(tmp_path) == WHOLE


def test_an_archive_without_published_checksum_is_checked_by_its_own(server: Server, tmp_path: Path) -> None:
    content = zip_of(FILES)
    damaged = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    with pytest.raises(InputError, match=r"set\.zip: cannot be unpacked .*; remove it, and it is downloaded again"):
        fetch(server.archive(damaged, "set.zip", checked=False), tmp_path)
    assert not (tmp_path / "in" / "set").exists()
    (tmp_path / ".downloads" / "set.zip").unlink()
    fetch(server.archive(content, "set.zip", checked=False), tmp_path)
    assert unpacked(tmp_path) == WHOLE


def test_a_dead_address_says_what_to_put_where(server: Server, tmp_path: Path) -> None:
    archive = server.archive(tar_of(FILES))
    file = tmp_path / ".downloads" / "set.tgz"
    where = f"get set.tgz elsewhere, and put it to {file}, or unpack its folder set to {tmp_path / 'in' / 'set'}"
    server.plan = ["none"]
    with pytest.raises(InputError, match=re.escape(f"cannot be fetched (Not Found); {where}")):
        fetch(archive, tmp_path)
    server.plan = ["silent"] * 50
    with pytest.raises(InputError, match=re.escape(f"the connection ended early); {where}")):
        fetch(archive, tmp_path)
    # A file that was brought by hand is taken.
    (tmp_path / ".downloads" / "set.tgz").write_bytes(server.content)
    fetch(Archive("http://127.0.0.1:1/set.tgz", archive.md5, "in", "set"), tmp_path)
    assert unpacked(tmp_path) == WHOLE
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch(Archive("http://127.0.0.1:1/set.tgz", None, "in", "set"), tmp_path / "none")


def linked(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("set/link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(member)


def long_header(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 100_000_000
    archive.addfile(member, io.BytesIO(bytes(member.size)))


def chain(archive: tarfile.TarFile) -> None:
    for _ in range(5000):
        member = tarfile.TarInfo("x")
        member.type, member.size = tarfile.XHDTYPE, 9
        archive.addfile(member, io.BytesIO(b"9 a=bbbb\n"))


def unknown(archive: tarfile.TarFile) -> None:
    for _ in range(200):
        member = tarfile.TarInfo("set/b")
        member.type, member.size = b"Z", 2**16
        archive.addfile(member, io.BytesIO(bytes(member.size)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of({"set/../../out.txt": b"x"}), "leads out of it"),
        (zip_of({"set/../../../out.txt": b"x"}), "leads out of it"),
        (zip_of({"set/zeros": bytes(10_000_000)}), "it takes more than 20 times its size"),
        (tar_of({"other/zeros": bytes(10_000_000)}), "it takes more than 20 times its size"),
        (tar_of({"set/a": b"x"}, extra=unknown), "it takes more than 20 times its size"),
        (tar_of({"set/a": b"x", "set/a/b": b"x"}), r"the member 'set/a/b' has no place \(File exists\)"),
        (zip_of({"set/a/b": b"x", "set/a": b"x"}), r"the member 'set/a' has no place \(Is a directory\)"),
        (tar_of({"set": b"x"}), r"the member 'set' has no place \(Is a directory\)"),
        (zip_of({f"set/{'n' * 300}": b"x"}), r"the member 'set/nn[^ ]* has no place \(File name too long\)"),
        (tar_of({"other/a": b"x"}), "it has no folder 'set'"),
        (tar_of({}, extra=linked), "it has no folder 'set'"),
        (tar_of({}, extra=long_header), r"cannot be unpacked \(a header of 100000000 bytes\)"),
        (tar_of({}, extra=chain), "cannot be unpacked"),
        (zip_of({"set/a": b"x"}, zipfile.ZIP_LZMA), r"cannot be unpacked \('set/a' is compressed by method 14\)"),
        (b"no archive", "cannot be unpacked"),
        (tar_of(FILES)[:-5000], "cannot be unpacked"),
    ],
    ids=[
        *("out of a tar", "out of a zip", "growth", "growth beside", "growth of no file", "folder in a file"),
        *("file in a folder", "file alone", "name", "folder", "links", "header", "chain", "method", "text", "cut"),
    ],
)
def test_a_hostile_archive_leaves_nothing(content: bytes, message: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fetch(server.archive(content), tmp_path / "data")
    assert not (tmp_path / "data" / "in" / "set").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATA_SETS, "voc12", (server.archive(tar_of(FILES)),))

    def run(*words: object) -> int:
        return command("getam", STAGES | TOOLS, ["fetch-data", *map(str, words)])

    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    assert run("voc12", "--out", tmp_path) == 1
    assert "are needed, and 0 MB free; make room" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(DATA_SETS, "voc12", (server.archive(tar_of(FILES)),))
    assert run("voc12", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    assert "voc12: downloads 0 MB; 1 MB of room are needed" in captured.err
    assert captured.out == f"voc12: is in {tmp_path}\n"
    assert run("voc12", "--out", tmp_path) == 0
    assert len(server.ranges) == 1
    assert run("voc21", "--out", tmp_path) == 1
    assert "'voc12', 'sbd', 'coco14' or 'duts'" in capsys.readouterr().err


def test_the_addresses_are_those_that_the_recipes_name() -> None:
    assert [archive.md5 is None for archives in DATA_SETS.values() for archive in archives] == [False] * 5 + [True] * 2
    places = {f"{archive.into}/{archive.holds}".strip("/") for archives in DATA_SETS.values() for archive in archives}
    text = "".join((Path(__file__).parents[2] / "configs" / f"{name}.yaml").read_text() for name in ("voc12", "coco14"))
    for place in places:
        assert f"data/{place}" in text or place.startswith("coco/")
    assert issubclass(MachineError, InputError)
