"""`getam new`: from a folder of photographs and labels of any form to a list, an overlay and the next command."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.label_files import FORMS, Labels, write_names, write_photograph, write_photographs
from support.workplace import PROJECT

import getam.settings.recipes
from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import read_index
from getam.settings.config import Config, validate_config
from getam.settings.reading import merge, read_yaml
from getam.settings.recipes import OwnData, choose_recipe
from getam.system import gpu
from getam.system.image_files import write_labels

MANY: Labels = {
    "1.jpg": ["wild cat"],
    "2.JPG": ["犬", "wild cat"],
    "deep/3.png": [],
    "deep/er/4.webp": ["犬"],
    "5.tif": ["wild cat", "zèbre", "犬"],
    "6.TIFF": ["zèbre"],
    "7.bmp": ["wild cat"],
    "8.jpeg": ["zèbre", "犬"],
}
UNLABELLED = ("9.jpg", "deep/10.jpg")

ONE: Labels = {
    "wild cat/1.jpg": ["wild cat"],
    "wild cat/2.jpg": ["wild cat"],
    "wild cat/deep/3.jpg": ["wild cat"],
    "犬/1.jpg": ["犬"],
    "犬/2.jpg": ["犬"],
    "zèbre/1.jpg": ["zèbre"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own to work in, on a machine without a GPU."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(gpu, "devices", list)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photographs, two of which nobody has labelled, without labels."""
    write_photographs(tmp_path / "my photos", [*MANY, *UNLABELLED])
    return tmp_path / "my photos"


def new(folder: Path, *words: object) -> int:
    return command("getam", STAGES | TOOLS, ["new", str(folder), *map(str, words), "--threads", "2"])


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    """The message that a command ends with; nothing is written."""
    before = sorted(Path.cwd().parent.rglob("*"))
    assert new(folder, *words) == 1
    output = capsys.readouterr()
    assert output.err.count("getam new: ") == 1
    assert "Traceback" not in output.err
    assert output.out == ""
    assert sorted(Path.cwd().parent.rglob("*")) == before
    return output.err


def indexed(name: str) -> tuple[bytes, bytes]:
    """The bytes of index.csv and classes.txt of a run that getam new has made."""
    out = Path("results") / name / "index.csv"
    assert (
        command("getam", STAGES, ["index-dataset", "--config", f"{name}.yaml", "--threads", "1", "--out", str(out)])
        == 0
    )
    return out.read_bytes(), out.with_name("classes.txt").read_bytes()


def settings(name: str, recipe: str | None = "dinov2") -> Config:
    """The configuration of a run that getam new has made, after its recipe."""
    values = read_yaml(PROJECT / "config.yaml")
    if recipe is not None:
        values = merge(values, read_yaml(PROJECT / "configs" / f"{recipe}.yaml"))
    return validate_config(merge(values, read_yaml(Path(f"{name}.yaml"))))


