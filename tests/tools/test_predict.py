"""`getam predict`: what it writes of photographs, what it does again, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.forks import NETWORKS
from support.trained import CLASSES, save_trained

from getam.cli import STAGES, TOOLS, command
from getam.datasets.images import fit_long_side, normalized_input
from getam.errors import MachineError
from getam.networks.classifier import load_classifier
from getam.scores.segmenter import Segmenter, load_segmenter
from getam.settings.config import Config
from getam.system.files import read_array, read_json, users_folder
from getam.system.image_files import read_image, read_labels, write_labels
from getam.tools import predict


@pytest.fixture(scope="module")
def models(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("models"), config)


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    sizes = {"a": (40, 56), "b.c": (31, 37), "sub/d": (40, 56), "e": (90, 60)}
    for number, (name, size) in enumerate(sizes.items()):
        path = tmp_path / "shoot" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "shoot"


NAMES = ("a", "b.c", "e", "sub/d")


def run(*words: object) -> int:
    return command("getam", STAGES | TOOLS, ["predict", "--threads", "1", "--device", "cpu", *map(str, words)])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["deeplab", "end_to_end"])
def test_everything_of_a_segmenter(kind: str, models: Path, shoot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--overlays", "--probabilities", "true", "--regions", "--sheet", "--threads", "2")
    assert run(models / kind, shoot, "--out", out, *options) == 0
    each = [f"{folder}{name}{suffix}" for name in NAMES for folder, suffix in FOLDERS.items()]
    assert files(out) == sorted([*each, "contact_sheet.html"])
    network = load_segmenter(models / kind, device="cpu")
    for name in NAMES:
        photograph = read_image(shoot / f"{name}.png")
        labels = read_labels(out / f"{name}.png")
        assert np.array_equal(labels, network.predict(photograph))
        assert np.array_equal(read_image(out / f"{name}.png"), network.palette[labels])
        probabilities = read_array(out / "probabilities" / f"{name}.npy")
        assert probabilities.dtype == np.float16
        assert np.allclose(probabilities, network.probabilities(photograph), atol=1e-3)
        described = read_json(out / "regions" / f"{name}.json")
        assert (described["height"], described["width"]) == labels.shape
        assert {entry["name"]: entry["pixels"] for entry in described["classes"]} == {
            CLASSES[value - 1]: int((labels == value).sum()) for value in np.unique(labels) if value
        }
        assert read_image(out / "overlays" / f"{name}.jpg").shape == photograph.shape
    page = (out / "contact_sheet.html").read_text()
    assert all(f"<b>{name}</b>" in page for name in NAMES)
    assert "4 photographs." in page
    assert "dog & co" not in page


FOLDERS = {"": ".png", "overlays/": ".jpg", "probabilities/": ".npy", "regions/": ".json"}


def test_what_is_done_is_not_done_again(
    models: Path, shoot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, batches = tmp_path / "out", []
    original = Segmenter.batch

    def counted(self: Segmenter, images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Segmenter, "batch", counted)

    def again(*words: object) -> list[int]:
        batches.clear()
        assert run(models / "deeplab", shoot, "--out", out, *words) == 0
        return sorted(batches)

    assert again() == [1, 1, 2]
    before = {name: (out / f"{name}.png").read_bytes() for name in NAMES}
    assert again() == []
    # Another file of a photograph, another photograph, another setting, a photograph that changed, a lost result.
    assert again("--regions") == [1, 1, 2]
    assert again("--regions") == []
    Image.fromarray(np.zeros((31, 37, 3), np.uint8)).save(shoot / "f.png")
    assert again() == [2]
    assert again("--flip", "false") == [1, 2, 2]
    # The regions belonged to the labels before, and went with them.
    assert not (out / "regions" / "a.json").exists()
    assert again() == [1, 2, 2]
    assert again("--regions") == [1, 2, 2]
    Image.fromarray(np.zeros((90, 60, 3), np.uint8)).save(shoot / "e.png")
    assert again() == [1]
    (out / "sub" / "d.png").unlink()
    assert again() == [2]
    assert {name: (out / f"{name}.png").read_bytes() for name in NAMES if name != "e"} == {
        name: content for name, content in before.items() if name != "e"
    }


def test_a_call_that_was_stopped_goes_on(
    models: Path, shoot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = predict.write_labels, []

    def failing(path: Path, labels: np.ndarray, *, note: str) -> None:
        if len(written) == 2:
            raise MachineError(f"{path}: cannot be written (no space left)")
        written.append(path)
        write(path, labels, note=note)

    monkeypatch.setattr(predict, "write_labels", failing)
    out = tmp_path / "out"
    assert run(models / "deeplab", shoot, "--out", out, "--threads", "1") == 1
    assert "no space left" in capsys.readouterr().err
    assert len(files(out)) == 2
    monkeypatch.undo()
    assert run(models / "deeplab", shoot, "--out", out) == 0
    assert "of 4 photographs are done already" in capsys.readouterr().err
    assert run(models / "deeplab", shoot, "--out", tmp_path / "whole") == 0
    assert files(out) == files(tmp_path / "whole")
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files(out))


def test_damaged_photographs_are_named_and_the_others_done(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (shoot / "a.png").read_bytes()
    (shoot / "a.png").write_bytes(content[:-200])  # the header is whole
    (shoot / "e.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert run(models / "deeplab", shoot, "--out", out, "--sheet") == 1
    message = capsys.readouterr().err
    assert "2 problems:" in message
    assert "a.png: cannot be decoded" in message
    assert "e.png: cannot be decoded" in message
    assert f"The results of 2 other photographs are in {out}" in message
    assert files(out) == ["b.c.png", "contact_sheet.html", "sub/d.png"]


def test_no_file_of_others_is_written_over(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (shoot / "a.png").read_bytes()
    assert run(models / "deeplab", shoot / "a.png", "--out", shoot) == 1
    assert "a.png: is there already, and is no result of getam predict; choose another --out" in capsys.readouterr().err
    assert (shoot / "a.png").read_bytes() == content
    # A photograph that carries a note as results do, and one where an overlay would be.
    write_labels(tmp_path / "noted.png", np.ones((40, 60), np.uint8), note="key")
    (tmp_path / "overlays").mkdir()
    shutil.copy(shoot / "e.png", tmp_path / "overlays" / "noted.jpg")
    for kind, name in (("deeplab", "noted.png"), ("classifier", "overlays/noted.jpg")):
        content = (tmp_path / name).read_bytes()
        options = ("--maps", "--overlays") if kind == "classifier" else ()
        assert run(models / kind, tmp_path / name, "--out", tmp_path, *options) == 1
        assert f"{name}: is there already, and is no result of getam predict" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    (tmp_path / "out" / "overlays" / "e.jpg").write_text("mine")
    assert run(models / "deeplab", shoot, "--out", tmp_path / "out", "--overlays") == 1
    assert "e.jpg: is there already" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["overlays/e.jpg"]
    assert files(shoot) == ["a.png", "b.c.png", "e.png", "sub/d.png"]


def test_bad_input_is_one_message(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    for words, message in (
        ((models / "deeplab", "nowhere", *out), "nowhere: no such file or folder"),
        ((models, shoot, *out), "it holds the models"),
        ((models / "deeplab", shoot, *out, "--maps"), "is a deeplab, which makes no class maps; a classifier does"),
        ((models / "classifier", shoot, *out, "--sheet", "--regions"), "leave out --regions, --sheet"),
        ((models / "deeplab", shoot), "--out"),
        ((models / "deeplab", *out), "PHOTOGRAPHS"),
        ((models / "deeplab", shoot, *out, "--window", "3"), "getam predict: window: 3 pixels are too few"),
        ((models / "deeplab", shoot, *out, "--scales", "[]"), "--scales"),
        ((models / "deeplab", shoot, *out, "--overlays", "perhaps"), "perhaps"),
        ((models / "deeplab", shoot, *out, "--scales", "[1e9]"), "--scales.0: Input should be less than or equal to 8"),
        ((models / "deeplab", shoot, *out, "--scales", "[NaN]"), "--scales.0: Input should be less than"),
        ((models / "deeplab", shoot, *out, "--scales", "[1, 0]"), "--scales.1: Input should be greater than 0"),
        ((models / "classifier", shoot, *out, "--long-side", "1000000"), "--long-side: Input should be less than"),
        ((models / "deeplab", shoot, *out, "--threads", "100000"), "--threads: Input should be less than or equal to"),
    ):
        assert run(*words) == 1, words
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_classifier_writes_scores_and_maps(models: Path, shoot: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    assert run(models / "classifier", shoot, "--out", out, "--maps", "--overlays") == 0
    each = [f"{folder}{name}{suffix}" for name in NAMES for folder, suffix in CLASSIFIED]
    assert files(out) == sorted([*each, "scores.csv"])
    with (out / "scores.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["photograph", *CLASSES]
    assert [row[0] for row in table[1:]] == list(NAMES)
    model, _ = load_classifier(models / "classifier")
    for name, *scores in table[1:]:
        image = read_image(shoot / f"{name}.png")
        size = fit_long_side(image.shape[:2], config.classifier.crop.size, multiple=model.stride)
        with torch.no_grad():
            expected = model(normalized_input(image, size)[None])[0].sigmoid()
        assert np.allclose([float(score) for score in scores], expected.numpy(), atol=2e-6)
        maps, described = read_array(out / "maps" / f"{name}.npy"), read_json(out / "maps" / f"{name}.json")
        present = [index for index, score in enumerate(expected) if score >= 0.5] or [int(expected.argmax())]
        assert list(described["classes"]) == [CLASSES[index] for index in present]
        assert len(maps) == len(present)
        assert maps.min() >= 0
        assert np.allclose(maps.max((1, 2)), 1)
    assert run(models / "classifier", shoot, "--out", tmp_path / "bare") == 0
    assert files(tmp_path / "bare") == ["scores.csv"]


CLASSIFIED = (("maps/", ".npy"), ("maps/", ".json"), ("overlays/", ".jpg"))


def one_message(error: str) -> str:
    """The message of a refused call, which is all that it says."""
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if "getam predict: " in line]
    assert len(lines) == 1, error
    return lines[0].partition("getam predict: ")[2]


def test_a_folder_has_one_writer(models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for kind in ("deeplab", "classifier"):
        with users_folder(out):
            assert run(models / kind, shoot, "--out", out) == 1
        expected = f"{out}: another process is writing it; wait for it or stop it"
        assert one_message(capsys.readouterr().err) == expected
        assert not out.exists()


def test_an_out_that_is_a_file_has_a_cure_that_cures(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    for kind in ("deeplab", "classifier"):
        assert run(models / kind, shoot, "--out", out) == 1
        expected = f"{out}: cannot be written (File exists); choose another output folder"
        assert one_message(capsys.readouterr().err) == expected
    assert out.read_text() == "mine"


def test_names_like_formulas_are_words_in_the_table(models: Path, shoot: Path, tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@a", "'=1", "\t=1", "a=1", "a; =1", "\uff1d1"]
    for name in names:
        (shoot / f"{name}.png").write_bytes((shoot / "a.png").read_bytes())
    assert run(models / "classifier", shoot, "--out", tmp_path / "out") == 0
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        found = {row[0] for row in csv.reader(file)} - {*NAMES, "photograph"}
    assert found == {"'=1+1", "'+1", "'-1", "'@a", "''=1", "\t'=1", "a=1", "a;' =1", "'\uff1d1"}


def test_what_is_passed_over_is_said(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.heic", "sub/y.HEIC", "notes.txt", "README", "z.\x1b[2J", ".hidden.heic"):
        (shoot / name).write_text("")
    out = shoot / "out"
    assert run(models / "classifier", shoot, "--out", out) == 0
    said = "5 files were passed over, whose endings are no photograph's: .heic 2, .txt 1, none 1, .\\x1b[2j 1"
    error = capsys.readouterr().err
    assert sorted(said.partition(": ")[2].split(", ")) == sorted(
        error.partition("no photograph's: ")[2].partition("\n")[0].split(", ")
    )
    assert said.partition(": ")[0] in error
    # Results are none of the files that are passed over.
    assert run(models / "classifier", shoot, "--out", out) == 0
    assert "5 files were passed over" in capsys.readouterr().err
    assert run(models / "classifier", shoot / "*.heic", "--out", out) == 1
    message = one_message(capsys.readouterr().err)
    assert message.endswith("1 files were passed over, whose endings are no photograph's: .heic 1")


def test_an_escape_in_a_name_is_shown_on_the_sheet_and_in_messages(
    models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shoot / "x\x1b[2J.png").write_bytes((shoot / "a.png").read_bytes())
    (shoot / "y\x1b[2J.png").write_bytes(b"nothing")
    assert run(models / "deeplab", shoot, "--out", tmp_path / "out", "--sheet") == 1
    error, page = capsys.readouterr().err, (tmp_path / "out" / "contact_sheet.html").read_text()
    assert r"y\x1b[2J.png: cannot be decoded" in error
    assert r"<b>x\x1b[2J</b>" in page
    assert "\x1b" not in error + page


Change = Callable[[dict[str, Any]], object]

HOSTILE: dict[str, tuple[str, Change, str]] = {
    "many numbers a token": (
        "classifier",
        lambda model: model["settings"]["backbone_options"].update(embed_dim=65472, num_heads=3),
        "describes a network far larger than model.safetensors beside it; copy both files of one training",
    ),
    "many blocks": (
        "end_to_end",
        lambda model: model["settings"]["backbone_options"].update(depth=60000),
        "describes a network far larger than model.safetensors beside it; copy both files of one training",
    ),
    "more blocks than a network has": (
        "end_to_end",
        lambda model: model["settings"]["backbone_options"].update(depth=10**9),
        "depth: no network has more than 65536 of anything",
    ),
    "a large backbone": (
        "classifier",
        lambda model: model["settings"].update(backbone="vit_large_patch16_224", backbone_options={}),
        "describes a network far larger than model.safetensors beside it; copy both files of one training",
    ),
    "many classes": (
        "deeplab",
        lambda model: model.update(classes=[f"c{number}" for number in range(10**5)]),
        "100000 classes; label PNGs hold at most 254",
    ),
    "a class twice": (
        "deeplab",
        lambda model: model.update(classes=["cat", "cat", "zebra"]),
        "class 'cat' stands there twice; names must differ",
    ),
    "an escape in a class": (
        "deeplab",
        lambda model: model.update(classes=["cat", "\x1b[2J", "zebra"]),
        "holds ';' or a control character; rename the class",
    ),
    "a formula for a class": (
        "classifier",
        lambda model: model.update(classes=["cat", "=1+1", "zebra"]),
        "begins like a formula of a spreadsheet",
    ),
    "classes that are a word": (
        "classifier",
        lambda model: model.update(classes="cat"),
        "its classes are no list of names; train the model again",
    ),
    "a file that timm loads": (
        "classifier",
        lambda model: model["settings"]["backbone_options"].update(checkpoint_path="elsewhere.pth"),
        "checkpoint_path: loads weights past the check of what they know",
    ),
    "a model of the hub": (
        "classifier",
        lambda model: model["settings"].update(backbone="hf-hub:somebody/model"),
        "timm has no model 'hf-hub:somebody/model'",
    ),
    "no number of blocks": (
        "end_to_end",
        lambda model: model["settings"]["backbone_options"].update(depth=[]),
        "backbone_options: vit_tiny_patch16_224 does not take them",
    ),
}

PREDICT = """
import resource, sys
from getam.cli import STAGES, TOOLS, command
import getam.tools.predict
resource.setrlimit(resource.RLIMIT_DATA, (3_000_000_000, 3_000_000_000))
code = command("getam", STAGES | TOOLS, sys.argv[1:])
# Not getrusage: its peak counts what the parent had when it started this process.
print(code, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_is_refused_before_it_takes_memory(
    case: str, models: Path, shoot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, change, message = HOSTILE[case]
    folder = tmp_path / "model"
    shutil.copytree(models / kind, folder)
    described = json.loads((folder / "model.json").read_text())
    change(described)
    (folder / "model.json").write_text(json.dumps(described))
    words = ["predict", "--threads", "1", "--device", "cpu", str(folder), str(shoot), "--out", str(tmp_path / "out")]
    if "larger than" in message:
        result = NETWORKS.run(PREDICT, *words, seconds=120)
        code, kilobytes = map(int, result.stdout.split())
        assert kilobytes < 1_500_000
        error = result.stderr
    else:
        code, error = command("getam", STAGES | TOOLS, words), capsys.readouterr().err
    assert code == 1
    assert f"{folder / 'model.json'}: " in error
    assert message in error
    assert "Traceback" not in error
    assert "\x1b" not in error
    assert not (tmp_path / "out").exists()
