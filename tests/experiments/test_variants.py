"""Variants of a run: what they share, beside the table of what an edit reruns."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.edited_keys import ELSEWHERE, expected
from support.workplace import PROJECT

from getam.errors import InputError
from getam.experiments.variants import Variants, depends_on
from getam.settings.config import Config, validate_config
from getam.settings.flags import leaves
from getam.settings.reading import merge, read_yaml

FILES = {
    "index_dataset": "index.csv",
    "train_classifier": "classifier/model.safetensors",
    "dump_maps": "maps/000",
    "refine_maps": "refined/000",
    "train_saliency": "saliency_model/model.json",
    "predict_saliency": "saliency/001",
    "complete_labels": "pseudo_labels/000",
    "score_labels": "pseudo_labels.json",
    "train_deeplab": "deeplab/model.json",
    "predict_deeplab": "deeplab/predictions",
    "evaluate_deeplab": "deeplab/metrics.json",
    "train_end_to_end": "end_to_end/model.json",
    "predict_end_to_end": "end_to_end/predictions",
    "evaluate_end_to_end": "end_to_end/metrics.json",
}
"""A file that each rule writes."""

SHARED_DATA = ("demo", "data.coco", "data.format", "data.root", "data.augmented", "saliency.source", "saliency.folder")
"""What all variants have in common."""
CNN = {
    "classifier": {"backbone": "resnet18", "backbone_options": {}, "stem_channels": [], "readout": "pool"},
    "maps": {"method": "cam"},
}


@pytest.fixture
def variants() -> Variants:
    values = read_yaml(PROJECT / "config.yaml")
    return Variants(values, validate_config(values))


def test_a_file_depends_on_the_settings_whose_edit_makes_it_anew() -> None:
    for path, field in leaves(Config):
        name = ".".join(path)
        if field.exclude or name in ELSEWHERE or name.startswith(SHARED_DATA) or path[0] == "checkpoint":
            continue
        found = {rule for rule, file in FILES.items() if depends_on(file, path)}
        assert found == expected(path) & FILES.keys(), name


def test_a_variant_has_what_differs_and_shares_the_rest(variants: Variants) -> None:
    name = variants.add({"completion": {"alpha": 0.8}}, source="table6")
    assert name == "demo/variants/completion.alpha-0.8"
    assert variants[name].completion.alpha == 0.8
    assert variants[name].deeplab == variants["demo"].deeplab
    assert variants.file(name, "pseudo_labels/000") == f"results/{name}/pseudo_labels/000"
    assert variants.file(name, "deeplab/metrics.json") == f"results/{name}/deeplab/metrics.json"
    for file in ("index.csv", "classes.txt", "maps/000", "refined/001", "saliency/000", "end_to_end/metrics.json"):
        assert variants.file(name, file) == f"results/demo/{file}"


def test_what_differs_in_nothing_is_the_run_itself(variants: Variants) -> None:
    overlay = {"completion": {"alpha": "0.90"}, "classifier": {"gpus": 4}}
    assert variants.add(overlay, source="test") == "demo"
    assert [*variants] == ["demo"]


def test_variants_share_among_themselves(variants: Variants) -> None:
    cam = variants.add({"maps": {"method": "cam"}}, source="test")
    both = variants.add({"maps": {"method": "cam"}, "completion": {"method": "crf"}}, source="test")
    assert both == "demo/variants/maps.method-cam_completion.method-crf"
    assert variants.file(both, "refined/000") == f"results/{cam}/refined/000"
    assert variants.file(both, "pseudo_labels/000") == f"results/{both}/pseudo_labels/000"


def test_what_variants_share_is_known_whichever_comes_first(variants: Variants) -> None:
    changes: dict[str, Any] = {"completion": {"alpha": 0.8}, "deeplab": {"epochs": 3}}
    both = variants.add(changes, source="test")
    alone = "demo/variants/completion.alpha-0.8"
    assert variants.file(both, "pseudo_labels/000") == f"results/{alone}/pseudo_labels/000"
    # Its settings are those of its own files, not those of who asked first.
    assert variants[alone].deeplab == variants["demo"].deeplab
    assert variants[both].deeplab.epochs == 3
    assert variants.add({"completion": {"alpha": 0.8}}, source="test") == alone


def test_a_part_of_valid_changes_need_not_be_valid_by_itself(variants: Variants) -> None:
    name = variants.add(CNN, source="test")
    classifier = variants.file(name, "classifier/model.json").split("/", 1)[1].removesuffix("/classifier/model.json")
    assert classifier != name
    assert variants[classifier].classifier.readout == "pool"
    assert variants[classifier].maps.method == "getam"
    assert variants[name].maps.method == "cam"


def test_an_imported_checkpoint_depends_on_no_training() -> None:
    values = merge(read_yaml(PROJECT / "config.yaml"), {"checkpoint": {"file": "vitb.pth"}})
    found = Variants(values, validate_config(values))
    overlay: dict[str, Any] = {"saliency": {"epochs": 1}, "end_to_end_prediction": {"flip": False}}
    for changes, folder in (
        (overlay, "demo/variants/end_to_end_prediction.flip-false"),
        ({"saliency": overlay["saliency"]}, "demo"),
    ):
        name = found.add(changes, source="test")
        assert found.file(name, "imported/model.json") == "results/demo/imported/model.json"
        assert found.file(name, "end_to_end/metrics.json") == f"results/{folder}/end_to_end/metrics.json"
    # A training in its place depends on what every training does.
    trained = found.add(overlay | {"checkpoint": {"file": ""}}, source="test")
    assert found.file(trained, "end_to_end/model.json") != found.file(
        found.add({"checkpoint": {"file": ""}}, source="test"), "end_to_end/model.json"
    )


def test_weights_are_fetched_once_for_all_that_start_with_them(variants: Variants) -> None:
    alpha = variants.add({"completion": {"alpha": 0.8}}, source="test")
    epochs = variants.add({"deeplab": {"epochs": 3}}, source="test")
    encoder = variants.add({"deeplab": {"encoder": "resnet34"}}, source="test")
    file = "weights/deeplab.json"
    assert variants.file(alpha, file) == variants.file(epochs, file) == f"results/demo/{file}"
    assert variants.file(encoder, file) == f"results/{encoder}/{file}"


def test_names_tell_changes_apart_and_are_plain(variants: Variants) -> None:
    overlays = [
        CNN,
        {**CNN, "completion": {"alpha": 0.8}},
        {"maps": {"scales": [1, 2]}},
        {"maps": {"scales": [12]}},
        {"deeplab": {"encoder": "tu-x/../../y $(reboot)"}},
        {"deeplab": {"encoder": "tu-x/../../y_$(reboot)"}},
    ]
    names = [variants.add(overlay, source="test") for overlay in overlays]
    assert len({*names}) == len(names)
    for name in variants:
        assert re.fullmatch(r"demo(/variants/[A-Za-z0-9][A-Za-z0-9_.-]*)?", name), name
        assert len(name) < 130


def test_pseudo_labels_of_another_split_are_made_by_the_same_networks(variants: Variants) -> None:
    name = variants.add_split("val")
    assert name == "demo/val"
    assert (variants.split(name), variants.split("demo")) == ("val", "train")
    assert name in {*variants}
    for file in ("maps/000", "refined/000", "saliency/000", "pseudo_labels/000", "pseudo_labels.json"):
        assert variants.file(name, file) == f"results/demo/val/{file}"
    for file in ("index.csv", "classifier/model.json", "saliency_model/model.json"):
        assert variants.file(name, file) == f"results/demo/{file}"


def test_another_threshold_of_the_maps_scores_the_same_labels_anew(variants: Variants) -> None:
    name = variants.add({"score_labels": {"threshold": 0.2}}, source="test")
    assert variants.file(name, "pseudo_labels.json") == f"results/{name}/pseudo_labels.json"
    assert variants.file(name, "pseudo_labels/000") == "results/demo/pseudo_labels/000"
    both = variants.add({"completion": {"alpha": 0.8}, "score_labels": {"threshold": 0.2}}, source="test")
    labels = "results/demo/variants/completion.alpha-0.8/pseudo_labels/000"
    assert variants.file(both, "pseudo_labels/000") == labels
    assert variants.file(both, "pseudo_labels.json") == f"results/{both}/pseudo_labels.json"


def test_where_all_files_of_a_variant_are_is_said_of_variants_alone(variants: Variants) -> None:
    name = variants.add({"deeplab_prediction": {"flip": False}}, source="test")
    files = variants.files(name)
    assert variants.files("demo") == {}
    assert files["deeplab"] == "results/demo/deeplab"
    assert files["deeplab/metrics.json"] == f"results/{name}/deeplab/metrics.json"
    assert files["index.csv"] == "results/demo/index.csv"
    assert variants.files(variants.add_split("val"))["maps"] == "results/demo/val/maps"


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"data": {"root": "other"}}, "sweep: data.root: runs that share their stages cannot differ in it"),
        ({"demo": {"seed": 7}}, "sweep: demo.seed: runs that share"),
        ({"run": "other"}, "sweep: run: runs that share"),
        ({"completion": {"alpha": 2}}, "sweep: completion.alpha: "),
        ({"completion": {"alhpa": 0.5}}, "did you mean alpha?"),
    ],
)
def test_what_cannot_differ_is_said(variants: Variants, overlay: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        variants.add(overlay, source="sweep")


def test_a_file_of_no_part_is_a_slip(variants: Variants) -> None:
    with pytest.raises(KeyError):
        variants.file("demo", "nothing.json")


# Rounds


OF_ROUNDS = ("pseudo_labels/000", "pseudo_labels.json", "deeplab/model.json", "deeplab/metrics.json")


def test_a_further_round_has_its_own_labels_and_segmenter() -> None:
    values = merge(read_yaml(PROJECT / "config.yaml"), {"rounds": 3})
    variants = Variants(values, validate_config(values))
    assert list(variants) == ["demo", "demo/rounds/2", "demo/rounds/3"]
    assert variants.rounds("demo") == list(variants)
    for number, name in enumerate(variants.rounds("demo"), start=1):
        folder = "results/demo" + (f"/rounds/{number}" if number > 1 else "")
        for file in FILES.values():
            expected = folder if file in OF_ROUNDS or file.startswith("deeplab/") else "results/demo"
            assert variants.file(name, file) == f"{expected}/{file}"
        assert variants.first_round(name) == "demo"
        assert variants.is_round(name) == (number > 1)
    assert variants.round_before("demo/rounds/2") == "demo"
    assert variants.round_before("demo/rounds/3") == "demo/rounds/2"
    with pytest.raises(KeyError):
        variants.round_before("demo")
    with pytest.raises(KeyError):
        variants.round("demo", 4)


def test_rounds_alone_make_no_file_another(variants: Variants) -> None:
    name = variants.add({"rounds": 2}, source="table8")
    assert name == "demo/variants/rounds-2"
    for file in FILES.values():
        assert variants.file(name, file) == f"results/demo/{file}"
    (_, second) = variants.rounds(name)
    assert variants.file(second, "deeplab/metrics.json") == "results/demo/rounds/2/deeplab/metrics.json"
    # Jobs are named after the folders of their files.
    assert variants.round_before("demo/rounds/2") == "demo"
    assert variants["demo/rounds/2"] == variants["demo"]


@pytest.mark.parametrize(
    ("overlay", "folders"),
    [
        # Each file lies in the folder of the settings that it depends on; rounds are below it.
        ({"completion": {"alpha": 0.8}}, ["variants/completion.alpha-0.8"] * 4),
        ({"relabel": {"confidence": 0.5}}, ["variants/relabel.confidence-0.5"] * 4),
        (
            {"deeplab_prediction": {"flip": False}},
            ["", "", "", "variants/deeplab_prediction.flip-false"],
        ),
        ({"score_labels": {"threshold": 0.3}}, ["", "variants/score_labels.threshold-0.3", "", ""]),
        ({"end_to_end": {"epochs": 12}}, [""] * 4),
    ],
)
def test_rounds_of_variants_share_what_does_not_differ(
    variants: Variants, overlay: dict[str, Any], folders: list[str]
) -> None:
    name = variants.add(merge({"rounds": 2}, overlay), source="table8")
    second = variants.rounds(name)[1]
    for file, folder in zip(OF_ROUNDS, folders, strict=True):
        path = variants.file(second, file)
        assert path == "/".join(filter(None, ("results/demo", folder, "rounds/2", file)))
        # A rule's job has the folder's name, with which it finds the same path again.
        job = path.removeprefix("results/").removesuffix(f"/{file}")
        assert job in list(variants)
        assert variants.file(job, file) == path
    before = variants.file(variants.first_round(second), "deeplab/model.json")
    labels = variants.file(second, "pseudo_labels/000").removeprefix("results/").removesuffix("/pseudo_labels/000")
    assert variants.file(variants.round_before(labels), "deeplab/model.json") == before