def rows(name: str) -> list[dict[str, str]]:
    with Path(f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def splits(name: str) -> dict[str, str]:
    return {row["id"]: row["split"] for row in rows(name)}


# Labels of every form


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_labels_gives_the_same_index(folder: Path, form: str) -> None:
    write_names(folder, MANY)
    assert new(folder, "--out", "first.yaml") == 0
    (folder / "labels.csv").unlink()
    FORMS[form](folder, MANY)
    assert new(folder, "--out", "second.yaml") == 0
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()
    index, classes = indexed("second")
    assert (index, classes) == indexed("first")
    assert classes.decode() == "wild cat\nzèbre\n犬\n"
    read = read_index(Path("results/first/index.csv"))
    assert {row.image.relative_to(folder).as_posix(): [*row.labels] for row in read.rows} == {
        path: sorted(names) for path, names in MANY.items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_a_class_gives_the_same_index(tmp_path: Path, form: str) -> None:
    photographs = tmp_path / "animals"
    write_photographs(photographs, [*ONE])
    assert new(photographs, "--out", "first.yaml") == 0
    FORMS[form](photographs, ONE)
    assert new(photographs, "--out", "second.yaml") == 0
    assert indexed("first") == indexed("second")
    assert [row["id"] for row in rows("first")] == [
        "wild cat_1",
        "wild cat_2",
        "wild cat_deep_3",
        "zèbre_1",
        "犬_1",
        "犬_2",
    ]


def test_labels_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    write_names(folder, MANY)
    assert new(folder, "--out", "first.yaml") == 0
    (folder / "labels.csv").rename(tmp_path / "mine.csv")
    assert new(folder, "--out", "second.yaml", "--labels", tmp_path / "mine.csv") == 0
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()
    (tmp_path / "xml").mkdir()
    FORMS["VOC"](folder, MANY)
    for path in folder.rglob("*.xml"):
        path.rename(tmp_path / "xml" / path.name)
    assert new(folder, "--out", "third.yaml", "--labels", tmp_path / "xml") == 0
    assert Path("first.csv").read_bytes() == Path("third.csv").read_bytes()


# What is written


def test_the_list_the_overlay_and_the_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_names(folder, MANY)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert new(folder, "--val", 0.4) == 0
    assert {path.name for path in Path.cwd().iterdir()} == {"my_photos.yaml", "my_photos.csv", "my_photos.classes.txt"}
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    first = rows("my_photos")[0]
    assert [*first] == ["id", "split", "image", "mask", "labels"]
    assert first | {"split": ""} == {
        "id": "1", "split": "", "image": str(folder / "1.jpg"), "mask": "", "labels": "wild cat"
    }  # fmt: skip
    assert {row["id"]: row["labels"] for row in rows("my_photos")}["5"] == "wild cat;zèbre;犬"
    output = capsys.readouterr().out
    assert f"10 photographs in {folder}, labels from {folder / 'labels.csv'} (table)" in output
    assert "2 photographs that nobody has labelled are left out." in output
    assert "1 photographs show none of the classes." in output
    counts = {
        line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in output.splitlines() if line.endswith(tuple("123"))
    }
    assert sum(map(int, counts["wild cat"])) == 4
    assert sum(map(int, counts["photographs"])) == 8
    text = Path("my_photos.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    assert all(line.startswith("#") for line in text.splitlines()[:2])
    found = settings("my_photos")
    assert (found.run, found.data.format, found.data.root) == ("my_photos", "folder", Path.cwd() / "my_photos.csv")


def test_paths_are_relative_where_the_photographs_lie_below_the_list(folder: Path, tmp_path: Path) -> None:
    write_names(folder, MANY)
    assert new(folder, "--out", tmp_path / "all.yaml") == 0
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["image"] == "my photos/1.jpg"


def test_a_path_that_begins_like_a_formula_is_escaped(tmp_path: Path) -> None:
    write_photographs(tmp_path / "=1+1", ["a/1.jpg", "b/2.jpg"])
    assert new(tmp_path / "=1+1", "--out", tmp_path / "mine.yaml") == 0
    assert "\n1,train,./=1+1/a/1.jpg,,a\n" in (tmp_path / "mine.csv").read_text()
    (Path.cwd() / "mine.yaml").symlink_to(tmp_path / "mine.yaml")
    assert indexed("mine")[0].count(b".jpg") == 2


def test_the_photographs_own_folder_may_be_the_place_and_is_not_read_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_names(folder, MANY)
    monkeypatch.chdir(folder)
    assert new(Path(".")) == 0
    assert Path("my_photos.yaml").is_file()
    for path in ("results/my_photos/deeplab/predictions/1.png", "results/other/labels.csv"):
        write_photograph(folder / path) if path.endswith(".png") else (folder / path).parent.mkdir(parents=True)
    (folder / "results/other/labels.csv").write_text("id,labels\n1,dog\n")
    first = Path("my_photos.csv").read_bytes()
    for path in Path.cwd().glob("my_photos.*"):
        path.rename(path.with_name(path.name.replace("my_photos", "earlier")))
    # Neither the earlier list nor what the workflow has written is taken for labels or photographs.
    assert new(Path(".")) == 0
    assert Path("my_photos.csv").read_bytes() == first


@pytest.mark.parametrize("name", ["fotos été", "demo", "1", "сад", "..my..", "results"])
def test_any_name_of_a_folder_makes_a_name_of_a_run(tmp_path: Path, name: str) -> None:
    write_photographs(tmp_path / name, ["a/1.jpg", "b/2.jpg"])
    assert new(tmp_path / name) == 0
    (path,) = Path.cwd().glob("*.yaml")
    assert path.stem in ("fotos_t", "photographs", "1", "my", "results")
    assert settings(path.stem).run == path.stem != "demo"


RECIPES = {
    # GPUs, photographs from which on the paper's networks are taken, flags -> recipe, why.
    "no GPU": (0, 1, [], "dinov2", "since there is no GPU"),
    "few photographs": (1, 100, [], "dinov2", "since train has less than 100 photographs"),
    "a GPU and many photographs": (2, 1, [], "voc12", "The paper's networks, since there is a GPU"),
    "a GPU that is not to be used": (2, 1, ["--device", "cpu"], "dinov2", "since there is no GPU"),
    "weights of DINOv2": (1, 1, ["--weights", "w.safetensors"], "dinov2", "since the weights are a file"),
    "no weights": (1, 1, ["--weights", "false"], None, "from scratch"),
}


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_follows_from_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, maps: bool
) -> None:
    gpus, many, flags, recipe, why = RECIPES[name]
    monkeypatch.setattr(gpu, "devices", lambda: [object()] * gpus)
    monkeypatch.setattr(getam.settings.recipes, "MANY", many)
    Path("w.safetensors").touch()
    write_names(folder, MANY)
    if maps:
        (folder / "saliency").mkdir()
        flags = [*flags, "--saliency", folder / "saliency"]
    assert new(folder, *flags, "--out", "mine.yaml") == 0
    assert why in capsys.readouterr().out
    assert why in Path("mine.yaml").read_text()
    found = settings("mine", recipe)
    assert found.data.augmented == ""
    assert {*found.data.counts.model_dump().values()} == {0}
    weights = {"no weights": False, "weights of DINOv2": str(Path.cwd() / "w.safetensors")}.get(name, True)
    trainings = found.trainings()
    assert {each: network.pretrained for each, network in trainings.items()} == dict.fromkeys(
        ("classifier", "deeplab", "end_to_end"), weights
    )
    assert found.saliency.source == ("folder" if maps else "none")
    assert found.saliency.folder == (str(folder / "saliency") if maps else "")
    assert found.completion.method == ("activation" if maps else "bands")
    assert found.maps.propagation == ("none" if maps else "attention")
    of_propagated = found.tables.propagated["score_labels"]["threshold"]
    assert of_propagated >= 0.5  # of GETAM's own maps far less
    assert (found.score_labels.threshold == of_propagated) is not maps


def test_the_next_command_runs_in_any_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_names(folder, MANY)
    monkeypatch.setattr(gpu, "devices", lambda: [object()] * 3)
    assert new(folder, "--out", "mine.yaml") == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    cores, files = lines[1][3], ["configs/dinov2.yaml", "mine.yaml"]
    assert lines[1] == ["getam", "run", "--cores", cores, "--resources", "gpu=3", "--configfile", *files]
    assert lines[0] == ["getam", "run", "-n", *lines[1][2:]]
    assert lines[2] == [*lines[1], "configs/rehearsal.yaml", "configs/rehearsal_gpu.yaml"]
    assert lines[3] == ["getam", "estimate", "--run", "results/rehearsal_gpu", "--configs", json.dumps(files)]


def test_the_time_is_measured_or_it_is_said_what_decides_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_names(folder, MANY)
    assert new(folder, "--out", "first.yaml", "--val", 0) == 0
    output = capsys.readouterr().out
    assert "How long that takes here is not known: no run of these networks lies in " in output
    assert "The epochs over 8 photographs decide it (5 of classifier, 8 of deeplab and 10 of end_to_end)" in output
    found = settings("first")
    earlier = Path("results/earlier")
    for name, section in found.trainings().items():
        (earlier / name).mkdir(parents=True)
        described = {"settings": section.model_dump(mode="json") | {"epochs": 99, "seed": 7}, "kind": name}
        (earlier / name / "model.json").write_text(json.dumps(described))
    (earlier / "maps" / "000").mkdir(parents=True)
    (earlier / "maps" / "000" / "manifest.json").write_text(
        json.dumps({"settings": found.maps.model_dump(mode="json"), "ids": []})
    )
    (earlier / "logs" / "dump_maps").mkdir(parents=True)
    log = "train_classifier: epoch 5/5, classification loss 0.1, 9 s, 0.5 images a second\n"
    (earlier / "logs" / "train_classifier.log").write_text(log)
    (earlier / "logs" / "dump_maps" / "000.log").write_text("dump_maps: 4/4 images, 0.25 a second, 0 s left\n")
    assert new(folder, "--out", "second.yaml", "--val", 0) == 0
    output = capsys.readouterr().out
    # 5 epochs of 8 photographs in 2 s each, 8 maps in 4 s each.
    assert "By the logs of " in output
    assert "results/earlier, which trained the same networks, that takes 1 min 52 s on its machine" in output
    assert "without index_dataset, refine_maps, " in output
    described = json.loads((earlier / "deeplab" / "model.json").read_text())
    described["settings"]["encoder"] = "resnet18"
    (earlier / "deeplab" / "model.json").write_text(json.dumps(described))
    assert new(folder, "--out", "third.yaml") == 0
    assert "is not known" in capsys.readouterr().out


def test_the_split_is_seeded_and_has_every_class_in_val(tmp_path: Path) -> None:
    names = [f"{name}/{number}.jpg" for name in ("a", "b", "c") for number in range(10)]
    write_photographs(tmp_path / "photos", names)
    for out, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert new(tmp_path / "photos", "--out", f"{out}.yaml", "--seed", seed) == 0
    # These were written down once: another machine gives the same.
    assert [id for id, split in splits("first").items() if split == "val"] == ["a_2", "a_4", "b_0", "b_7", "c_1", "c_4"]
    assert splits("again") == splits("first") != splits("other")


def test_without_val_there_is_none(folder: Path) -> None:
    write_names(folder, MANY)
    assert new(folder, "--val", 0) == 0
    assert {*splits("my_photos").values()} == {"train"}
    assert "There is no val: no network is scored." in Path("my_photos.yaml").read_text()


def test_copies_of_a_photograph_come_into_one_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "photos", [f"{name}/{number}.jpg" for name in "ab" for number in range(4)])
    for number in range(4):
        (tmp_path / "photos" / "a" / f"copy {number}.jpg").hardlink_to(tmp_path / "photos" / "a" / f"{number}.jpg")
    (tmp_path / "photos" / "b" / "copy.jpg").hardlink_to(tmp_path / "photos" / "a" / "1.jpg")
    for seed in range(5):
        assert new(tmp_path / "photos", "--out", f"s{seed}.yaml", "--seed", seed, "--val", 0.5) == 0
        found = splits(f"s{seed}")
        assert all(found[f"a_{number}"] == found[f"a_copy {number}"] for number in range(4))
        assert found["a_1"] == found["b_copy"]
    assert "'a/1.jpg' and 'b/copy.jpg' are the same file, byte for byte, with other labels" in capsys.readouterr().err


# Masks


@pytest.fixture
def masks(folder: Path) -> Path:
    """Masks of some photographs: by id, and by path; and one of none."""
    write_names(folder, MANY)
    (folder / "classes.txt").write_text("犬\nwild cat\nzèbre\n", encoding="utf-8")
    for name in ("1", "deep/3", "4", "6", "stray"):
        write_labels(folder / "masks" / f"{name}.png", np.resize(np.array([0, 1, 2, 3, 255], np.uint8), (12, 16)))
    return folder / "masks"


def test_masks_are_matched_and_val_is_taken_from_them(
    folder: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(folder, "--masks", masks, "--out", "mine.yaml", "--val", 0.3) == 0
    found = {row["id"]: row for row in rows("mine")}
    assert {id: Path(row["mask"]).relative_to(masks).as_posix() for id, row in found.items() if row["mask"]} == {
        "1": "1.png", "3": "deep/3.png", "4": "4.png", "6": "6.png"
    }  # fmt: skip
    assert {id for id, row in found.items() if row["split"] == "val"} <= {"1", "3", "4", "6"}
    assert "masks: 1 masks are of no photograph" in capsys.readouterr().err
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "photographs of val have a mask, on which pixels are scored." in text
    index, classes = indexed("mine")
    assert classes.decode() == "犬\nwild cat\nzèbre\n"
    assert index.count(b"masks/") == 4


def test_a_mask_is_of_one_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, masks = tmp_path / "photos", tmp_path / "masks"
    write_photographs(folder, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/3.jpg"])
    (folder / "classes.txt").write_text("cat\ndog\n")
    for name in ("1", "2", "3"):
        write_labels(masks / f"{name}.png", np.full((12, 16), 2 if name == "3" else 1, np.uint8))
    message = refusal(capsys, folder, "--masks", masks)
    assert "--masks: '1.png' may be the mask of 'cat/1.jpg' and 'dog/1.jpg'; call it cat_1.png, or put the " in message
    (masks / "1.png").rename(masks / "cat_1.png")
    assert new(folder, "--masks", masks) == 0
    assert {row["id"]: Path(row["mask"]).name for row in rows("photos")} == {
        "cat_1": "cat_1.png",
        "cat_2": "2.png",
        "dog_1": "",
        "dog_3": "3.png",
    }


def test_masks_need_names_of_their_values(folder: Path, masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "classes.txt").unlink()
    assert f"--masks: the values of masks need names: write {folder / 'classes.txt'}" in refusal(
        capsys, folder, "--masks", masks
    )


def test_a_folder_without_a_mask_is_no_folder_of_masks(
    folder: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty: no mask <id>.png of a photograph there" in refusal(capsys, folder, "--masks", tmp_path / "empty")
    write_labels(masks / "other" / "1.png", np.zeros((12, 16), np.uint8))
    write_labels(masks / "4" / "4.png", np.zeros((12, 16), np.uint8))
    (masks / "1.png").rename(masks / "deep" / "1.png")
    assert "--masks: '1' may be 'deep/1.png' and 'other/1.png'" in refusal(capsys, folder, "--masks", masks)


# Damages


def text(content: str, name: str = "labels.csv") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [step(folder) for step in steps]


def as_json(content: object, name: str = "labels.json") -> Callable[[Path], object]:
    return text(json.dumps(content), name)


CAT_AND_DOG = "id,labels\n1,cat\n2,dog\n"
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
LABELME = {"shapes": [{"label": "cat"}], "flags": {}, "imagePath": "1.jpg"}
ONE_OBJECT = {"image_id": 1, "category_id": 1}
TASK = {"data": {"image": "1.jpg"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["cat"]}}]}]}
OBJECT = "<annotation><object><name>{}</name></object></annotation>"

REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "an unknown class": (
        both(text(CAT_AND_DOG), text("cat\n", "classes.txt")),
        ("labels.csv, line 3: label 'dog' is not in ", "classes.txt; add it there or correct it"),
    ),
    "two rows that disagree": (
        text("id,labels\n1,cat\n2,dog\n1.jpg,dog\n"),
        ("'1.jpg': 'cat' in ", "labels.csv, line 2, but 'dog' in ", "labels.csv, line 4; correct one of them"),
    ),
    "rows of a label each of which one says none": (
        text("id,label\n1,cat\n1,\n2,dog\n"),
        ("'1.jpg': 'cat' in ", "line 2, but none of the classes in ", "line 3; correct one"),
    ),
    "two files that disagree": (
        both(text(CAT_AND_DOG), text("id,labels\n1,dog\n", "more.csv")),
        ("'1.jpg': 'cat' in ", "labels.csv, line 2, but 'dog' in ", "more.csv, line 2; correct one"),
    ),
    "the background": (
        text("id,labels\n1,cat\n2,_background_;cat\n"),
        ("labels.csv, line 3: '_background_' is no class but label value 0", "take it off the list"),
    ),
    "cells of pandas": (
        text("id,labels\n1,cat\n2,nan\n"),
        ("labels.csv, line 3: 'nan' is what programs write for no name; leave the cell empty, or take the name off",),
    ),
    "what labelme ignores": (
        as_json(LABELME | {"shapes": [{"label": "__ignore__"}]}, "1.json"),
        ("1.json: '__ignore__' is no class but label value 0", "take it off"),
    ),
    "a name that two photographs have": (
        text("id,labels\n1,cat\nx,dog\n"),
        ("labels.csv, line 3: 'x' may be 'deep/x.jpg' and 'other/x.jpg'; write the path below",),
    ),
    "a path that climbs": (
        text("path,labels\n1.jpg,cat\n../../etc/passwd,dog\n"),
        ("labels.csv, line 3: '../../etc/passwd' lies outside of ", "write the path below that folder"),
    ),
    "an absolute path outside": (
        text("path,labels\n1.jpg,cat\n/etc/passwd,dog\n"),
        ("labels.csv, line 3: '/etc/passwd' lies outside of ",),
    ),
    "a path of Windows outside": (
        text("path,labels\n1.jpg,cat\nC:\\photos\\2.jpg,dog\n"),
        ("labels.csv, line 3: 'C:\\\\photos\\\\2.jpg' lies outside of ",),
    ),
    "a task whose address climbs": (
        as_json([TASK, TASK | {"data": {"image": "/data/local-files/?d=../../etc/passwd"}}]),
        ("labels.json, task 2 ('../../etc/passwd'): '../../etc/passwd' lies outside of ",),
    ),
    "a list of a program's": (
        text("id,labels\n1,['cat']\n2,\"['cat', 'dog']\"\n"),
        ("labels.csv, line 2: \"['cat']\" is a list in the form of a program's; write its names alone, joined by ;",),
    ),
    "the table of another program": (
        text("filename,file_size,cat\n1.jpg,9,1\n2.jpg,8,0\n"),
        ("labels.csv, line 2: '9' in column 'file_size' is neither 0 nor 1; correct it, take the column off, or",),
    ),
    "an empty name of a photograph": (text("id,labels\n1,cat\n,dog\n"), ("line 3: '' is no name of a photograph",)),
    "a control character": (
        as_json(COCO | {"categories": [{"id": 1, "name": "c\x1bat"}], "annotations": [ONE_OBJECT]}),
        ("labels.json, image '1.jpg': class name 'c\\x1bat' holds ';' or a control character",),
    ),
    "a separator in a name": (
        as_json(LABELME | {"shapes": [{"label": "cat;dog"}]}, "1.json"),
        ("1.json: class name 'cat;dog' holds ';'", "rename the class"),
    ),
    "a formula": (
        text(OBJECT.format("=HYPERLINK(1)"), "1.xml"),
        ("1.xml: class name '=HYPERLINK(1)' begins like a formula of a spreadsheet",),
    ),
    "a class without a name": (text(OBJECT.format(""), "1.xml"), ("1.xml: class name '' is empty",)),
    "labels of no photograph": (
        text("id,labels\n100,cat\n200,dog\n"),
        ("photos: has 4 photographs and no labels. Write ", "labels.csv names none of these photographs, or is of no"),
    ),
    "COCO of no photograph": (
        as_json(COCO | {"images": [{"id": 1, "file_name": "100.jpg"}], "annotations": [ONE_OBJECT]}),
        ("labels.json, image '100.jpg': '100.jpg' is no photograph in ", "or other labels by --labels"),
    ),
    "no label at all": (text("id,labels\n1,\n"), ("labels.csv: no photograph has a label; label some",)),
    "labels in several forms": (
        both(text(CAT_AND_DOG), as_json(LABELME, "1.json")),
        ("has labels in several forms, labelme (", "1.json) and table (", "labels.csv); name one file or folder"),
    ),
    "a table of classes without a header": (
        text("1,1,0\n2,0,1\n"),
        ("labels.csv: has 0 and 1 without names of classes; write a header above, as id,cat,dog",),
    ),
    "a comma that may join names": (
        text("id;label\n1;cat\n2;dog, big\n"),
        ("labels.csv, line 3: 'dog, big' is one name with a comma or several names; call the column `labels`",),
    ),
    "a table of one column": (text("id\n1\n"), ("labels.csv: has no column of labels; write one, such as id,labels",)),
    "a cell of a class that is neither 0 nor 1": (
        text("id,cat,dog\n1,1,0\n2,0,maybe\n"),
        ("labels.csv, line 3: 'maybe' in column 'dog' is neither 0 nor 1",),
    ),
    "an empty cell of a class": (text("id,cat,dog\n1,1,\n"), ("labels.csv, line 2: '' in column 'dog' is neither",)),
    "JSON that is none": (text("{", "1.json"), ("1.json: not valid JSON", "export it again")),
    "JSON without end": (text("[" * 100_000, "1.json"), ("1.json: not valid JSON", "export it again")),
    "an entity bomb": (
        text('<!DOCTYPE a [<!ENTITY a "cat">]>' + OBJECT.format("&a;"), "1.xml"),
        ("1.xml: not a harmless, well-formed XML file", "export it again"),
    ),
    "an object without a name": (text("<annotation><object/></annotation>", "1.xml"), ("1.xml: an object has no",)),
    "a video of CVAT": (text("<annotations><track/></annotations>", "1.xml"), ("1.xml: is of a video; export",)),
    "an image of CVAT without a name": (text("<annotations><image/></annotations>", "1.xml"), ("1.xml: an image has",)),
    "a shape of labelme without a label": (
        as_json(LABELME | {"shapes": [{}]}, "1.json"),
        ("1.json: the label of a shape is None, no text; export it again",),
    ),
    "a flag of labelme that is none": (
        as_json(LABELME | {"flags": {"cat": "yes"}}, "1.json"),
        ("1.json: flag 'cat' is neither true nor false; export it again",),
    ),
    "COCO's image twice": (
        as_json(COCO | {"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}]}),
        ("labels.json: two images have the id 1; export it again",),
    ),
    "COCO's unknown image": (
        as_json(COCO | {"annotations": [{"image_id": 2, "category_id": 1}]}),
        ("labels.json: annotation 1 is of the unknown image 2; correct it",),
    ),
    "COCO's unknown category": (
        as_json(COCO | {"annotations": [{"image_id": 1, "category_id": 9}]}),
        ("labels.json: annotation 1, of '1.jpg', is of the unknown category 9; correct it",),
    ),
    "COCO's id that is no number": (
        as_json(COCO | {"annotations": [{"image_id": [1], "category_id": 1}]}),
        ("labels.json: image_id is [1], neither a whole number nor a text; export it again",),
    ),
    "COCO's images that are no list": (as_json(COCO | {"images": 3}), ("labels.json: images is 3, no list; export",)),
    "Label Studio's other export": (
        as_json([{"image": "1.jpg", "choice": "cat", "annotation_id": 1}]),
        ("labels.json: is Label Studio's JSON-MIN, which says too little, not its JSON",),
    ),
    "a task without a photograph": (
        as_json([TASK | {"data": {"a": "x", "b": "y"}}]),
        ("labels.json: a task names its photograph neither by `image` nor alone",),
    ),
    "a task with an address that is none": (
        as_json([TASK | {"data": {"image": "http://[1.jpg"}}]),
        ("labels.json: 'http://[1.jpg' is no address of a photograph",),
    ),
    "choices that are none": (
        as_json([TASK | {"annotations": [{"result": [{"type": "choices", "value": {"choices": "cat"}}]}]}]),
        ("labels.json: the choices of a result is 'cat', no list; export it again",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_damage_is_one_message_with_place_and_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder, ["1.jpg", "2.jpg", "deep/x.jpg", "other/x.jpg"])
    damage, parts = REFUSED[name]
    damage(folder)
    message = refusal(capsys, folder)
    for part in parts:
        assert part in message
    assert "problems:" not in message


WARNED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a label of a missing file": (
        text(CAT_AND_DOG + "100.jpg,dog\n"),
        "labels.csv, line 4: '100.jpg' is no photograph in {}; their labels are not used: correct the names",
    ),
    "a class of classes.txt with no photograph": (
        both(text(CAT_AND_DOG), text("cat\nhorse\ndog\n", "classes.txt")),
        "class 'horse': no photograph shows it, so that it can't be learned; label some, or take it off",
    ),
    "a column with no photograph": (
        text("id,cat,dog,horse\n1,1,0,0\n2,0,1,0\n"),
        "class 'horse': no photograph shows it; it is left out",
    ),
    "an id twice": (
        text(CAT_AND_DOG + "1.jpg,cat\n"),
        "labels.csv, line 4: '1.jpg' stands there twice, first in {}/labels.csv, line 2; it counts once",
    ),
    "a class in two spellings": (
        text(CAT_AND_DOG + "3,Cat\n"),
        "the classes 'Cat' and 'cat' differ in case alone; are they one?",
    ),
    "photographs of other formats": (
        both(text(CAT_AND_DOG), text("", "4.HEIC"), text("", "5.gif")),
        "{}: 2 files, such as '4.HEIC', are not read: convert them to JPEG",
    ),
    "further columns": (
        text("id,labels,author\n1,cat,A\n2,dog,B\n"),
        "labels.csv: the columns 'author' are not read",
    ),
    "a photograph that can't be opened": (
        both(text(CAT_AND_DOG), text("no image", "3.jpg")),
        "3.jpg: cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_not_as_it_should_be_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder, ["1.jpg", "2.jpg", "3.jpg"])
    damage, message = WARNED[name]
    damage(folder)
    assert new(folder, "--val", 0) == 0
    error = capsys.readouterr().err
    assert message.format(folder) in error
    assert error.count("\n") == 1
    index, classes = indexed("photos")
    assert b"1.jpg" in index
    assert classes.startswith(b"cat\n") or b"Cat\ncat\n" in classes


def test_without_labels_it_says_what_to_write(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, folder)
    assert f"{folder}: has 10 photographs and no labels. Write {folder / 'labels.csv'}, a row a photograph" in message
    example = "".join(line[2:] + "\n" for line in message.splitlines() if line.startswith("  "))
    assert example.startswith("id,labels\n")
    # What it says to write is what it reads.
    (folder / "labels.csv").write_text(example)
    assert new(folder, "--val", 0) == 0
    assert [(row["id"], row["labels"]) for row in rows("my_photos")] == [
        ("1", "another class;one class"),
        ("2", "one class"),
        ("5", ""),
    ]


PATHS: dict[str, tuple[list[object], str]] = {
    "no folder": (["nowhere"], "nowhere: no such folder; name one that exists"),
    "no photographs": (["empty"], "empty: no photograph (.jpg, .jpeg, "),
    "no labels": (["photos", "--labels", "nowhere.csv"], "nowhere.csv: no such file"),
    "labels of no form": (
        ["photos", "--labels", "other.json"],
        "other.json: has labels in no form that is known: table",
    ),
    "labels of another suffix": (["photos", "--labels", "notes.doc"], "notes.doc: has labels in no form that is known"),
    "a folder without labels": (["photos", "--labels", "empty"], "empty: has no file of labels; name one"),
    "no masks": (["photos", "--masks", "nowhere"], "--masks nowhere: no such folder"),
    "no maps": (["photos", "--saliency", "nowhere"], "--saliency nowhere: no such folder"),
    "no weights": (["photos", "--weights", "nowhere.pth"], "--weights nowhere.pth: no such .safetensors or .pth file"),
    "no classes": (["photos", "--classes", "nowhere.txt"], "nowhere.txt: no such file"),
    "no overlay": (
        ["photos", "--out", "mine.txt"],
        "--out mine.txt: write a name of letters, digits",
    ),
    "no name of a run": (["photos", "--out", "my run.yaml"], "--out my run.yaml: write a name of letters"),
    "the demo's name": (["photos", "--out", "demo.yaml"], "--out demo.yaml: write a name"),
    "an overlay that is there": (
        ["photos", "--out", "there.yaml"],
        "there.yaml: is there already; choose another --out, or move",
    ),
    "braces": (["photos", "--out", "{a}/mine.yaml"], "mine.yaml: braces are wildcards to Snakemake"),
    "no part": (["photos", "--val", "1"], "--val: Input should be less than 1"),
    "VOC's layout": (["voc"], "voc: has VOC's layout, which data.format: voc reads as it is"),
    "splits": (["splits"], "its folders 'train' and 'val' look like splits, not classes"),
    "ids that are the same": (["same"], "'a/1.jpg' and 'a_1.jpg' would have the same id, 'a_1'; rename"),
    "an id that is a flag": (["dash"], "'-1.jpg': its name has a leading dot or dash"),
    "an id that is a formula": (["formula"], "'=1+1.jpg': its name begins like a formula of a spreadsheet"),
    "a folder with a control character": (["bell\x07"], "'bell\\x07': has a character that is not printable"),
    "photographs that can't be opened": (["broken"], "1.jpg: cannot be decoded"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_does_not_fit_is_one_message(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_photographs(Path("photos"), ["a/1.jpg", "b/2.jpg"])
    write_photographs(Path("splits"), ["train/1.jpg", "val/2.jpg"])
    write_photographs(Path("same"), ["a/1.jpg", "a_1.jpg", "b/1.jpg"])
    write_photographs(Path("dash"), ["-1.jpg"])
    write_photographs(Path("formula"), ["=1+1.jpg"])
    write_photographs(Path("bell\x07"), ["a/1.jpg", "b/2.jpg"])
    for folder in ("empty", "voc/ImageSets/Segmentation", "broken"):
        Path(folder).mkdir(parents=True)
    Path("broken/1.jpg").touch()
    Path("there.csv").touch()
    Path("there.yaml").touch()
    Path("other.json").write_text("{}")
    Path("notes.doc").touch()
    words, message = PATHS[name]
    error = refusal(capsys, *words)  # type: ignore[arg-type]
    assert message in error


def test_nothing_is_half_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_names(folder, MANY)
    (Path.cwd() / ".my_photos.partial.yaml").mkdir()
    error = refusal(capsys, folder)
    assert ".my_photos.partial.yaml: is in the way; remove it" in error
    assert not list(Path.cwd().glob("my_photos.*"))


def test_a_symbolic_link_in_the_way_is_not_written_through(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_names(folder, MANY)
    Path("my_photos.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert "my_photos.csv: is there already" in refusal(capsys, folder)


def test_names_of_photographs_are_the_same_however_accents_are_written(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["cafe\u0301.jpg", "2.jpg"])
    write_names(tmp_path / "photos", {"caf\u00e9.jpg": ["the\u0301"], "2.jpg": ["th\u00e9", "cat"]})
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert Path("photos.classes.txt").read_text(encoding="utf-8") == "cat\nth\u00e9\n"


def test_numbers_of_classes_are_no_classes_in_a_column_of_their_own(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg"])
    (tmp_path / "photos" / "labels.csv").write_text("id,crack\n1,1\n2,0\n")
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert [(row["id"], row["labels"]) for row in rows("photos")] == [("1", "crack"), ("2", "")]


def test_an_uploaded_photograph_of_label_studio_has_a_prefix(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "a b.jpg"])
    tasks = [
        TASK | {"data": {"image": "/data/upload/3/0123abcd-1.jpg"}},
        TASK | {"data": {"picture": "s3://bucket/photos/a%20b.jpg"}},
    ]
    (tmp_path / "labels.json").write_text(json.dumps(tasks))
    assert new(tmp_path / "photos", "--val", 0, "--labels", tmp_path / "labels.json") == 0
    assert [row["id"] for row in rows("photos")] == ["1", "a b"]


def test_a_photograph_beside_its_own_file_of_labels_is_meant(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "a/1.jpg", "b/1.jpg"])
    for folder, name in (("", "cat"), ("a", "dog"), ("b", "cow")):
        content = LABELME | {"shapes": [{"label": name}]}
        (tmp_path / "photos" / folder / "1.json").write_text(json.dumps(content))
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert {row["id"]: row["labels"] for row in rows("photos")} == {"1": "cat", "a_1": "dog", "b_1": "cow"}


@pytest.mark.parametrize("form", ["names", "a row a label", "a column a class", "names in quotes", "COCO", "CVAT"])
def test_a_file_of_labels_in_a_folder_means_the_photographs_beside_it(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder, [f"{below}{number}.jpg" for below in ("", "one/", "two/") for number in (1, 2)])
    labels = {"one": {"1.jpg": ["cat"], "2.jpg": ["dog"]}, "two": {"1.jpg": ["dog"], "2.jpg": ["cat"]}}
    for below, found in labels.items():
        FORMS[form](folder / below, found)
    assert new(folder, "--val", 0) == 0
    assert {row["id"]: row["labels"] for row in rows("photos")} == {
        "one_1": "cat",
        "one_2": "dog",
        "two_1": "dog",
        "two_2": "cat",
    }


def test_paths_in_a_folder_may_be_below_it_or_below_the_whole(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder, ["a/1.jpg", "a/a/1.jpg", "b/1.jpg", "1.jpg"])
    lines = ["path,label", "a/1.jpg,below", "../b/1.jpg,climbs", f"{folder}/1.jpg,absolute"]
    (folder / "a" / "labels.csv").write_text("\n".join(lines))
    assert new(folder, "--val", 0) == 0
    assert {row["image"].rpartition("photos/")[2]: row["labels"] for row in rows("photos")} == {
        "a/a/1.jpg": "below",
        "b/1.jpg": "climbs",
        "1.jpg": "absolute",
    }


SPLIT_FOLDERS = {
    "train, valid and test": ("{}/{}", {"train": "train", "valid": "val", "test": "test"}),
    "capitals and words": ("{}/{}", {"Training_set": "train", "VAL-2": "val", "test2017": "test"}),
    "folders of classes within": ("{}/{label}/{}", {"train": "train", "val": "val", "test": "test"}),
    "within folders of classes": ("{label}/{}/{}", {"train": "train", "validation": "val", "testing": "test"}),
}


@pytest.mark.parametrize("name", SPLIT_FOLDERS)
def test_photographs_stay_in_the_splits_whose_folders_they_lie_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    form, folders = SPLIT_FOLDERS[name]
    label_of = {number: ("cat", "dog")[number % 2] for number in range(12)}
    paths = {
        form.format(folder, f"{number}.jpg", label=label): split
        for place, (folder, split) in enumerate(folders.items())
        for number, label in label_of.items()
        if number // 4 == place
    }
    write_photographs(tmp_path / "photos", [*paths])
    if "{label}" not in form:
        write_names(tmp_path / "photos", {path: [label_of[int(Path(path).stem)]] for path in paths})
    assert new(tmp_path / "photos") == 0
    assert "They stay in the splits whose folders they lie in." in capsys.readouterr().out
    found = {row["image"].rpartition("photos/")[2]: (row["split"], row["labels"]) for row in rows("photos")}
    assert found == {path: (split, label_of[int(Path(path).stem)]) for path, split in paths.items()}
    index, classes = indexed("photos")
    assert classes == b"cat\ndog\n"
    assert index.count(b",test,") == 4


def test_a_photograph_outside_of_the_splits_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"train/1.jpg": ["cat"], "train/2.jpg": ["dog"], "val/3.jpg": ["cat"], "4.jpg": ["dog"]}
    write_photographs(tmp_path / "photos", [*labels])
    write_names(tmp_path / "photos", labels)
    assert new(tmp_path / "photos", "--out", "first.yaml") == 0
    assert (
        "1 photographs, such as '4.jpg', lie outside of the folders of splits, so that all are divided anew"
        in capsys.readouterr().err
    )
    # One that nobody has labelled is left out anyway, and a class may be called train.
    del labels["4.jpg"]
    write_names(tmp_path / "photos", labels)
    assert new(tmp_path / "photos", "--out", "second.yaml") == 0
    assert splits("second") == {"1": "train", "2": "train", "3": "val"}
    write_photographs(
        tmp_path / "vehicles", [f"{name}/{name}{number}.jpg" for name in ("train", "bus") for number in (1, 2)]
    )
    assert new(tmp_path / "vehicles") == 0
    assert {row["labels"] for row in rows("vehicles")} == {"bus", "train"}
    assert "splits" not in capsys.readouterr().err


def test_without_a_folder_of_val_it_is_taken_from_train_alone(tmp_path: Path) -> None:
    photographs = [
        f"{split}/{label}/{label}{number}.jpg"
        for split in ("train", "test")
        for label in ("cat", "dog")
        for number in range(5)
    ]
    write_photographs(tmp_path / "photos", photographs)
    assert new(tmp_path / "photos") == 0
    found = Counter((row["image"].rpartition("photos/")[2].split("/")[0], row["split"]) for row in rows("photos"))
    assert found == {("train", "train"): 8, ("train", "val"): 2, ("test", "test"): 10}


def test_masks_beside_photographs_are_no_photographs_of_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    names = [f"{label}/{label} ({number})" for label in ("cat", "dog") for number in range(4)]
    write_photographs(folder, [f"{name}.png" for name in names])
    (folder / "classes.txt").write_text("cat\ndog\n")
    for name in names:
        write_labels(folder / f"{name}_mask.png", np.full((12, 16), 1 + name.startswith("dog"), np.uint8))
    write_labels(folder / "cat" / "cat (1)_mask_1.png", np.zeros((12, 16), np.uint8))
    assert new(folder, "--out", "first.yaml") == 0
    assert "9 files, such as 'cat/cat (0)_mask.png', are masks by their names: left out" in capsys.readouterr().err
    assert {row["id"]: row["labels"] for row in rows("first")} == {Path(name).name: name[:3] for name in names}
    # They are what the photographs are scored by, if one says so, and no photograph is its own mask.
    assert new(folder, "--out", "second.yaml", "--masks", folder) == 0
    assert all(row["mask"].endswith(f"{row['id']}_mask.png") for row in rows("second"))
    indexed("second")


@pytest.mark.parametrize("others", [["images/{}.jpg"], ["cat/{}.jpg", "dog/{}1.jpg"]], ids=["images", "classes"])
def test_a_folder_of_masks_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str], others: list[str]) -> None:
    folder = tmp_path / "photos"
    photographs = [other.format(number) for other in others for number in range(3)]
    write_photographs(folder, photographs)
    for name in photographs:
        write_photograph(folder / "masks" / f"{Path(name).stem}.png")
    message = refusal(capsys, folder)
    assert (
        f"{folder}/masks: looks like the masks of the other photographs, and not like a class; name it by " in message
    )
    # Who says so has a class of that name, and so has one whose photographs are not those of the others.
    assert new(folder, "--labels", folder, "--out", "first.yaml") == 0
    write_photograph(folder / "masks" / "carnival.png")
    assert new(folder, "--out", "second.yaml") == 0
    assert "masks" in {row["labels"] for row in rows("second")}


def test_a_folder_of_background_is_told_how_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    write_photographs(folder, ["cat/1.jpg", "dog/2.jpg", "Background/3.jpg"])
    message = refusal(capsys, folder)
    assert f"{folder}/Background: 'Background' is no class; photographs that show none of the classes have " in message


SPREADSHEETS = {
    "the separator in the first line": "sep=;\r\nid;labels\r\n1;cat\r\n2;dog\r\n",
    "empty columns": "id,labels,,\n1,cat,,\n2,dog,,\n",
    "empty columns under a short header": "id;labels\n1;cat;\n2;dog;;\n",
    "all at once": "\ufeffsep=;\nid;cat;dog;;\n1;1;0;;\n2;0;1;;\n",
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_what_spreadsheets_add_to_a_table_is_passed_over(tmp_path: Path, name: str) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg"])
    (tmp_path / "photos" / "labels.csv").write_text(SPREADSHEETS[name], encoding="utf-8", newline="")
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert [(row["id"], row["labels"]) for row in rows("photos")] == [("1", "cat"), ("2", "dog")]


def test_an_uploaded_photograph_may_have_kept_the_name_of_its_copy(tmp_path: Path) -> None:
    names = ["0a1b2c3d-1.jpg", "2.jpg", "3.jpg", "0a1b2c3d-3.jpg"]
    write_photographs(tmp_path / "photos", names)
    tasks = [
        {
            "data": {"image": f"/data/upload/1/0a1b2c3d-{number}.jpg"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}}]}],
        }
        for number, label in enumerate(["cat", "dog", "fox"], start=1)
    ]
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(tasks))
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert {row["id"]: row["labels"] for row in rows("photos")} == {"0a1b2c3d-1": "cat", "2": "dog", "3": "fox"}


