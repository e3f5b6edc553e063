"""Standard streams that are closed, full or gone, or whose encoding lacks letters: no work fails for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKS = """
import logging, os, sys
from pathlib import Path
from getam.system.progress import progress, set_up_logging
from getam.system.streams import open_standard_streams

open_standard_streams()
set_up_logging(Path("log"))
for item in progress(range(3), total=3, unit="item", what="work"):
    logging.getLogger("getam").info("item %d", item)
with open("result", "w") as file:
    os.write(2, b"words of a library")
    print("printed")
    file.write(f"done {[os.get_inheritable(number) for number in (0, 1, 2)]}")
"""
MAIN = "from getam.cli import main; main()"


def run(
    code: str,
    *words: str,
    folder: Path,
    redirected: str = "",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a folder, with the redirections of a shell and further variables of the environment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr, text=True, timeout=600)


@pytest.fixture
def unread() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("kind", ["full disk", "unread pipe"])
def test_work_goes_on_without_standard_error(tmp_path: Path, unread: int, kind: str) -> None:
    if kind == "full disk":
        result, words = run(WORKS, folder=tmp_path, redirected="2>/dev/full"), "No space left on device"
    else:
        result, words = run(WORKS, folder=tmp_path, stderr=unread), "Broken pipe"
    assert result.returncode == 0
    assert (tmp_path / "result").exists()
    log = (tmp_path / "log").read_text()
    assert log.count(f"standard error: cannot be written ({words}); the work goes on without it") == 1
    assert "item 2" in log


@pytest.mark.parametrize("redirected", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_file_of_the_work(tmp_path: Path, redirected: str) -> None:
    result = run(WORKS, folder=tmp_path, redirected=redirected, PYTHONWARNINGS="always::ResourceWarning")
    assert result.returncode == 0
    # Where it can be read, standard error says nothing of files that nobody has closed.
    assert "ResourceWarning" not in result.stderr
    # Worker processes inherit the streams.
    assert (tmp_path / "result").read_text() == "done [True, True, True]"
    assert "item 2" in (tmp_path / "log").read_text()


def test_letters_that_an_encoding_lacks_are_escapes(tmp_path: Path) -> None:
    code = 'from getam.system.streams import open_standard_streams; open_standard_streams(); print("café")'
    result = run(code, folder=tmp_path, PYTHONIOENCODING="ascii")
    assert result.stdout == "caf\\xe9\n", result.stderr


def test_what_is_printed_may_be_left_unread(tmp_path: Path, unread: int) -> None:
    result = run(MAIN, "schema", folder=tmp_path, stdout=unread)
    assert result.returncode == -signal.SIGPIPE
    assert not result.stderr


def test_what_is_printed_to_a_full_disk_is_said(tmp_path: Path) -> None:
    result = run(MAIN, "schema", folder=tmp_path, redirected=">/dev/full")
    assert result.returncode == 1
    words = "standard output: cannot be written (No space left on device); write it to another place"
    assert result.stderr == f"getam: {words}\n"
