"""Progress in a log: plain lines, not too many, with what is done and what is left."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import getam.system.progress
from getam.cli import STAGES, TOOLS, command
from getam.system.progress import progress, set_up_logging, three_digits


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(getam.system.progress, "time", clock)
    return clock


def test_items_pass_unchanged_and_only_when_asked_for() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    passed = progress(items(), total=3, unit="image", what="stage")
    assert made == []
    assert next(passed) == 0
    assert made == [0]
    assert list(passed) == [1, 2]


def test_quick_work_gives_one_line_at_its_end(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.INFO, logger="getam.system.progress"):
        for _ in progress(range(8), total=8, unit="image", what="dump_maps"):
            clock.now += 0.5
    assert caplog.messages == ["dump_maps: 8/8 images, 2.00 a second, 0 s left"]


def test_long_work_gives_a_line_now_and_then(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.INFO, logger="getam.system.progress"):
        for _ in progress(range(6), total=6, unit="image", what="stage"):
            clock.now += 10
    # 20 s, 40 s and 60 s after the start: at most one in 15 s.
    assert caplog.messages == [
        "stage: 2/6 images, 0.100 a second, 40 s left",
        "stage: 4/6 images, 0.100 a second, 20 s left",
        "stage: 6/6 images, 0.100 a second, 0 s left",
    ]


def test_a_batch_counts_for_its_length(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.INFO, logger="getam.system.progress"):
        for _ in progress([[1, 2, 3], [4, 5]], total=5, unit="image", what="stage", size=len):
            clock.now += 1
    assert caplog.messages == ["stage: 5/5 images, 2.50 a second, 0 s left"]


def test_nothing_done_yet_is_not_divided_by(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.INFO, logger="getam.system.progress"):
        # Files as a pool writes them: none for a while, then all of them.
        for _ in progress([0, 0, 0, 4], total=4, unit="image", what="stage", size=int):
            clock.now += 20
    assert caplog.messages == ["stage: 4/4 images, 0.0500 a second, 0 s left"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.0001234, "0.000123"),
        (0.0789, "0.0789"),
        (0.9996, "1.00"),
        (4.564, "4.56"),
        (9.996, "10.0"),
        (312.8, "313"),
        (999.6, "1000"),
        (1234, "1230"),
        (5e9, "5000000000"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_the_plural_of_the_unit(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="getam.system.progress"):
        list(progress([1], total=1, unit="batch", what="stage"))
        list(progress([1], total=1, unit="image", what="stage"))
    assert [re.split(r"[ ,]+", line)[2] for line in caplog.messages] == ["batches", "images"]


def test_no_items_are_no_error() -> None:
    assert list(progress([], total=0, unit="image", what="stage")) == []


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(None)
    list(progress(range(3), total=3, unit="image", what="stage"))
    error = capsys.readouterr().err
    assert "\r" not in error
    assert re.fullmatch(r"\d\d:\d\d:\d\d stage: 3/3 images, .*\n", error)


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(progress(range(3), total=3, unit="image", what="stage"))
    assert "stage:" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_the_log_file_says_what_standard_error_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "stage.log"
    for text in ("first run", "second run"):
        set_up_logging(log)
        logging.getLogger("getam.x").info("%s: café", text)
        logging.getLogger("getam.x").debug("detail")
        error = capsys.readouterr().err
        assert re.fullmatch(rf"\d\d:\d\d:\d\d {text}: café\n", error)
        # Written anew by every run.
        assert log.read_text(encoding="utf-8") == error


def test_warnings_go_into_the_log(tmp_path: Path) -> None:
    log = tmp_path / "stage.log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        set_up_logging(log)
        warnings.warn("careful", stacklevel=1)
        logging.captureWarnings(False)
    assert "careful" in log.read_text()


@pytest.mark.parametrize("put", ["link", "pipe"])
def test_a_log_that_is_a_link_or_a_pipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], put: str
) -> None:
    log, elsewhere = tmp_path / "stage.log", tmp_path / "elsewhere"
    elsewhere.write_text("another's")
    log.symlink_to(elsewhere) if put == "link" else os.mkfifo(log)
    assert command("getam", STAGES | TOOLS, ["doctor", "--log", str(log)]) == 1
    words = "it is a link" if put == "link" else "it is no file"
    assert f"--log {log}: cannot be written ({words}); name another file" in capsys.readouterr().err
    assert elsewhere.read_text() == "another's"


def test_a_line_of_any_length_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(tmp_path / "stage.log")
    logging.getLogger("getam.x").error("%s; correct it\nsecond line", "x" * 10**6)
    first, second, _ = capsys.readouterr().err.split("\n")
    assert first.endswith("xxx ...")
    assert len(first) < 5100
    assert second == "second line"


def test_escapes_reach_neither_terminal_nor_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "stage.log"
    set_up_logging(log)
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        logging.getLogger("getam.x").exception("a\x1b[2Jb\u202ec\udcff\r %s\n  second line, café", "\x9b1m")
    error = capsys.readouterr().err
    assert r"a\x1b[2Jb\u202ec\udcff\r \x9b1m" in error
    assert "\n  second line, café\n" in error
    assert r"ValueError: \x1b]0;title\x07" in error
    assert log.read_text(encoding="utf-8") == error


@pytest.mark.parametrize("words", [["x\x1b[2J"], ["doctor", "--x\x1b[2J"], ["predict", "--threads", "\x1b[2J", "a"]])
def test_what_is_refused_before_there_is_a_log_is_printable(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("getam", STAGES | TOOLS, words) == 1
    error = capsys.readouterr().err
    assert error.rstrip("\n").isprintable()
