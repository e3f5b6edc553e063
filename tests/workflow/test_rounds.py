"""Further rounds of the segmenter in the workflow: which jobs they add, and what an edit reruns."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.downstream import DEEPLAB
from support.workplace import ONE_THREAD_A_JOB, Workplace

from getam.datasets.index import read_index
from getam.system.files import read_json
from getam.system.image_files import UNKNOWN, read_labels

ROUND = {"relabel", "score_labels", "audit"} | DEEPLAB
TWO = ("--config", "rounds=2")


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace where a run of two rounds has been made by stand-ins."""
    workplace = Workplace(tmp_path_factory.mktemp("twice") / "work", stand_ins=True)
    result = workplace.snakemake(*TWO, cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    return workplace


def test_a_further_round_adds_its_jobs_and_reruns_none(finished: Workplace) -> None:
    assert finished.plan(*TWO) == ROUND | {"summary"}
    assert finished.plan("--config", "rounds=1") == set()


def test_a_run_of_rounds_has_nothing_to_do_afterwards(twice: Workplace) -> None:
    assert twice.plan(*TWO) == set()
    started = twice.started()
    assert started.count("train-deeplab") == started.count("evaluate-deeplab") == 2
    assert started.count("relabel") == 2, "two shards"
    assert started.count("complete-labels") == 2
    # What the first round needs is there without the second: a summary of it alone.
    assert twice.plan() == {"summary"}


@pytest.mark.parametrize(
    ("edit", "rerun"),
    [
        ("relabel={confidence: 0.6}", ROUND | {"summary"}),
        ("deeplab={epochs: 3}", ROUND | {"summary", "plot_scores"}),
        ("deeplab_prediction={flip: false}", (DEEPLAB | {"audit", "summary", "plot_scores"}) - {"train_deeplab"}),
        (
            "end_to_end={epochs: 12}",
            {"train_end_to_end", "predict_end_to_end", "evaluate_end_to_end", "audit", "summary", "plot_scores"},
        ),
    ],
)
def test_an_edit_reruns_what_depends_on_it(twice: Workplace, edit: str, rerun: set[str]) -> None:
    assert twice.plan(*TWO, edit) == rerun


def test_a_round_by_its_path(finished: Workplace) -> None:
    assert finished.plan(*TWO, "--", "results/demo/rounds/2/deeplab/metrics.json") == {"relabel"} | DEEPLAB


def test_seeds_and_sweeps_have_the_scores_of_each_round(twice: Workplace) -> None:
    result = twice.snakemake("-n", "-p", *TWO, "--", "seeds")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "DeepLab mIoU, val, round 2" in output
    assert "Pseudo labels, 255 left out, round 2" in output
    # Two further seeds, in each of which both rounds are trained.
    assert re.search(r"^train_deeplab +4$", output, re.MULTILINE)
    result = twice.snakemake("-n", *TWO, "sweep={key: relabel.confidence, values: [0.7, 0.9]}", "--", "sweep")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"^train_deeplab +1$", output, re.MULTILINE), "only the second round of the other value"


@pytest.mark.slow
def test_rounds_of_a_tiny_run(tiny: Workplace) -> None:
    result = tiny.snakemake(*ONE_THREAD_A_JOB, *TWO)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    run = next(path.parent for path in (tiny.folder / "results").glob("*/summary.json"))
    summary = read_json(run / "summary.json")
    (second,) = summary["rounds"]
    assert second["round"] == 2
    assert second["deeplab"] == {**second["deeplab"], "split": "val", "images": summary["deeplab"]["images"]}
    assert second["pseudo_labels"]["train_miou"].keys() == summary["pseudo_labels"]["train_miou"].keys()
    markdown = (run / "summary.md").read_text()
    assert "| DeepLab (round 2) mIoU |" in markdown
    assert "| Pseudo labels (round 2) mIoU |" in markdown
    # No label but the background, those of the image's classes, and 255.
    index = read_index(run / "index.csv")
    labels: list[Path] = sorted((run / "rounds" / "2" / "pseudo_labels").glob("*/*.png"))
    assert {path.stem for path in labels} == {row.id for row in index.split("train")}
    for path in labels:
        row = index.by_id[path.stem]
        values = read_labels(path)
        assert values.shape == (row.height, row.width)
        allowed = {0, UNKNOWN, *(number + 1 for number in index.class_indices(row))}
        assert set(np.unique(values).tolist()) <= allowed
    # Back to one round, which is the summary alone; other tests find the run as it was.
    assert tiny.plan(*ONE_THREAD_A_JOB) == {"summary"}
    result = tiny.snakemake(*ONE_THREAD_A_JOB)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    assert "rounds" not in read_json(run / "summary.json")
