"""The paper's tables as data, what their runs share, and the targets that make them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.run_files import CLASSES, segmentation, write_run
from support.workplace import PROJECT, Workplace

from getam.cli import parse_flags
from getam.errors import InputError
from getam.experiments.table_runs import content_flags, register, runs_of, score_files
from getam.experiments.table_scores import GivenRow, read_rows
from getam.experiments.tables import definitions
from getam.experiments.variants import Variants
from getam.networks.end_to_end import EndToEndNetwork
from getam.runs.summary import measured_scores, summarize
from getam.settings.completion import LABEL_METHODS
from getam.settings.config import Config, validate_config
from getam.settings.reading import merge, read_yaml
from getam.stages import make_table
from getam.stages.make_table import Arguments
from getam.system.files import read_json, write_json

TABLES = [f"table{number}" for number in range(1, 9)]
WITHOUT_SALIENCY = {
    "saliency": {"source": "none"},
    "completion": {"method": "crf"},
    "end_to_end": {"completion": {"method": "crf"}, "saliency_weight": 0},
}


def variants(overlay: dict[str, Any] | None = None, *, recipe: str | None = None) -> Variants:
    values = read_yaml(PROJECT / "config.yaml")
    if recipe:
        values = merge(values, read_yaml(PROJECT / "configs" / f"{recipe}.yaml"))
    values = merge(values, overlay or {})
    return Variants(values, validate_config(values))


def labels_and_runs(found: Variants, table: str) -> dict[str, str]:
    return {row.label: name for row, name in runs_of(found, table)}


# What is compared


@pytest.mark.parametrize("recipe", [None, "voc12", "coco14"])
def test_all_comparisons_of_a_recipe_can_be_made(recipe: str | None) -> None:
    found = variants(recipe=recipe)
    names = register(found)
    assert names.keys() == {*TABLES, "figure2", "figure7", "seeds"}
    for table, runs in names.items():
        assert len(runs) >= 2, table
        # The paper's own method is the run itself, or in Table 4 and 5 all are.
        assert found.run in runs, table
        assert {*runs} <= {*found}, table


def test_the_papers_figures_are_the_designs() -> None:
    def figures(table: str) -> dict[str, dict[str, float]]:
        settings = variants(recipe="voc12")["voc12"]
        return {row.label: dict(row.paper) for row in definitions(settings)[table].rows}

    assert figures("table1") == {"train": {"Paper": 0.696}, "val": {"Paper": 0.667}}
    assert {label: each["Paper"] for label, each in figures("table2").items()} == {
        "ViT": 0.679, "Hybrid": 0.704, "DeiT": 0.66, "DeiT-distilled": 0.697
    }  # fmt: skip
    assert {label: each["Paper"] for label, each in figures("table3").items() if each} == {
        "GETAM + completion": 0.704,
        "GETAM + dense CRF": 0.551,
        "ViT CAM + completion": 0.553,
        "CNN CAM + completion": 0.647,
    }
    assert figures("table4")["Multi-stage"] == {"Paper, val": 0.706, "Paper, test": 0.704}
    assert figures("table4")["End to end"]["Released, test"] == 0.723
    assert figures("table5")["End to end"] == {"Paper, val": 0.349, "Released, val": 0.364}
    assert [each["Paper"] for each in figures("table6").values()] == [0.692, 0.704, 0.7, 0.689]
    # A label method that the paper doesn't have follows without a figure.
    assert [each["Paper"] for each in figures("table7").values() if each] == [0.704, 0.626, 0.551]


def test_rows_differ_in_as_little_as_they_can() -> None:
    found = variants()
    register(found)
    alphas = labels_and_runs(found, "table6")
    assert alphas["alpha 0.9"] == "demo"
    assert alphas["alpha 0.85"] == "demo/variants/completion.alpha-0.85"
    makers = labels_and_runs(found, "table7")
    assert [*makers.items()][:3] == [
        ("Completion", "demo"),
        ("RRM", "demo/variants/completion.method-rrm"),
        ("Dense CRF", "demo/variants/completion.method-crf"),
    ]
    assert len(makers) == len(LABEL_METHODS)
    maps = labels_and_runs(found, "table3")
    assert maps["GETAM + dense CRF"] == makers["Dense CRF"]
    # Both label makers take the same CNN, which is trained once.
    cnn = {found.file(run, "classifier/model.json") for label, run in maps.items() if label.startswith("CNN")}
    assert len(cnn) == 1
    assert found.file(maps["ViT CAM + completion"], "classifier/model.json") == "results/demo/classifier/model.json"
    shown = labels_and_runs(found, "figure2")
    assert (shown["GETAM"], shown["CNN CAM"]) == ("demo", maps["CNN CAM + completion"])
    assert labels_and_runs(found, "figure7")["sum"] == "demo"
    # Nothing is trained anew for Table 1 and 4.
    assert score_files(found, "table1") == ["results/demo/pseudo_labels.json", "results/demo/val/pseudo_labels.json"]
    assert score_files(found, "table4") == ["results/demo/deeplab/metrics.json", "results/demo/end_to_end/metrics.json"]


def test_table8_goes_from_the_paper_to_full_supervision_one_change_at_a_time() -> None:
    found = variants()
    rows = labels_and_runs(found, "table8")
    assert [*rows] == [
        "I+S: GETAM + completion",
        "I+S: + propagation",
        "I+S: + 2 rounds",
        "I: GETAM + bands",
        "I: + propagation",
        "I: + 2 rounds",
        "F: ground truth",
    ]
    assert rows["I+S: GETAM + completion"] == "demo"
    files = score_files(found, "table8")
    # One classifier, one set of maps with and one without propagation, for all rows.
    assert {found.file(name, "classifier/model.json") for name in rows.values()} == {
        "results/demo/classifier/model.json"
    }
    assert len({found.file(name, "maps/000") for name in rows.values()}) == 2
    assert len([file for file in files if file.endswith("deeplab/metrics.json")]) == 7
    assert len([file for file in files if file.endswith("end_to_end/metrics.json")]) == 4
    assert len([file for file in files if "/rounds/2/deeplab" in file]) == 2
    for label, name in rows.items():
        settings = found[name]
        assert settings.completion.needs_saliency == (not label.startswith("I:"))
        assert settings.end_to_end.maps.propagation == settings.maps.propagation
        assert (settings.maps.propagation != "none") == ("+ propagation" in label or "rounds" in label)
        if label.startswith("I:"):
            assert not settings.end_to_end.completion.needs_saliency
            assert settings.end_to_end.saliency_weight == 0
    # Without saliency the rows with it are left out; of a run with more rounds, the last is shown.
    assert next(iter(labels_and_runs(variants(WITHOUT_SALIENCY), "table8"))) == "I: GETAM + bands"
    assert "I+S: + 3 rounds" in labels_and_runs(variants({"rounds": 3}), "table8")


def test_shares_of_full_supervision(tmp_path: Path) -> None:
    values = {"paper": 0.6, "more": 0.72, "F: ground truth": 0.8}
    rows = []
    for label, value in values.items():
        file = tmp_path / f"{value}.json"
        write_json(file, {"images": 3, "miou": value, "other": 0.5})
        scores = {"Net, val": {"file": str(file), "path": ["miou"]}}
        if label != "F: ground truth":
            scores |= {"Maps": {"file": str(file), "path": ["other"]}}
        rows.append(
            {"label": label, "own": label == "paper", "value": None, "paper": {}, "given": {}, "scores": scores}
        )
    out = tmp_path / "table8.json"
    make_table.run(
        Arguments(title="t", caption="", axis="", ordered=False, full="F: ground truth", rows=rows, out=out, threads=1)
    )
    shares = read_json(out)["shares"]
    assert shares == {"Net, val": {"paper": pytest.approx(0.75), "more": pytest.approx(0.9)}}
    table = out.with_suffix(".md").read_text()
    assert "Net, val, share of ground truth" in table
    assert re.search(r"\| more \|.*\| 0\.900 \|", table)
    assert re.search(r"\| F: ground truth \|.*\| - \|", table)


@pytest.mark.parametrize("name", ["ViT", "Hybrid", "DeiT", "DeiT-distilled"])
def test_every_backbone_of_the_demo_builds(name: str) -> None:
    found = variants()
    settings = found[labels_and_runs(found, "table2")[name]].end_to_end
    assert EndToEndNetwork(settings, num_classes=6).classifier.backbone.patch_embed.dynamic_feat_size((96, 96)) == (
        12,
        12,
    )


def test_what_a_run_rules_out_is_said_to_who_asks_and_stops_nothing_else() -> None:
    found = variants(WITHOUT_SALIENCY)
    names = register(found)
    assert {"table1", "table4", "table5"} <= names.keys()
    assert not {"table3", "table6", "table7"} & names.keys()
    with pytest.raises(InputError, match=r"^table3, GETAM \+ completion: saliency\.source: without saliency"):
        runs_of(found, "table3")


def test_bad_rows_of_a_configuration_are_named() -> None:
    found = variants({"tables": {"backbones": {"Mine": {"backbon": "vit_small_patch16_224"}}}})
    assert "table2" not in register(found)
    with pytest.raises(InputError, match=r"^table2, Mine: end_to_end\.backbon: unknown key; did you mean backbone"):
        runs_of(found, "table2")


def test_backbones_of_an_overlay_take_the_place_of_all() -> None:
    found = variants({"tables": {"backbones": {"Mine": {"epochs": 8}}}})
    assert [*labels_and_runs(found, "table2")] == ["Mine"]


# Sweeps


def test_a_sweep_has_the_scores_that_its_setting_changes() -> None:
    def headings(key: str, *values: Any) -> list[str]:
        found = variants({"sweep": {"key": key, "values": list(values)}})
        return [score.heading for score in definitions(found["demo"])["sweep"].scores]

    assert headings("end_to_end.energy.weight", 0, 1) == ["End to end, val"]
    assert headings("deeplab_prediction.flip", True, False) == ["DeepLab, val"]
    labels = [f"Pseudo labels, 255 {meaning}" for meaning in ("left out", "as background", "as wrong")]
    assert headings("completion.gamma", 32) == [*labels, "Coverage", "DeepLab, val"]
    assert headings("refine.iterations", 0, 10) == ["Maps, best threshold", *labels, "Coverage", "DeepLab, val"]
    assert "Saliency MAE, val" in headings("saliency.epochs", 1)
    assert headings("classifier.seed", 0, 1)[0] == "Classifier mAP, val"
    assert headings("score_labels.threshold", 0.1, 0.2) == ["Maps, fixed threshold"]


def test_a_sweep_names_its_runs_and_orders_numbers() -> None:
    found = variants({"sweep": {"key": "completion.gamma", "values": [32, 128.0, 64]}})
    rows = runs_of(found, "sweep")
    assert [(row.label, row.value, name) for row, name in rows] == [
        ("completion.gamma = 32", 32, "demo/variants/completion.gamma-32.0"),
        ("completion.gamma = 128", 128, "demo"),
        ("completion.gamma = 64", 64, "demo/variants/completion.gamma-64.0"),
    ]
    # As a command line hands them over, one of them twice.
    texts = variants({"sweep": {"key": "completion.gamma", "values": ["32", "128.0", "32.0"]}})
    assert [(row.label, row.value) for row, _ in runs_of(texts, "sweep")] == [
        ("completion.gamma = 32", 32),
        ("completion.gamma = 128", 128),
    ]
    lists = variants({"sweep": {"key": "maps.scales", "values": [[1], ["0.5", "1"]]}})
    assert [row.label for row, _ in runs_of(lists, "sweep")] == ["maps.scales = [1.0]", "maps.scales = [0.5, 1.0]"]
    words = variants({"sweep": {"key": "completion.conflict", "values": ["unknown", "lowest"]}})
    assert [row.value for row, _ in runs_of(words, "sweep")] == [None, None]
    truths = variants({"sweep": {"key": "deeplab_prediction.flip", "values": [True, False]}})
    assert [row.value for row, _ in runs_of(truths, "sweep")] == [None, None]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"key": "", "values": []}, "sweep: names no setting"),
        ({"key": "completion.gamma", "values": []}, "sweep: names no setting, or no values of it"),
        ({"key": "completion.gama", "values": [1]}, "sweep.key: completion.gama: no setting of config.yaml"),
        ({"key": "completion", "values": [1]}, "sweep.key: completion: no setting of config.yaml"),
        ({"key": "audit.images", "values": [1]}, "sweep.key: audit.images: no score depends on it"),
        ({"key": "completion.gamma", "values": [-1]}, "sweep, completion.gamma = -1: completion.gamma: "),
        ({"key": "data.root", "values": ["x"]}, "sweep.key: data.root: runs that share their stages cannot differ"),
        ({"key": "saliency.source", "values": ["none"]}, "sweep.key: saliency.source: runs that share their stages"),
        ({"key": "classifier.gpus", "values": [1, 2]}, "sweep: all values of classifier.gpus are the same run"),
    ],
)
def test_a_sweep_of_nothing_is_said(sweep: dict[str, Any], message: str) -> None:
    found = variants({"sweep": sweep})
    assert "sweep" not in register(found)
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        runs_of(found, "sweep")


def test_what_trains_nothing_is_not_compared() -> None:
    imported = {"checkpoint": {"file": "vitb.pth"}}
    found = variants({**imported, "sweep": {"key": "end_to_end.epochs", "values": [1, 2]}})
    assert not {"table2", "sweep"} & register(found).keys()
    for table in ("table2", "sweep"):
        with pytest.raises(InputError, match=rf"^{table}: .* in whose place checkpoint\.file is"):
            runs_of(found, table)
    assert len(runs_of(found, "table4")) == 2


def test_the_cnn_of_an_overlay_changes_what_it_says() -> None:
    found = variants({"tables": {"cnn": {"epochs": 3}}})
    name = labels_and_runs(found, "table3")["CNN CAM + completion"]
    assert (found[name].classifier.backbone, found[name].classifier.epochs) == ("resnet18", 3)


# Seeds

TRAININGS = ("classifier", "saliency", "deeplab", "end_to_end")


def seeds_of(settings: Config) -> list[int]:
    return [getattr(settings, section).seed for section in TRAININGS]


def test_every_training_of_a_run_takes_the_next_seeds() -> None:
    found = variants({"deeplab": {"seed": 7}, "tables": {"seeds": 4}})
    assert [seeds_of(found[name]) for name in register(found)["seeds"]] == [
        [k, k, 7 + k, k] for k in range(4)
    ]  # fmt: skip
    assert labels_and_runs(found, "seeds") == {"demo": "demo"}
    folders = {file.split("/variants/")[1].split("/")[0] for file in score_files(found, "seeds") if "-3" in file}
    # Each file lies with the seeds that touch it.
    assert folders == {
        "classifier.seed-3",
        "saliency.seed-3",
        "classifier.seed-3_saliency.seed-3",
        "classifier.seed-3_saliency.seed-3_deeplab.seed-10",
        "saliency.seed-3_end_to_end.seed-3",
    }


def scores_of_seeds(found: Variants) -> dict[str, int]:
    """The scores of the table of seeds, each with the number of its files."""
    words = content_flags(found, "seeds")
    arguments = parse_flags(Arguments, [*words, "--out", "o.json"], name="make-table", section=None)
    (row,) = arguments.rows
    assert (arguments.lines, row.own) == ("scores", True)
    return {heading: len(score.files) for heading, score in row.scores.items()}


def test_the_table_of_seeds_has_every_score_of_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    precision = dict.fromkeys(CLASSES, 0.5)
    measured = {"split": "val", "images": 1, "mean_average_precision": 0.11, "average_precision": precision}
    write_json(run / "classifier" / "metrics.json", measured)
    saliency = {"images": 1, "mae": 0.21, "max_f": 0.22, "s_measure": 0.23, "max_e": 0.24}
    write_json(run / "saliency_model" / "metrics.json", saliency)
    labels = read_json(run / "pseudo_labels.json")
    labels["protocols"] = {
        name: {"miou": 0.31 + 0.01 * place, "iou": {}} for place, name in enumerate(("excluded", "background", "wrong"))
    }
    write_json(run / "pseudo_labels.json", labels | {"unknown_share": 0.41, "coverage": 0.42})
    write_json(run / "deeplab" / "metrics.json", segmentation(0, 0, 0) | {"miou": 0.51, "pixel_accuracy": 0.52})
    write_json(run / "end_to_end" / "metrics.json", segmentation(0, 0, 0) | {"miou": 0.61, "pixel_accuracy": 0.62})
    (row,) = definitions(variants()["demo"])["seeds"].rows
    scores = {
        score.heading: {"file": run / score.file, "path": score.path}
        for score in definitions(variants()["demo"])["seeds"].scores
    }
    given = {"label": row.label, "own": True, "value": None, "paper": {}, "given": {}, "scores": scores}
    (read,) = read_rows([GivenRow.model_validate(given)])
    shown = [score.number for score in measured_scores(summarize(run))]
    assert [*read.scores.values()] == shown
    assert len({*shown}) == len(shown)


def test_what_no_seed_touches_is_made_once() -> None:
    every = scores_of_seeds(variants())
    assert {*every.values()} == {3}
    # The maps are brought, or an end-to-end network is.
    folder = variants({"saliency": {"source": "folder", "folder": "maps"}})
    assert scores_of_seeds(folder) == {name: 3 for name in every if not name.startswith("Saliency")}
    shared = [folder.file(name, "saliency/000") for name in register(folder)["seeds"]]
    assert {*shared} == {"results/demo/saliency/000"}
    assert "it has no score of one" in definitions(folder["demo"])["seeds"].caption
    imported = variants({"checkpoint": {"file": "vitb.pth"}})
    assert scores_of_seeds(imported) == {
        name: 1 if name.startswith("End to end") else number for name, number in every.items()
    }
    without = variants(WITHOUT_SALIENCY)
    assert {seeds_of(without[name])[1] for name in register(without)["seeds"]} == {0}


def test_a_seed_that_is_not_valid_is_said_to_who_asks() -> None:
    found = variants({"classifier": {"seed": 2**31 - 2}})
    assert "seeds" not in register(found)
    with pytest.raises(InputError, match=r"^seeds, demo, seed \+ 2: classifier\.seed: "):
        runs_of(found, "seeds")


@pytest.mark.parametrize("table", ["table2", "table3", "table6", "table7", "sweep"])
def test_the_rows_of_a_table_may_be_made_with_several_seeds(table: str) -> None:
    sweep = {"key": "completion.gamma", "values": [32, 64]}
    one, several = (variants({"tables": {"row_seeds": count}, "sweep": sweep}) for count in (1, 3))
    # A row's own seed is the first, so that what was made before is not made anew.
    assert labels_and_runs(one, table) == labels_and_runs(several, table)
    before, after = score_files(one, table), score_files(several, table)
    assert {*before} < {*after}
    assert len(after) == 3 * len(before)
    words = {count: content_flags(found, table) for count, found in ((1, one), (3, several))}
    assert "others" not in str(words[1])
    for row, name in runs_of(several, table):
        assert seeds_of(several[name]) == [0, 0, 0, 0], row.label
    runs = register(several)[table]
    assert Counter(tuple(seeds_of(several[name])) for name in runs) == {
        (k, k, k, k): len(runs) // 3 for k in range(3)
    }  # fmt: skip


def test_the_seeds_of_a_sweep_over_seeds_start_at_each_value() -> None:
    sweep = {"key": "classifier.seed", "values": [0, 5]}
    found = variants({"tables": {"row_seeds": 2}, "sweep": sweep})
    assert [seeds_of(found[name]) for name in register(found)["sweep"]] == [
        [0, 0, 0, 0], [1, 1, 1, 1], [5, 0, 0, 0], [6, 1, 1, 1]
    ]  # fmt: skip


# The flags and the rules


@pytest.mark.parametrize("table", TABLES)
def test_the_flags_of_a_table_carry_its_rows(table: str) -> None:
    found = variants()
    words = content_flags(found, table)
    arguments = parse_flags(Arguments, [*words, "--out", "o.json"], name="make-table", section=None)
    definition = definitions(found["demo"])[table]
    assert (arguments.title, arguments.caption) == (definition.title, definition.caption)
    assert [row.label for row in arguments.rows] == [row.label for row in definition.rows]
    files = {str(score.file) for row in arguments.rows for score in row.scores.values()}
    assert files == {*score_files(found, table)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("tables") / "work", stand_ins=True)


@pytest.mark.slow
def test_the_target_of_all_tables_takes_every_variant_once(workplace: Workplace) -> None:
    result = workplace.snakemake("tables", cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = workplace.folder / "results" / "demo" / "tables"
    made = {path.stem for path in folder.glob("*.md")}
    # Table 5 is COCO's, and table 8 is none of the paper's: both are made if they are asked for.
    assert made == {*TABLES, "figure2", "figure7", "figure11"} - {"table5", "table8"}
    assert workplace.plan("tables") == set()
    # A table alone costs what it compares.
    assert workplace.plan("table5") == {"make_table", "table5"}
    trained = [*(workplace.folder / "results" / "demo" / "variants").glob("*/classifier/model.json")]
    assert len(trained) == 3
    output = workplace.snakemake("-n", "-F", "-p", "tables").stdout
    commands = [shlex.split(line) for line in re.findall(r"^Shell command: (getam .*)$", output, re.MULTILINE)]
    for stage in ("make-table", "compare-maps", "plot-fusions", "time-labels"):
        _, _, *words = next(words for words in commands if words[1] == stage)
        model = importlib.import_module(f"getam.stages.{stage.replace('-', '_')}").Arguments
        arguments = parse_flags(model, words, name=stage, section=None)
        assert set(model.model_fields) - {"device"} <= arguments.model_fields_set, stage


def test_the_table_of_alphas_trains_one_classifier_and_one_saliency_network(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    result = workplace.snakemake("table6", "--config", "data={shards: 1}", cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    started = Counter(workplace.started())
    once = ("train-classifier", "dump-maps", "refine-maps", "train-saliency", "predict-saliency", "make-table")
    for_each = ("complete-labels", "score-labels", "train-deeplab", "predict-deeplab", "evaluate-deeplab")
    assert len(validate_config(read_yaml(PROJECT / "config.yaml")).tables.alphas) == 4
    before = {"make-demo": 1, "index-dataset": 1}
    assert started == before | dict.fromkeys(once, 1) | dict.fromkeys(for_each, 4)


@pytest.mark.slow
def test_an_edit_of_a_table_reruns_its_new_rows_alone(workplace: Workplace) -> None:
    if not (workplace.folder / "results").exists():
        assert workplace.snakemake("tables", cores=8).returncode == 0
    alphas = json.dumps([0.8, 0.9, 1])
    planned = workplace.plan("tables", "--config", f"tables={{alphas: {alphas}}}")
    labels = {"complete_labels", "score_labels", "train_deeplab", "predict_deeplab", "evaluate_deeplab"}
    assert planned == labels | {"make_table", "tables"}
    assert workplace.plan("tables", "--config", "tables={images: 3}") == {"compare_maps", "time_labels", "tables"}


def test_a_sweep_is_a_target(workplace: Workplace, tmp_path: Path) -> None:
    nothing = workplace.snakemake("-n", "sweep")
    assert nothing.returncode == 1
    output = nothing.stdout + nothing.stderr
    assert output.count("sweep: names no setting") == 1
    assert "Traceback" not in output
    assert ".smk" not in output
    # Nothing of the run is made yet, so that its own jobs are among them.
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    sweep = ("--config", "sweep={key: maps.start_block, values: [0, 1, 2]}", "data={shards: 1}")
    output = workplace.snakemake("-n", "-p", "sweep", *sweep).stdout
    written = {
        stage: re.findall(rf"^Shell command: \w+ {stage} .*--out results/(\S+)", output, re.MULTILINE)
        for stage in ("train-classifier", "dump-maps", "train-deeplab", "make-table")
    }
    runs = ["demo", *(f"demo/variants/maps.start_block-{block}" for block in (0, 1, 2))]
    own = validate_config(read_yaml(PROJECT / "config.yaml")).maps.start_block
    runs.remove(f"demo/variants/maps.start_block-{own}")
    assert written["train-classifier"] == ["demo/classifier"]
    assert sorted(written["dump-maps"]) == [f"{run}/maps/000" for run in runs]
    assert sorted(written["train-deeplab"]) == [f"{run}/deeplab" for run in runs]
    assert written["make-table"] == ["demo/tables/sweep.json"]


@pytest.mark.slow
def test_seeds_are_a_target_that_trains_what_a_seed_touches_alone(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    assert workplace.snakemake(cores=8).returncode == 0
    before = Counter(workplace.started())
    result = workplace.snakemake("seeds", cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    shards = validate_config(read_yaml(PROJECT / "config.yaml")).data.shards
    once = ("train-classifier", "train-saliency", "train-deeplab", "train-end-to-end", "predict-deeplab")
    once += ("predict-end-to-end", "evaluate-deeplab", "evaluate-end-to-end", "score-labels")
    for_each_shard = ("dump-maps", "refine-maps", "predict-saliency", "complete-labels")
    assert Counter(workplace.started()) - before == dict.fromkeys(once, 2) | dict.fromkeys(
        for_each_shard, 2 * shards
    ) | {"make-table": 1}
    made = {path.name for path in (workplace.folder / "results" / "demo" / "tables").iterdir()}
    assert made >= {f"seeds.{suffix}" for suffix in ("json", "md", "html", "svg")}
    assert workplace.plan("seeds") == set()
    # Their number is no part of the run.
    assert workplace.plan("--config", "tables={seeds: 4}") == set()
    assert workplace.plan("seeds", "--config", "tables={seeds: 2}") == {"make_table", "seeds"}
    # The tables over seeds take what is there: of table 7, the first label maker's.
    planned = workplace.snakemake("-n", "table7", "--config", "tables={row_seeds: 3}").stdout
    assert "train_classifier" not in planned
    assert "train_end_to_end" not in planned
    deeplabs = re.findall(r"^Shell command: deeplab train-deeplab .*--out results/(\S+)", planned, re.MULTILINE)
    assert len(deeplabs) == 3 * (len(LABEL_METHODS) - 1)


def test_seeds_with_saliency_maps_of_ones_own_share_them(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    (workplace.folder / "maps").mkdir()
    brought = ("--configfile", str(workplace.overlay({"saliency": {"source": "folder", "folder": "maps"}})))
    planned = workplace.snakemake("-n", *brought, "--", "seeds").stdout
    assert "saliency_model" not in planned
    collected = re.findall(r"^Shell command: getam collect-saliency .*--out (\S+)", planned, re.MULTILINE)
    assert sorted(collected) == ["results/demo/saliency/000", "results/demo/saliency/001"]
    assert len(re.findall(r"^Shell command: getam index-dataset ", planned, re.MULTILINE)) == 1


def test_a_seed_that_is_not_valid_ends_with_one_message(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    last = ("--config", f"deeplab={{seed: {2**31 - 1}}}")
    # Other targets are not concerned.
    assert "train_deeplab" in workplace.plan(*last, "--", "multi_stage")
    result = workplace.snakemake("-n", *last, "--", "seeds")
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert output.count("seeds, demo, seed + 1: deeplab.seed: Input should be less than") == 1
    assert "Traceback" not in output
    assert ".smk" not in output


def test_the_section_keeps_what_was_measured_elsewhere() -> None:
    found = variants({"tables": {"test_miou": {"multi_stage": 0.7}}})
    rows = {row.label: row for row, _ in runs_of(found, "table4")}
    assert rows["Multi-stage"].given == {"test": 0.7}
    assert isinstance(found["demo"], Config)
