from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from getam.runs.timings import StageTime, duration, stage_times

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write(path: Path, seconds: str, rss: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:01\t{rss}\t1\t1\t1\t1\t1\t1\t1\n")


def test_shards_are_summed_and_the_longest_stage_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    write(folder / "summary.tsv", "0.5", "-")
    write(folder / "dump_maps" / "000.tsv", "10", "900.5")
    write(folder / "dump_maps" / "001.tsv", "2.5", "NA")
    assert stage_times(tmp_path) == [
        StageTime("dump_maps", jobs=2, seconds=12.5, longest=10.0, max_rss=900.5),
        StageTime("summary", jobs=1, seconds=0.5, longest=0.5, max_rss=None),
    ]
    assert stage_times(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s\tx\n1\t2\n",
        HEADER + "soon\t1\t1\n",
        HEADER + "3\n",
        HEADER + "inf\t1\t1\n",
        HEADER + "1\t1\tnan\n",
        "\xff",
    ],
)
def test_what_is_no_benchmark_is_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "benchmarks" / "good.tsv", "1", "2")
    (tmp_path / "benchmarks" / "bad.tsv").write_bytes(text.encode("latin-1"))
    os.mkfifo(tmp_path / "benchmarks" / "pipe.tsv")
    with caplog.at_level(logging.WARNING):
        assert [time.stage for time in stage_times(tmp_path)] == ["good"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.44, "3.4 s"), (127.2, "2 min 07 s"), (3599.9, "1 h 00 min"), (18720, "5 h 12 min")]
)
def test_a_duration_is_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
