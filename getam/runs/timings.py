"""Time and memory of the stages of a run, from Snakemake's benchmark files; the shards of a stage are summed."""

from __future__ import annotations

import csv
import io
import logging
import math
from dataclasses import dataclass

from getam.runs.folder import Run
from getam.settings.foreign import LOG_BYTES, read_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageTime:
    """Time and memory of all jobs of a stage.

    `seconds` is the sum over the jobs, even if they ran at the same time; `longest` the seconds of the longest job;
    `max_rss` the largest memory of a job, MB, None if no job ran long enough to be measured.
    """

    stage: str
    jobs: int
    seconds: float
    longest: float
    max_rss: float | None


def stage_times(run: Run) -> list[StageTime]:
    """Reads benchmarks/<stage>.tsv and benchmarks/<stage>/*.tsv of the run in folder `run`; longest stage first.

    A file that is no benchmark is left out with a warning, since scores do not depend on it.
    """
    folder = run / "benchmarks"
    jobs: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        stage = path.relative_to(folder).with_suffix("").parts[0]
        try:
            heading, *rows = csv.reader(io.StringIO(read_text(path, LOG_BYTES)), delimiter="\t")
            # By position, since a DictReader gives each short row all columns that the heading names.
            time, memory = heading.index("s"), heading.index("max_rss")
            lines = [(_finite(row[time]), _megabytes(row[memory])) for row in rows if row]
        except (OSError, csv.Error, IndexError, ValueError) as error:
            logger.warning("%s: no benchmark of Snakemake's (%s); it is left out", path, error)
            continue
        jobs.setdefault(stage, []).extend(lines)
    times = [_summed(stage, lines) for stage, lines in jobs.items() if lines]
    return sorted(times, key=lambda time: (-time.seconds, time.stage))


def _megabytes(text: str) -> float:
    """Memory in MB; NaN for a job that ended before Snakemake measured it."""
    return math.nan if text in ("", "-", "NA") else _finite(text)


def _finite(text: str) -> float:
    """Raises ValueError for what is no number, or no finite one."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number of seconds or megabytes")
    return value


def _summed(stage: str, lines: list[tuple[float, float]]) -> StageTime:
    seconds = [time for time, _ in lines]
    measured = [memory for _, memory in lines if not math.isnan(memory)]
    return StageTime(stage, len(lines), sum(seconds), max(seconds), max(measured, default=None))


def duration(seconds: float) -> str:
    """A duration as text: 3.4 s, 2 min 07 s, 5 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
