"""The workflow's promises: what runs, what reruns after an edit, and how bad configurations end.

The real Snakefile and rules run here. Except in the slow tests, the commands are stand-ins that write the
outputs' names only, so that a whole run takes seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.downstream import (
    AFTER_COMPLETION,
    AFTER_INDEX,
    AFTER_MAPS,
    AFTER_SALIENCY,
    ALL,
    DEEPLAB,
    END_TO_END,
    SCORES,
)
from support.workplace import ONE_THREAD_A_JOB, PROJECT, TINY, Workplace, pseudo_labels

import deeplab.cli
import getam.cli
from getam.cli import parse_flags
from getam.errors import InputError
from getam.stages import fetch_weights, import_checkpoint
from getam.system.arguments.machine import MachineArguments
from getam.system.arguments.training import TrainingArguments

DIRECTIVES = (
    "input",
    "output",
    "log",
    "benchmark",
    "priority",
    "wildcard_constraints",
    "conda",
    "threads",
    "resources",
    "params",
    "message",
    "shell",
)
"""The order of every rule."""


@pytest.fixture
def copy(finished: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the finished workplace, to edit files in."""
    return finished.copied(tmp_path / "work")


EDITS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "demo.seed": ({"demo": {"seed": 77}}, ALL),
    "data.labels": ({"data": {"labels": "file"}}, {"index_dataset"} | AFTER_INDEX),
    "data.shards": ({"data": {"shards": 7}}, AFTER_MAPS | AFTER_SALIENCY),
    "data.saliency_val": (
        {"data": {"saliency_val": "data/demo/DUTS-TR"}},
        {"train_saliency"} | AFTER_SALIENCY,
    ),
    "classifier.epochs": ({"classifier": {"epochs": 77}}, {"train_classifier"} | AFTER_MAPS),
    "classifier.backbone_options": (
        {"classifier": {"backbone_options": {"depth": 6}}},
        {"train_classifier"} | AFTER_MAPS,
    ),
    "maps.method": ({"maps": {"method": "cam"}}, AFTER_MAPS),
    "maps.fusion": ({"maps": {"fusion": "product"}}, AFTER_MAPS),
    "refine.iterations": ({"refine": {"iterations": 77}}, AFTER_MAPS - {"dump_maps"}),
    "data.images": ({"data": {"images": 5}}, {"index_dataset"} | AFTER_INDEX),
    "saliency.stretch": ({"saliency": {"stretch": True}}, AFTER_SALIENCY),
    "saliency.epochs": ({"saliency": {"epochs": 77}}, {"train_saliency"} | AFTER_SALIENCY),
    "completion.alpha": ({"completion": {"alpha": 0.123}}, AFTER_COMPLETION),
    "completion.method": ({"completion": {"method": "crf"}}, AFTER_COMPLETION),
    "score_labels.threshold": ({"score_labels": {"threshold": 0.123}}, {"score_labels"} | SCORES),
    "deeplab.epochs": ({"deeplab": {"epochs": 77}}, DEEPLAB | SCORES),
    "deeplab_prediction.flip": (
        {"deeplab_prediction": {"flip": False}},
        (DEEPLAB - {"train_deeplab"}) | SCORES,
    ),
    "end_to_end.completion.alpha": ({"end_to_end": {"completion": {"alpha": 0.123}}}, END_TO_END | SCORES),
    "end_to_end_prediction.crf": (
        {"end_to_end_prediction": {"crf": {"iterations": 77}}},
        (END_TO_END - {"train_end_to_end"}) | SCORES,
    ),
    "audit.images": ({"audit": {"images": 77}}, {"audit"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_reruns_what_depends_on_it(finished: Workplace, edit: str) -> None:
    values, expected = EDITS[edit]
    assert finished.plan("--configfile", str(finished.overlay(values))) == expected


SOURCES: dict[str, set[str]] = {
    "getam/settings/section.py": ALL,
    # The page's settings train nothing anew.
    "getam/settings/audit.py": {"audit"},
    "getam/settings/deeplab.py": DEEPLAB | SCORES,
    "getam/settings/config.py": set(),
    "getam/datasets/demo/scenes.py": ALL,
    "getam/datasets/coco.py": {"index_dataset"} | AFTER_INDEX,
    "getam/training/loop.py": {"train_classifier", "train_saliency"} | AFTER_MAPS | AFTER_SALIENCY,
    "getam/maps/attention.py": AFTER_MAPS | END_TO_END,
    "getam/maps/pamr.py": (AFTER_MAPS - {"dump_maps"}) | END_TO_END,
    "getam/networks/saliency.py": {"train_saliency"} | AFTER_SALIENCY,
    "getam/labels/completion.py": AFTER_COMPLETION | END_TO_END,
    "getam/runs/verdicts.py": AFTER_COMPLETION,
    "getam/training/double_backward.py": END_TO_END | SCORES,
    "getam/stages/complete_labels.py": AFTER_COMPLETION,
    "getam/stages/predict_end_to_end.py": (END_TO_END - {"train_end_to_end"}) | SCORES,
    "deeplab/model.py": DEEPLAB | SCORES,
    "deeplab/stages/evaluate_deeplab.py": {"evaluate_deeplab"} | SCORES,
    "getam/runs/summary.py": SCORES,
    "getam/pages/plots/style.py": {"plot_scores", "audit"},
    "getam/pages/overview.py": {"audit"},
    "getam/stages/summary.py": {"summary"},
    "getam/pages/audit/page.py": {"audit"},
    "getam/pages/audit/gallery.py": {"audit"},
    "getam/pages/templates/audit.html": {"audit"},
    "getam/pages/templates/audit/tiles.js": {"audit"},
    "getam/pages/templates/vendor/preact.js": {"audit"},
    "getam/cli.py": set(),
    "getam/runs/comparison.py": set(),
    "getam/tools/doctor.py": set(),
    "getam/scores/voc_submission.py": set(),
}
"""The rules that an edit of each file reruns; tests/system/test_version.py has the stages of every module."""


@pytest.mark.parametrize("name", SOURCES)
def test_an_edit_of_a_source_reruns_what_imports_it(finished: Workplace, name: str) -> None:
    path = finished.folder / name
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"\n# An edit.\n")
        assert finished.plan() == SOURCES[name]
    finally:
        path.write_bytes(before)


def test_without_the_hash_of_sources_other_edits_rerun_as_ever(copy: Workplace) -> None:
    with (copy.folder / "getam" / "settings" / "section.py").open("a") as file:
        file.write("# An edit.\n")
    assert copy.plan() == ALL
    assert copy.plan("--config", "code_hash=false") == set()
    off = ("--config", "code_hash=false", "completion={alpha: 0.123}")
    assert copy.plan(*off) == AFTER_COMPLETION
    result = copy.snakemake(*off, cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    assert copy.plan(*off) == set()
    # And what was made meanwhile counts as made by the sources that the rest was made by.
    assert copy.plan("--config", "completion={alpha: 0.123}") == ALL


def test_frozen_layers_without_pretrained_weights_are_warned_of(finished: Workplace) -> None:
    frozen = {"deeplab": {"trainable": "none"}, "end_to_end": {"trainable": 1}}
    result = finished.snakemake("-n", "--configfile", str(finished.overlay(frozen)))
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "deeplab.trainable: none freezes layers at their random weights" in output
    assert "end_to_end.trainable: 1 freezes" in output
    assert output.count("freezes layers") == 2


def test_a_read_out_without_the_class_token_that_maps_weigh_is_warned_of(finished: Workplace) -> None:
    patches = {"classifier": {"readout": "max"}, "end_to_end": {"readout": "ignore"}}
    for values, warned in [
        ({}, set()),
        (patches, {"classifier", "end_to_end"}),
        (patches | {"maps": {"method": "cam"}}, {"end_to_end"}),
        (patches | {"maps": {"source": "folder", "folder": "mine"}}, {"end_to_end"}),
    ]:
        (finished.folder / "mine").mkdir(exist_ok=True)
        result = finished.snakemake("-n", "--configfile", str(finished.overlay(values)))
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        assert {each for each in patches if f"{each}.readout: " in output} == warned, values


def test_a_run_of_other_data_in_the_demos_folder_is_warned_of(finished: Workplace) -> None:
    lists = finished.folder / "other" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").touch()
    for run, warned in (("demo", True), ("own", False)):
        result = finished.snakemake("-n", "--config", f"run={run}", "data={root: other}")
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        assert ("run: results/demo takes the results of other; write another name" in output) == warned


def test_a_training_asks_for_its_gpus_and_more_of_them_rerun_nothing(finished: Workplace) -> None:
    two = {name: {"gpus": 2} for name in ("classifier", "saliency", "deeplab", "end_to_end")}
    overlay = ("--configfile", str(finished.overlay(two)))
    assert finished.plan(*overlay) == set()
    for limit, given, threads in (("2", "2", "4"), ("1", "1", "4"), ("4", "2", "2")):
        result = finished.snakemake("-n", "-F", "-p", *overlay, "--resources", f"gpu={limit}", cores=4)
        output = result.stdout + result.stderr
        # Snakemake itself would say nothing.
        assert ("deeplab.gpus: 2, but jobs share 1: --resources gpu=2" in output) == (limit == "1")
        for rule, words in _stage_commands(output).items():
            if rule.startswith("train_"):
                assert words[words.index("--gpus") + 1] == given
                assert words[words.index("--threads") + 1] == threads
            elif "--gpus" in words:
                assert words[words.index("--gpus") + 1] == "1"
    output = finished.snakemake("-n", "-F", "-p", "--resources", "gpu=0", cores=4).stdout
    given_gpus = [words[words.index("--gpus") + 1] for words in _stage_commands(output).values() if "--gpus" in words]
    assert set(given_gpus) == {"0"}


VARIANT = "demo/variants/completion.alpha-0.8"
"""One of table 6."""


def test_threads_and_resources_of_a_rule_reach_every_run(finished: Workplace) -> None:
    given = ("--set-threads", "train_deeplab=1", "--set-resources", "train_deeplab:gpu=0")
    table = ("--config", "tables={alphas: [0.8, 0.9, 1]}", "--", "table6")
    output = finished.snakemake("-n", "-p", "--forceall", *given, *table, cores=4).stdout
    lines = re.findall(
        r"^Shell command: deeplab train-deeplab .*--out results/(\S+)/deeplab (.*)$", output, re.MULTILINE
    )
    assert {run for run, _ in lines} == {"demo", VARIANT, "demo/variants/completion.alpha-1.0"}
    for _, line in lines:
        words = shlex.split(line)
        assert (words[words.index("--threads") + 1], words[words.index("--gpus") + 1]) == ("1", "0")


def test_a_rule_by_its_name_is_a_target_of_the_run_alone(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    trained = {"make_demo", "index_dataset", "train_classifier"}
    assert workplace.plan("train_classifier") == trained
    assert workplace.plan("summary") == ALL - {"plot_scores", "audit"}
    assert workplace.plan("audit", "summary") == ALL - {"plot_scores"}
    # Where Snakemake adds a rule without wildcards to the targets, it adds these too.
    assert "plot_scores" not in workplace.plan("multi_stage")
    assert "plot_scores" in workplace.plan("-R", "plot_scores", "--", "multi_stage")
    assert workplace.plan("--until", "train_classifier") == trained
    output = workplace.snakemake("-n", "-p", "train_classifier", "--config", "tables={alphas: [0.8]}").stdout
    assert "--out results/demo/classifier " in output
    # Its shards have no default.
    refused = workplace.snakemake("-n", "dump_maps")
    assert refused.returncode == 1
    assert "Target rules may not contain wildcards" in refused.stdout + refused.stderr


def test_files_of_a_variant_can_be_asked_for(finished: Workplace) -> None:
    known = ("--config", "tables={alphas: [0.8, 0.9]}", "--")
    own = AFTER_COMPLETION - {"plot_scores"}
    asked = [f"results/{VARIANT}/{name}" for name in ("summary.json", "audit")]
    assert finished.plan(*known, *asked) == own
    commands = _stage_commands(finished.snakemake("-n", "-p", *known, *asked).stdout)
    for stage in ("summary", "audit"):
        words = commands[stage]
        assert words[words.index("--run") + 1] == f"results/{VARIANT}"
        files = json.loads(words[words.index("--files") + 1])
        assert files["classifier"] == "results/demo/classifier"
        assert files["pseudo_labels"] == f"results/{VARIANT}/pseudo_labels"
    assert commands["audit"][commands["audit"].index("--index") + 1] == "results/demo/index.csv"
    # Only runs that the configuration knows.
    unknown = finished.snakemake("-n", "results/demo/variants/completion.alpha-0.7/summary.json")
    assert unknown.returncode == 1
    assert "MissingRuleException" in unknown.stdout + unknown.stderr


def test_names_of_runs_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    made = {"make_demo", "index_dataset", "train_classifier", "dump_maps"}
    # demo, demo/val of table 2, and two variants of which one's name begins with the other's.
    for run in ("demo", "demo/val", "demo/variants/maps.start_block-1", "demo/variants/maps.start_block-11"):
        sweep = "sweep={key: maps.start_block, values: [1, 11]}"
        words = ("--config", sweep, "classifier={backbone_options: {depth: 12}}", "data={shards: 1}", "--")
        target = f"results/{run}/maps/000"
        assert workplace.plan(*words, target) == made
        output = workplace.snakemake("-n", "-p", *words, target).stdout
        commands = _stage_commands(output)
        words = commands["dump_maps"]
        assert words[words.index("--out") + 1] == target
        assert words[words.index("--split") + 1] == ("val" if run == "demo/val" else "train")
        block = re.findall(r"start_block-(\d+)", run)
        assert words[words.index("--start-block") + 1] == (block[0] if block else "0")
        assert (
            commands["train_classifier"][commands["train_classifier"].index("--out") + 1] == "results/demo/classifier"
        )


def test_the_completion_edit_lists_the_rules_by_name(finished: Workplace) -> None:
    names = "complete_labels score_labels train_deeplab predict_deeplab evaluate_deeplab summary plot_scores audit"
    assert finished.plan("--config", "completion={alpha: 0.123}") == set(names.split())


def test_machine_settings_rerun_nothing(finished: Workplace) -> None:
    assert finished.plan() == set()
    assert (
        finished.plan(
            *(
                "--resources",
                "gpu=3",
                "mem_mb=99999",
                "--max-threads",
                "1",
                "--set-threads",
                "train_classifier=3",
            ),
            *(
                "--set-resources",
                "train_classifier:mem_mb=123",
                "train_deeplab:gpu=2",
                "train_saliency:runtime=7",
            ),
            cores=1,
        )
        == set()
    )


def test_a_value_written_otherwise_reruns_nothing(finished: Workplace) -> None:
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    overlay = {
        "completion": {"alpha": f"{config['completion']['alpha']:.9f}"},
        "saliency": {
            "epochs": float(config["saliency"]["epochs"]),
            "learning_rate": float(config["saliency"]["learning_rate"]),
        },
        "maps": {"scales": [str(scale) for scale in config["maps"]["scales"]]},
        "data": {"shards": str(config["data"]["shards"])},
    }
    assert finished.plan("--configfile", str(finished.overlay(overlay))) == set()


def test_comments_order_and_profile_rerun_nothing(copy: Workplace) -> None:
    config = copy.folder / "config.yaml"
    sections = yaml.safe_load(config.read_text())
    turned = {
        name: dict(reversed(section.items())) if isinstance(section, dict) else section
        for name, section in reversed(sections.items())
    }
    config.write_text("# another comment\n" + yaml.safe_dump(turned, sort_keys=False))
    profile = copy.folder / "workflow" / "profiles" / "default" / "config.yaml"
    profile.write_text("resources:\n  gpu: 4\nset-threads:\n  train_deeplab: 2\n")
    assert copy.plan() == set()


def test_a_target_takes_its_own_path(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    assert workplace.plan() == ALL
    assert workplace.plan("multi_stage") == ALL - END_TO_END - SCORES
    alone = {"make_demo", "index_dataset", "train_saliency", "predict_saliency"} | END_TO_END
    assert workplace.plan("end_to_end") == alone


def test_saliency_maps_may_be_brought_along(finished: Workplace) -> None:
    (finished.folder / "maps").mkdir(exist_ok=True)
    brought = {"saliency": {"source": "folder", "folder": "maps"}}
    planned = finished.plan("--configfile", str(finished.overlay(brought)))
    assert planned == (AFTER_SALIENCY - {"predict_saliency"}) | {"collect_saliency"}


def test_class_maps_may_be_brought_along(finished: Workplace) -> None:
    (finished.folder / "cams").mkdir(exist_ok=True)
    overlay = finished.overlay({"maps": {"source": "folder", "folder": "cams"}})
    planned = finished.plan("--configfile", str(overlay))
    assert planned == (AFTER_MAPS - {"dump_maps"}) | {"collect_maps"}
    # No classifier is trained where nothing needs one.
    alone = Workplace(finished.folder / "alone", stand_ins=True)
    (alone.folder / "cams").mkdir()
    planned = alone.plan("--configfile", str(alone.overlay({"maps": {"source": "folder", "folder": "cams"}})))
    assert planned == (ALL - {"train_classifier", "dump_maps"}) | {"collect_maps"}


def test_verdicts_rerun_the_labels_when_they_are_named_and_when_they_change(copy: Workplace) -> None:
    verdicts = copy.folder / "verdicts.csv"
    verdicts.write_text("id,verdict,note\n")
    named = ("--configfile", str(copy.overlay({"completion": {"verdicts": "verdicts.csv"}})))
    assert copy.plan(*named) == AFTER_COMPLETION
    result = copy.snakemake(*named, cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    assert copy.plan(*named) == set()
    verdicts.write_text("id,verdict,note\ntrain_00000,bad,\n")
    assert copy.plan(*named) == AFTER_COMPLETION


def test_corrected_labels_rerun_what_learns_from_them(copy: Workplace) -> None:
    (copy.folder / "corrected").mkdir()
    named = ("--configfile", str(copy.overlay({"completion": {"corrected": "corrected"}})))
    (copy.folder / "corrected" / "train_00000.png").touch()
    assert copy.plan(*named) == AFTER_COMPLETION
    result = copy.snakemake(*named, cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    assert copy.plan(*named) == set()
    (copy.folder / "corrected" / "train_00000.png").write_text("drawn again")
    assert copy.plan(*named) == AFTER_COMPLETION


WITHOUT = {
    "saliency": {"source": "none"},
    "completion": {"method": "crf"},
    "end_to_end": {"completion": {"method": "rrm"}, "saliency_weight": 0},
}


def test_a_file_from_the_future_is_refused_before_any_work(tmp_path: Path) -> None:
    # Snakemake would fail the job that reads it once this has ended, and remove what it has made.
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    file = workplace.folder / "corrected" / "a.png"
    file.parent.mkdir()
    file.touch()
    overlay = workplace.overlay({"completion": {"corrected": "corrected"}})
    assert "complete_labels" in workplace.plan("--configfile", str(TINY), str(overlay))
    os.utime(file, (file.stat().st_mtime + 1e6,) * 2)
    result = workplace.snakemake("-n", "--configfile", str(TINY), str(overlay))
    assert result.returncode == 1
    assert "corrected/a.png: was changed " in result.stderr
    assert "set the clocks, and give the file the time of now (touch)" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_without_saliency_has_none(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    overlay = str(workplace.overlay(WITHOUT))
    assert workplace.plan("--configfile", overlay) == ALL - {"train_saliency", "predict_saliency"}
    commands = _stage_commands(workplace.snakemake("-n", "-p", "--configfile", overlay).stdout)
    assert "--saliency" not in commands["train_end_to_end"]


def test_predictions_of_a_test_split_that_comes_later_are_packed_without_training_anew(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    data = _bring_data(workplace.folder, names=LISTS)
    overlay = ["--configfile", str(workplace.overlay({"data": data}))]
    assert workplace.snakemake(*overlay, cores=8).returncode == 0
    missing = workplace.snakemake("-n", *overlay, "--", "voc_submission")
    assert missing.returncode == 1
    assert "mine/ImageSets/Segmentation/test.txt" in missing.stdout + missing.stderr
    (workplace.folder / "mine" / "ImageSets" / "Segmentation" / "test.txt").write_text("x\n")
    assert workplace.plan(*overlay) == set()
    assert workplace.plan(*overlay, "--", "voc_submission") == {"index_test", "predict_deeplab_test", "voc_submission"}
    words = workplace.snakemake("-n", "-p", *overlay, "--", "voc_submission").stdout
    assert "predict-deeplab --index results/demo/test/index.csv --model results/demo/deeplab --split test" in words
    assert "getam index-dataset --out results/demo/test/index.csv" in words


def test_masks_are_an_output_where_they_are_converted(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    _bring_data(workplace.folder, names=["annotations/instances_train2014.json", "annotations/instances_val2014.json"])
    coco = {"data": {"format": "coco", "root": "mine"}}
    output = workplace.snakemake("-n", "-p", "index_dataset", "--configfile", str(workplace.overlay(coco))).stdout
    assert "results/demo/masks" in output
    assert "results/demo/masks" not in workplace.snakemake("-n", "-p", "index_dataset").stdout


def test_a_list_of_photographs_is_a_data_set(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    for name in ("mine.csv", "mine.classes.txt"):
        (workplace.folder / name).write_text("x\n")
    overlay = ["--configfile", str(workplace.overlay({"data": {"format": "folder", "root": "mine.csv"}} | WITHOUT))]
    result = workplace.snakemake(*overlay, cores=8)
    assert result.returncode == 0
    assert "\nScores:               results/demo/summary.md\n" in result.stderr
    assert "\nNetwork, multi-stage: results/demo/deeplab\n" in result.stderr
    assert "Audit page:" not in result.stderr  # The stand-in of audit writes none.
    assert workplace.started()[0] == "index-dataset"
    assert "train-saliency" not in workplace.started()
    assert workplace.plan(*overlay) == set()
    # The list has the test split too.
    assert workplace.plan(*overlay, "--", "voc_submission") == {"index_test", "predict_deeplab_test", "voc_submission"}
    for name in ("mine.csv", "mine.classes.txt"):
        time.sleep(0.01)
        (workplace.folder / name).write_text("y\n")
        assert "index_dataset" in workplace.plan(*overlay)
        result = workplace.snakemake(*overlay, cores=8)
        assert result.returncode == 0
        assert "results/demo/summary.md" in result.stderr.split("steps (100%) done")[1]
    index_alone = workplace.snakemake(*overlay, "--forcerun", "index_dataset", "--", "index_dataset", cores=8)
    assert index_alone.returncode == 0
    assert "Scores:" not in index_alone.stderr


PRETRAINED = {
    "classifier": {"backbone": "vit_tiny_patch16_224", "pretrained": True},
    "deeplab": {"pretrained": "mine.pth"},
}


def test_weights_are_fetched_first_and_only_for_who_uses_them(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    (workplace.folder / "mine.pth").write_bytes(b"")
    overlay = str(workplace.overlay(PRETRAINED))
    assert workplace.plan("--configfile", overlay) == ALL | {"fetch_weights"}
    output = workplace.snakemake("-n", "-p", "--configfile", overlay).stdout
    lines = re.findall(r"^Shell command: getam fetch-weights (.*)$", output, re.MULTILINE)
    fetched = [
        parse_flags(fetch_weights.Arguments, shlex.split(line), name="fetch-weights", section=None) for line in lines
    ]
    assert {(each.section, each.network, each.pretrained) for each in fetched} == {
        ("classifier", "vit_tiny_patch16_224", True),
        ("deeplab", "resnet18", "mine.pth"),
    }
    result = workplace.snakemake("--configfile", overlay, cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    assert workplace.plan("--configfile", overlay) == set()
    # Other weights of one network train that one anew, and no other.
    others = PRETRAINED | {"end_to_end": {"pretrained": True}}
    assert workplace.plan("--configfile", str(workplace.overlay(others))) == {"fetch_weights"} | END_TO_END | SCORES
    # So does a file that was replaced.
    time.sleep(0.01)
    (workplace.folder / "mine.pth").write_bytes(b"other")
    assert workplace.plan("--configfile", str(workplace.overlay(PRETRAINED))) == {"fetch_weights"} | DEEPLAB | SCORES


def _bring_data(folder: Path, *, names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name).write_text("x\n")
    (folder / "pairs").mkdir()
    return {"root": "mine", "labels": "file", "saliency_train": "pairs", "saliency_val": "pairs"}


LISTS = (
    "classes.txt",
    "image_labels.txt",
    "ImageSets/Segmentation/train.txt",
    "ImageSets/Segmentation/val.txt",
)


RECIPES = [str(PROJECT / "configs" / f"{name}.yaml") for name in ("voc12", "rehearsal", "rehearsal_gpu")]


def test_a_rehearsal_is_the_recipe_with_fresh_weights_and_few_steps(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    _bring_data(workplace.folder, names=LISTS)
    data = "data={root: mine, labels: file, saliency_train: pairs, saliency_val: pairs, augmented: ''}"
    of_recipe, of_rehearsal, of_gpu = (
        _stage_commands(workplace.snakemake("-n", "-p", "--configfile", *RECIPES[:last], "--config", data).stdout)
        for last in (1, 2, 3)
    )
    assert of_recipe.keys() == (ALL | {"fetch_weights"}) - {"make_demo"}
    assert of_rehearsal.keys() == of_gpu.keys() == ALL - {"make_demo"}
    # What makes a network, its input and its output as large as they are is the recipe's.
    for rule, flags in {
        "train_classifier": ("--backbone", "--backbone-options", "--stem-channels", "--readout", "--crop.size"),
        "train_saliency": ("--backbone", "--backbone-options", "--image-size", "--neck-width"),
        "train_deeplab": ("--encoder", "--encoder-stages", "--scales", "--crop.size", "--output-stride"),
        "train_end_to_end": ("--backbone", "--crop.size", "--decoder.width", "--decoder.taps", "--batch-size"),
        "dump_maps": ("--image-size", "--flip", "--method"),
        "predict_deeplab": ("--scales", "--flip", "--crf.iterations"),
    }.items():
        for flag in flags:
            values = {words[words.index(flag) + 1] for words in (of_recipe[rule], of_rehearsal[rule], of_gpu[rule])}
            assert len(values) == 1, (rule, flag)
    for rule in ("train_classifier", "train_saliency", "train_deeplab"):
        words = {name: of[rule] for name, of in {"recipe": of_recipe, "gpu": of_gpu}.items()}
        sizes = {name: each[each.index("--batch-size") + 1] for name, each in words.items()}
        assert sizes["recipe"] == sizes["gpu"], rule
    # The tables' own networks have fresh weights too.
    output = workplace.snakemake("-n", "-p", "tables", "--configfile", *RECIPES, "--config", data).stdout
    assert re.search(
        r"^Shell command: getam train-classifier .*--out \S+/variants/\S+/classifier", output, re.MULTILINE
    )
    assert "fetch-weights" not in output


def test_the_demo_is_made_only_where_it_is_used(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    data = _bring_data(workplace.folder, names=LISTS)
    assert workplace.plan("--configfile", str(workplace.overlay({"data": data}))) == ALL - {"make_demo"}
    mixed = data | {"saliency_val": "data/../data/demo/DUTS-TE"}
    assert "make_demo" in workplace.plan("--configfile", str(workplace.overlay({"data": mixed})))


BAD_CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"completion": {"alhpa": 0.9}}, "completion.alhpa: unknown key; did you mean alpha?"),
    "wrong type": ({"deeplab": {"epochs": "many"}}, "deeplab.epochs: "),
    "missing folder": ({"data": {"root": "nowhere"}}, "data.root: nowhere: no such folder"),
    "no folder of SBD": ({"data": {"augmented": "nowhere"}}, "data.augmented: nowhere: no such folder"),
    "no folder of saliency maps": (
        {"saliency": {"source": "folder", "folder": "nowhere"}},
        "saliency.folder: nowhere: no such folder",
    ),
    "completion without saliency": ({"saliency": {"source": "none"}}, "without saliency there is no completion; set"),
    "the demo as COCO": (
        {"data": {"format": "coco"}},
        "data.format: coco, but data/demo is the demo's, in VOC's layout; write voc, or name COCO's folder",
    ),
    "braces in a path": (
        {"data": {"augmented": "a{b}"}},
        "data.augmented: a{b}: braces are wildcards to Snakemake; give the file or folder a name without",
    ),
    "no file of weights": (
        {"deeplab": {"pretrained": "nowhere.pth"}},
        "deeplab.pretrained: nowhere.pth: no such file; name a .safetensors or .pth file, true or false",
    ),
    "no file of verdicts": (
        {"completion": {"verdicts": "nowhere.csv"}},
        "completion.verdicts: nowhere.csv: no such file; name one that the audit page has exported, or ''",
    ),
    "an escape of the terminal": (
        {"classifier": {"backbone": "vit\x1b[2J"}},
        "classifier: backbone: holds a control character; write it without",
    ),
    "an escape in a key": ({"class\x1b[2Jifier": {}}, r"class\x1b[2Jifier: unknown key; did you mean classifier?"),
    "braces in the name of verdicts": (
        {"completion": {"verdicts": "{a}.csv"}},
        "completion.verdicts: {a}.csv: braces are wildcards to Snakemake; give the file or folder a name without",
    ),
    "verdicts inside of what is made anew": (
        {"completion": {"verdicts": "results/demo/audit/verdicts.csv"}},
        "completion.verdicts: results/demo/audit/verdicts.csv: lies in the folder that audit makes anew; move it",
    ),
    "rates of another architecture": (
        {"deeplab": {"architecture": "deeplabv3plus"}},
        "deeplab: atrous_rates: deeplabv3plus takes three, not [1, 2, 3, 4]",
    ),
    "one seed": ({"tables": {"seeds": 1}}, "tables.seeds: Input should be greater than or equal to 2"),
    "frozen batch norm from scratch": ({"deeplab": {"frozen_batch_norm": True}}, "deeplab: frozen_batch_norm: true"),
    "missing list of photographs": (
        {"data": {"format": "folder", "root": "nowhere.csv"}},
        "data.root: nowhere.csv: no such file; add it, or name another list",
    ),
    "the demo as a list": (
        {"data": {"format": "folder"}},
        "data.format: folder, but data/demo is the demo's, in VOC's layout; write voc, or name a list",
    ),
    "missing list": (
        {"data": {"root": "mine", "labels": "file"}},
        "data.root: mine/image_labels.txt: no such file",
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_a_bad_configuration_ends_with_one_message(tmp_path: Path, name: str) -> None:
    values, message = BAD_CONFIGURATIONS[name]
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    _bring_data(workplace.folder, names=[name for name in LISTS if name != "image_labels.txt"])
    result = workplace.snakemake("--configfile", str(workplace.overlay(values)))
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert output.count(message) == 1
    assert "Traceback" not in output
    assert ".smk" not in output
    assert "\x1b" not in output
    assert not (workplace.folder / "results").exists()


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Snakemake reads the file too, and keeps the last."""
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    overlay = workplace.overlay({"classifier": {"epochs": 3}})
    overlay.write_text(overlay.read_text() + "run: mine\nclassifier:\n  batch_size: 8\n")
    result = workplace.snakemake("-n", "--configfile", str(overlay))
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert f"{overlay}: not valid YAML: 'classifier' stands in line 1 and again in line 4; join the two" in output
    assert "Traceback" not in output


def test_a_message_shows_settings_as_they_are(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    overlay = workplace.overlay({"classifier": {"backbone": "{os}{{x}}"}})
    result = workplace.snakemake("-n", "--configfile", str(overlay), "--", "train_classifier")
    output = result.stdout + result.stderr
    assert "train_classifier: demo, {os}{{x}}, " in output
    assert "<module" not in output
    # Whatever else a message says of a setting comes from `params`, as the backbone does.
    for name, body in _rules().items():
        assert not re.search(r"message:\s+f\"", body), name


def test_options_of_a_backbone_are_replaced_whole(finished: Workplace) -> None:
    overlay = finished.overlay({"classifier": {"backbone_options": {}}})
    words = _stage_commands(finished.snakemake("-n", "--configfile", str(overlay)).stdout)["train_classifier"]
    assert words[words.index("--backbone-options") + 1] == "{}"


def _stage_commands(output: str) -> dict[str, list[str]]:
    """The words of each rule's command line, as Snakemake prints it."""
    lines = re.findall(r"^Shell command: ((?:getam|deeplab) .*)$", output, re.MULTILINE)
    return {(words := shlex.split(line))[1].replace("-", "_"): words for line in lines}


def test_every_stage_takes_the_flags_that_its_rule_gives(tmp_path: Path) -> None:
    result = Workplace(tmp_path / "work", stand_ins=True).snakemake("-n", "-p")
    commands = _stage_commands(result.stdout + result.stderr)
    assert commands.keys() == ALL
    for rule, (package, stage, *flags) in commands.items():
        module = importlib.import_module(f"{package}.stages.{rule}")
        try:
            arguments = parse_flags(module.Arguments, flags, name=stage, section=None)
        except InputError as error:
            pytest.fail(f"{rule}: {error}")
        # Nothing was left to a default but the device and how a training is watched.
        machine = {"device"} | TrainingArguments.model_fields.keys() - MachineArguments.model_fields.keys()
        assert set(module.Arguments.model_fields) - machine <= arguments.model_fields_set, rule


def _rules() -> dict[str, str]:
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "workflow" / "rules").glob("*.smk")))
    return dict(re.findall(r"^rule (\w+):\n((?:(?: +.*)?\n)+)", text + "\n", re.MULTILINE))


def test_a_checkpoint_takes_the_place_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "vitb.pth").write_bytes(b"")
    checkpoint = f"{{file: {tmp_path / 'vitb.pth'}, backbone: vitb}}"
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    result = workplace.snakemake("-n", "-p", "end_to_end", "--config", f"checkpoint={checkpoint}")
    commands = _stage_commands(result.stdout + result.stderr)
    assert commands.keys() == {
        "make_demo", "index_dataset", "import_checkpoint", "predict_end_to_end", "evaluate_end_to_end"
    }  # fmt: skip
    _, _, *words = commands["import_checkpoint"]
    arguments = parse_flags(import_checkpoint.Arguments, words, name="import-checkpoint", section=None)
    assert arguments.file == tmp_path / "vitb.pth"
    assert str(arguments.classes).endswith("results/demo/classes.txt")
    assert f"--model {arguments.out}" in " ".join(commands["predict_end_to_end"])
    # Nor do the scores' plots ask for one.
    expected = (ALL | {"import_checkpoint"}) - {"train_end_to_end"}
    assert workplace.plan("--config", f"checkpoint={checkpoint}") == expected


def test_every_rule_reads_in_the_same_order() -> None:
    rules = _rules()
    stages = {**getam.cli.STAGES, **deeplab.cli.STAGES}
    assert {name.replace("_", "-") for name in rules} == set(stages)
    for name, body in rules.items():
        directives = re.findall(r"^ {4}(\w+):", body, re.MULTILINE)
        assert directives == [word for word in DIRECTIVES if word in directives], name
        assert set(DIRECTIVES) - set(directives) <= {"input", "params", "priority", "wildcard_constraints"}, name
        assert re.search(rf'"(getam|deeplab) {name.replace("_", "-")} ', body), name
        assert re.search(rf"/logs/{name}[./]", body), name
        assert re.search(rf"/benchmarks/{name}[./]", body), name
        asked = body.split("resources:")[1].split("params:")[0]
        resources = re.findall(r"^ {8}(\w+)=", asked, re.MULTILINE)
        # A job that is tried again may have had too little.
        assert re.findall(r"(\w+)=scaled\(", asked) == ["mem_mb", "runtime"], name
        runs_network = bool(re.match("train|predict|relabel|dump|refine|time", name))
        assert resources[: 2 + runs_network] == ["gpu"] * runs_network + ["mem_mb", "runtime"], name


CONTRACT = (
    "index.csv",
    "classes.txt",
    "classifier/model.safetensors",
    "classifier/model.json",
    "classifier/metrics.json",
    "maps/000/manifest.json",
    "refined/001/manifest.json",
    "saliency/000/manifest.json",
    "pseudo_labels/001/manifest.json",
    "saliency_model/model.safetensors",
    "saliency_model/metrics.json",
    "pseudo_labels.json",
    "deeplab/model.safetensors",
    "deeplab/model.json",
    "deeplab/metrics.json",
    "deeplab/predictions/manifest.json",
    "end_to_end/model.safetensors",
    "end_to_end/model.json",
    "end_to_end/metrics.json",
    "end_to_end/predictions/manifest.json",
    "audit/index.html",
    "audit/overview.html",
    "audit/contact_sheet.html",
    "plots/iou.svg",
    "plots/times.svg",
    "summary.json",
    "summary.md",
    "summary.html",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_complete_run_writes_every_file_and_is_then_done(tiny: Workplace) -> None:
    results = tiny.folder / "results" / "tiny"
    assert [name for name in CONTRACT if not (results / name).is_file()] == []
    assert {path.stem for path in (results / "logs").iterdir()} == ALL
    assert {path.stem for path in (results / "benchmarks").iterdir()} == ALL
    assert len(pseudo_labels(tiny)) == 24
    assert tiny.plan("--configfile", str(TINY)) == set()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_report_shows_scores_plots_and_images_without_a_network(tiny: Workplace) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    result = subprocess.run(
        [*tiny.command, "--report", "report.html", "--configfile", str(TINY)],
        cwd=tiny.folder,
        env=tiny.environment | nowhere,
        capture_output=True,
        text=True,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    plots = [path.name for path in (tiny.folder / "results" / "tiny" / "plots").glob("*.svg")]
    assert len(plots) >= 5
    for name in ("summary.html", "contact_sheet.html", *plots):
        assert f"Adding {name}" in output
    page = (tiny.folder / "report.html").read_text(encoding="utf-8")
    # The workflow's description, and a caption of each kind.
    for text in (
        "Weakly-supervised semantic segmentation by",
        "Every score of the run",
        "Share of each ground-truth class",
        "lowest",
    ):
        assert text in page
    assert tiny.plan("--configfile", str(TINY)) == set()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_is_taken_up_and_gives_the_same_pseudo_labels(tiny: Workplace, tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=False, forked=True)
    words = ["results/tiny/pseudo_labels/000", "results/tiny/pseudo_labels/001", *ONE_THREAD_A_JOB]
    running = subprocess.Popen(
        [*workplace.command, "--cores", "2", *words],
        cwd=workplace.folder,
        env=workplace.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = workplace.folder / "results" / "tiny" / "logs" / "train_classifier.log"
    try:
        while not (log.exists() and log.stat().st_size):
            assert running.poll() is None, "the run ended before the classifier's training began"
            time.sleep(0.05)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (workplace.folder / "results" / "tiny" / "classifier" / "model.safetensors").exists()
    # A killed Snakemake leaves its lock on the folder.
    assert workplace.snakemake("--unlock").returncode == 0
    result = workplace.snakemake(*words)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    assert pseudo_labels(workplace) == pseudo_labels(tiny)