def test_a_name_in_brackets_is_one_that_classes_txt_has(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg"])
    (tmp_path / "photos" / "labels.csv").write_text("id,label\n1,{x}\n2,[y]\n")
    (tmp_path / "photos" / "classes.txt").write_text("[y]\n{x}\n")
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert [row["labels"] for row in rows("photos")] == ["{x}", "[y]"]


def test_a_folder_of_other_formats_alone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.heic").touch()
    assert "there (1 files, such as '1.heic', are not read: convert them to JPEG); name" in refusal(
        capsys, tmp_path / "photos"
    )


def test_a_taxonomy_of_label_studio_names_the_leaf(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg"])
    results = {"1": [["animal", "cat"]], "2": [["animal", "dog"], ["plant"]]}
    tasks = [
        {
            "data": {"image": f"{id}.jpg"},
            "annotations": [{"result": [{"type": "taxonomy", "value": {"taxonomy": paths}}]}],
        }
        for id, paths in results.items()
    ]
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(tasks))
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert [row["labels"] for row in rows("photos")] == ["cat", "dog;plant"]


def test_a_list_that_was_edited_is_what_the_index_is_made_of(folder: Path) -> None:
    write_names(folder, MANY)
    assert new(folder) == 0
    edited = Path("my_photos.csv").read_text(encoding="utf-8").replace("zèbre", "zebra")
    Path("my_photos.csv").write_text(edited, encoding="utf-8")
    with pytest.raises(AssertionError):
        indexed("my_photos")
    Path("my_photos.classes.txt").write_text("wild cat\nzebra\n犬\n", encoding="utf-8")
    assert indexed("my_photos")[1].decode() == "wild cat\nzebra\n犬\n"


def test_an_overlay_that_is_written_is_what_yaml_reads(tmp_path: Path) -> None:
    odd = tmp_path / "a: #b [c] 'd' \"e\" & *f"
    write_photographs(odd / "p", ["a/1.jpg", "b/2.jpg"])
    (odd / "maps").mkdir()
    assert new(odd / "p", "--saliency", odd / "maps", "--out", odd / "mine.yaml") == 0
    values = yaml.safe_load((odd / "mine.yaml").read_text())
    assert (values["data"]["root"], values["saliency"]["folder"]) == (str(odd / "mine.csv"), str(odd / "maps"))


def test_the_overlay_in_the_manual_is_the_one_that_is_written() -> None:
    page = (PROJECT / "docs" / "own_data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r'^```yaml title="birds.yaml"\n(.*?)^```$', page, re.M | re.S)
    birds = OwnData(
        run="birds", list=Path("/home/me/birds.csv"), train=29, val=7, masks=0, gpus=0, weights=True, saliency=None
    )
    assert choose_recipe(birds).overlay == block


def test_a_package_without_its_recipes_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_names(folder, MANY)
    monkeypatch.setattr(getam.settings.recipes, "BASE_CONFIG", tmp_path / "config.yaml")
    assert "config.yaml: no such file; install getam from its checkout" in refusal(capsys, folder)


def test_a_list_among_the_photographs_is_no_file_of_labels(folder: Path) -> None:
    write_names(folder, MANY)
    (folder / "index.csv").write_text("id,split,image,mask,height,width,labels,labelled\n1,val,1.jpg,,12,16,,no\n")
    assert new(folder) == 0
    assert len(rows("my_photos")) == len(MANY)


LISTS = {
    "without a header": "1,cat\n2,dog,cat\n3\n",
    "without a header, a row a label": "1\tcat\n2\tdog\n2\tcat\n3\n",
    "commas between names in a file with semicolons": "id;labels\n1;cat\n2;dog, cat\n3;\n",
    "spaces, with a header": "id labels\n1.jpg cat\n2.jpg dog cat\n3.jpg\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_a_list_is_read(tmp_path: Path, name: str) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    (tmp_path / "labels.txt").write_text(LISTS[name])
    assert new(tmp_path / "photos", "--val", 0, "--labels", tmp_path / "labels.txt") == 0
    assert {row["id"]: row["labels"] for row in rows("photos")} == {"1": "cat", "2": "cat;dog", "3": ""}


def test_classes_that_are_known_tell_names_with_commas(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "photos" / "labels.csv").write_text("id;label\n1;cat\n2;dog, big\n3;cat|dog, big\n")
    (tmp_path / "photos" / "classes.txt").write_text("cat\ndog, big\n")
    assert new(tmp_path / "photos", "--val", 0) == 0
    assert [row["labels"] for row in rows("photos")] == ["cat", "dog, big", "cat;dog, big"]


def test_masks_may_be_called_after_their_kind(
    folder: Path, masks: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert new(folder, "--masks", masks, "--out", "first.yaml") == 0
    for path in [*masks.rglob("*.png")]:
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert new(folder, "--masks", masks, "--out", "second.yaml") == 0
    assert [bool(row["mask"]) for row in rows("first")] == [bool(row["mask"]) for row in rows("second")]
    capsys.readouterr()
    write_photograph(tmp_path / "jpegs" / "1.jpg")
    error = refusal(capsys, folder, "--masks", tmp_path / "jpegs")
    assert "no mask <id>.png of a photograph there (it has 1 files, such as 1.jpg; masks are PNGs); name the" in error


def test_a_saliency_map_is_no_photograph(folder: Path) -> None:
    write_names(folder, MANY)
    write_photograph(folder / "maps" / "1.png")
    assert new(folder, "--saliency", folder / "maps") == 0
    assert len(rows("my_photos")) == len(MANY)
