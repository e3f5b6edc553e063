"""The stage complete_labels by each method: files, manifest, bad input, going on after a stop."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.crf import NEEDS_PYDENSECRF, without_pydensecrf
from support.dying_worker import INTERRUPTED, MOMENTS
from support.forks import NETWORKS
from support.workplace import PROJECT

import getam.stages.complete_labels as stage
import getam.system.version
from getam.datasets.index import Index, IndexRow, read_index, read_photograph, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.labels.completion import complete_labels
from getam.labels.crf import crf_labels, with_known_backend
from getam.labels.methods import make_labels
from getam.labels.refined_maps import read_refined, write_refined
from getam.labels.rrm import rrm_labels
from getam.settings.completion import LABEL_METHODS, LabelSettings
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.stages import score_labels
from getam.system.files import read_array, read_json, write_array, write_json
from getam.system.image_files import read_gray, read_labels, write_gray, write_labels

CLASSES = ("a", "b", "c")
LABELS = [("a", "c"), ("b",), (), ("a", "b", "c"), ("c",)]
SIZES = [(24, 32), (24, 32), (20, 16), (16, 20), (1, 1)]
METHODS = ["activation", "crf", "rrm"]
DYING_WORKER = PROJECT / "tests" / "support" / "dying_worker.py"
PATIENCE = 300
"""Seconds after which a command hangs, however busy the machine is."""
DEFAULTS = validate_config(read_yaml(BASE_CONFIG)).completion
SETTINGS = DEFAULTS.model_copy(update={"alpha": 0.8, "gamma": 32.0})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv, photographs, refined maps and saliency of five images, one of them without a class."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (names, (height, width)) in enumerate(zip(LABELS, SIZES, strict=True)):
        row = IndexRow(f"i{number}", "train", tmp_path / f"i{number}.png", None, height, width, names)
        rows.append(row)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(row.image)
        write_gray(tmp_path / "saliency" / f"{row.id}.png", rng.integers(0, 256, (height, width), np.uint8))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    with new_shard(
        tmp_path / "maps", ids=[row.id for row in rows], suffix=".npy", classes=CLASSES, settings=None
    ) as shard:
        for row in rows:
            maps = rng.random((len(row.labels), row.height, row.width)) ** 3
            shard.submit(row.id, write_array, maps.astype(np.float16))
    return tmp_path


def complete(data: Path, out: str = "000", *, threads: int = 1, **changes: Any) -> Path:
    stage.run(
        stage.Arguments(
            **SETTINGS.model_copy(update=changes).model_dump(),
            maps=data / "maps",
            saliency=data / "saliency",
            index=data / "index.csv",
            out=data / out,
            threads=threads,
            device="cpu",
        )
    )
    return data / out


def expected_labels(data: Path, settings: LabelSettings) -> dict[str, np.ndarray]:
    index = read_index(data / "index.csv")
    labels = {}
    for row in index.rows:
        maps, classes = read_array(data / "maps" / f"{row.id}.npy"), index.class_indices(row)
        if not classes:
            labels[row.id] = np.zeros((row.height, row.width), np.uint8)
        elif settings.method == "crf":
            labels[row.id] = crf_labels(read_photograph(row), maps, classes, settings.crf, gamma=settings.gamma)
        elif settings.method == "rrm":
            labels[row.id] = rrm_labels(read_photograph(row), maps, classes, settings.rrm, settings.crf)
        else:
            labels[row.id] = complete_labels(
                maps,
                classes,
                read_gray(data / "saliency" / f"{row.id}.png") >= 128,
                alpha=settings.alpha,
                gamma=settings.gamma,
                conflict=settings.conflict,
                opening=settings.opening,
            )
    return labels


def test_quantized_maps_are_labelled(data: Path) -> None:
    files = sorted((data / "maps").glob("*.npy"))
    for file in files:
        write_refined(file.with_suffix(".npz"), read_array(file), "quantized")
        write_array(file, read_refined(file.with_suffix(".npz")))
    expected = expected_labels(data, SETTINGS)
    for file in files:
        file.unlink()
    labels = complete(data)
    for id, values in expected.items():
        np.testing.assert_array_equal(read_labels(labels / f"{id}.png"), values)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conflict": "lowest", "opening": "released", "gamma": 4.0},
        {"method": "crf"},
        {"method": "rrm", "rrm": DEFAULTS.rrm.model_copy(update={"quantile": 0.1})},
    ],
)
def test_files_hold_the_labels_of_the_method(data: Path, changes: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update=changes)
    out = complete(data, threads=2, **changes)
    if settings.method in ("crf", "rrm"):
        # The manifest names what auto stands for on this machine.
        settings = settings.model_copy(update={"crf": with_known_backend(settings.crf)})
    for id, labels in expected_labels(data, settings).items():
        with Image.open(out / f"{id}.png") as image:
            assert image.mode == "P"
        np.testing.assert_array_equal(read_labels(out / f"{id}.png"), labels)
    ids = [f"i{number}" for number in range(5)]
    assert sorted(path.name for path in out.iterdir()) == [".getam", *(f"{id}.png" for id in ids), "manifest.json"]
    assert read_json(out / "manifest.json") == {
        "ids": ids,
        "classes": list(CLASSES),
        "settings": settings.model_dump(mode="json"),
        "version": getam.system.version.VERSION,
        "supervision": "I+S" if settings.method == "activation" else "I",
    }


@pytest.mark.parametrize("method", ["crf", "rrm"])
def test_torch_takes_the_place_of_pydensecrf(data: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pydensecrf(monkeypatch)
    out = complete(data, threads=2, method=method)
    assert read_json(out / "manifest.json")["settings"]["crf"]["backend"] == "torch"
    by_torch = SETTINGS.crf.model_copy(update={"backend": "torch"})
    settings = SETTINGS.model_copy(update={"method": method, "crf": by_torch})
    for id, labels in expected_labels(data, settings).items():
        np.testing.assert_array_equal(read_labels(out / f"{id}.png"), labels)


def test_pydensecrf_that_is_missing_is_said_before_any_work(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pydensecrf(monkeypatch)
    by_it = SETTINGS.crf.model_copy(update={"backend": "pydensecrf"})
    with pytest.raises(InputError, match=r"^crf\.backend: pydensecrf can't be imported"):
        complete(data, method="crf", crf=by_it)
    assert not (data / "000").exists()
    complete(data, crf=by_it)  # The completion runs no CRF.


@pytest.mark.parametrize("method", ["crf", "rrm"])
def test_large_photographs_are_labelled_scaled_down(data: Path, method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = SETTINGS.model_copy(update={"method": method})
    out = complete(data, method=method, long_side=16)
    assert "complete_labels: 3 of 4 images are computed at a longer side of 16 pixels (long_side)" in caplog.text
    index = read_index(data / "index.csv")
    for row in index.rows:
        labels = read_labels(out / f"{row.id}.png")
        assert labels.shape == (row.height, row.width)
        if not row.labels or max(labels.shape) <= 20:
            continue
        size = (12, 16)
        maps = [
            cv2.resize(each.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            for each in read_array(data / "maps" / f"{row.id}.npy")
        ]
        image = cv2.resize(read_photograph(row), size[::-1], interpolation=cv2.INTER_AREA)
        small = make_labels(np.stack(maps), index.class_indices(row), image=image, settings=settings)
        np.testing.assert_array_equal(labels, small.repeat(2, axis=0).repeat(2, axis=1))
    # Other methods are fast at any size.
    caplog.clear()
    whole, bounded = (complete(data, f"{side}", long_side=side) for side in (0, 16))
    assert "long_side" not in caplog.text
    for row in index.rows:
        assert (whole / f"{row.id}.png").read_bytes() == (bounded / f"{row.id}.png").read_bytes()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_salient_is_strictly_above_the_threshold(data: Path, threshold: float) -> None:
    limit = int(255 * threshold)
    saliency = np.where(np.arange(32) < 16, limit, limit + 1).astype(np.uint8)[None].repeat(24, 0)
    write_gray(data / "saliency" / "i1.png", saliency)
    # The map is empty: what is salient is unknown.
    write_array(data / "maps" / "i1.npy", np.zeros((1, 24, 32), np.float16))
    labels = read_labels(complete(data, saliency_threshold=threshold) / "i1.png")
    assert labels[0].tolist() == [0] * 16 + [255] * 16


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_an_image_without_a_class_is_background_whatever_is_salient(data: Path, method: str) -> None:
    write_gray(data / "saliency" / "i2.png", np.full((20, 16), 255, np.uint8))
    assert not read_labels(complete(data, method=method) / "i2.png").any()
    on_device = LABEL_METHODS[method].on_device
    maps, saliency = (torch.zeros(shape) if on_device else np.zeros(shape, np.float32) for shape in ((0, 4, 3), (4, 3)))
    photograph = np.zeros((4, 3, 3), np.uint8)
    settings = SETTINGS.model_copy(update={"method": method})
    labels = make_labels(maps, [], image=photograph, saliency=saliency + 255, settings=settings)
    assert (tuple(labels.shape), labels.any()) == ((4, 3), False)
    assert labels.dtype == (torch.uint8 if on_device else np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_changes_no_byte(data: Path, method: str) -> None:
    one, two = (complete(data, f"{threads}", threads=threads, method=method) for threads in (1, 2))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


@pytest.mark.parametrize("method", ["crf", "rrm"])
def test_without_saliency_none_is_read(data: Path, method: str) -> None:
    (data / "saliency").rename(data / "elsewhere")
    complete(data, method=method)
    with pytest.raises(InputError, match=r"saliency/i0\.png: no such file"):
        complete(data, method="activation")


def break_map(data: Path, value: float, id: str = "i3") -> None:
    maps = read_array(data / "maps" / f"{id}.npy").copy()
    maps[0, 0, 0] = value
    write_array(data / "maps" / f"{id}.npy", maps)


@pytest.mark.parametrize(
    ("method", "value"), [("activation", np.nan), ("activation", np.inf), ("activation", -0.5), ("crf", np.nan)]
)
def test_broken_maps_are_named_and_leave_nothing(data: Path, method: str, value: float) -> None:
    break_map(data, value)
    before = sorted(data.iterdir())
    with pytest.raises(InputError, match=r"maps/i3\.npy: maps hold NaN, infinite or negative values; dump"):
        complete(data, method=method)
    assert sorted(data.iterdir()) == before


@pytest.mark.parametrize("method", ["activation", "crf"])
def test_the_command_ends_with_one_message(data: Path, method: str) -> None:
    break_map(data, np.nan)
    words = ["--maps", "maps", "--saliency", "saliency", "--index", "index.csv", "--out", "out", "--threads", "2"]
    done = prepared(data, *words, "--method", method)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith(
        "getam complete-labels: maps/i3.npy: maps hold NaN, infinite or negative values; dump and refine them again"
    )
    assert "Traceback" not in done.stderr
    assert not [path.name for path in data.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("method", "file", "message"),
    [
        ("activation", "maps", r"maps/i0\.npy: shape \(2, 23, 32\) is not \(2, 24, 32\) \(K, H, W\); refine"),
        ("rrm", "maps", r"maps/i0\.npy: shape \(2, 23, 32\)"),
        (
            "activation",
            "saliency",
            r"saliency/i0\.png: size \(23, 32\) is not the image's \(24, 32\) \(H, W\); predict",
        ),
        ("crf", "image", r"i0\.png: size \(23, 32\) is not \(24, 32\)"),
    ],
)
def test_files_of_another_size_are_named(data: Path, method: str, file: str, message: str) -> None:
    if file == "maps":
        write_array(data / "maps" / "i0.npy", np.zeros((2, 23, 32), np.float16))
    elif file == "saliency":
        write_gray(data / "saliency" / "i0.png", np.zeros((23, 32), np.uint8))
    else:
        Image.new("RGB", (32, 23)).save(data / "i0.png")
    with pytest.raises(InputError, match=message):
        complete(data, method=method)


def finished(data: Path) -> dict[str, int]:
    """The labels that a stopped stage has left, with their times of change."""
    return {path.name: path.stat().st_mtime_ns for path in data.glob(".000.partial/i*.png")}


def stop(data: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, int]:
    """Interrupts the stage when two images are done; gives what `finished` gives."""

    def interrupted(items: Iterable[Any], **_: Any) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2:
                while len(finished(data)) < 2:
                    time.sleep(0.01)
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(stage, "progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            complete(data, **changes)
    assert not (data / "000").exists()
    # The third is under way when the stage stops.
    assert {"i0.png", "i1.png"} <= set(finished(data)) <= {"i0.png", "i1.png", "i2.png"}
    return finished(data)


@pytest.mark.parametrize("method", ["activation", "rrm"])
@pytest.mark.timeout(PATIENCE)
def test_an_interrupted_stage_is_gone_on_with(data: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    whole = complete(data, "whole", method=method)
    before = stop(data, monkeypatch, method=method)
    out = complete(data, method=method)
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
        if path.name in before:
            assert (out / path.name).stat().st_mtime_ns == before[path.name]
    assert not list(data.glob(".000.*"))


def test_a_full_disk_loses_no_finished_label(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = complete(data, "whole")
    written: list[str] = []
    write = stage.write_labels

    def fails(path: Path, labels: np.ndarray) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path.stem)
        write(path, labels)

    monkeypatch.setattr(stage, "write_labels", fails)
    with pytest.raises(OSError, match="No space left"):
        complete(data)
    assert {path.stem for path in data.glob(".000.partial/i*.png")} == set(written) == {"i0", "i1", "i2"}
    written.clear()
    out = complete(data)
    assert written == ["i3", "i4"]
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("method", "changed", "goes_on"),
    [
        ("activation", "maps/i4.npy", False),
        ("activation", "saliency/i4.png", False),
        ("activation", "i4.png", True),
        ("crf", "i4.png", False),
    ],
)
@pytest.mark.timeout(PATIENCE)
def test_a_stopped_stage_starts_anew_when_a_file_that_it_reads_has_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch, method: str, changed: str, goes_on: bool
) -> None:
    before = stop(data, monkeypatch, method=method)
    os.utime(data / changed, (1, 1))
    out = complete(data, method=method)
    assert ((out / "i0.png").stat().st_mtime_ns == before["i0.png"]) == goes_on


COMMAND = "import getam.cli; getam.cli.main()"
FLAGS = ("--maps", "maps", "--saliency", "saliency", "--index", "index.csv", "--out", "000")


def command(
    data: Path, *words: str, program: Sequence[str] = ("-m", "getam"), **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command itself, in a process of its own; one that hangs is killed."""
    return subprocess.run(
        [sys.executable, *program, "complete-labels", *FLAGS, *words],
        cwd=data,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


def prepared(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that has imported torch already."""
    return NETWORKS.run(COMMAND, "complete-labels", *words, folder=data, seconds=PATIENCE)


def check_one_message(done: subprocess.CompletedProcess[str], message: str) -> None:
    """Checks that the command has failed, with that message and nothing else."""
    assert done.returncode == 1, done.stderr
    assert "getam complete-labels: " in done.stderr.splitlines()[-1], done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("size", [0, 100])
def test_a_disk_without_room_is_said_and_the_command_then_goes_on(data: Path, size: int) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    check_one_message(command(data, preexec_fn=limit), "cannot be written (File too large); make room")
    assert not (data / "000").exists()
    done = prepared(data, *FLAGS)
    assert done.returncode == 0, done.stderr
    whole = complete(data, "whole")
    assert {path.name for path in (data / "000").iterdir()} == {path.name for path in whole.iterdir()}


def test_a_log_on_a_full_disk_is_given_up_with_one_warning(data: Path) -> None:
    done = prepared(data, *FLAGS, "--log", "/dev/full")
    assert done.returncode == 0
    assert done.stderr.count("/dev/full: cannot be written") == 1
    assert "Traceback" not in done.stderr
    assert "complete_labels: 5/5 images" in done.stderr
    assert (data / "000" / "manifest.json").is_file()


def _without_privilege() -> None:
    """Takes the right to write everywhere from root."""
    ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.mark.parametrize("words", [["--out", "closed/000"], ["--log", "closed/log"]])
def test_a_folder_without_permission_is_named(data: Path, words: list[str]) -> None:
    (data / "closed").mkdir(mode=0o555)
    check_one_message(command(data, *words, preexec_fn=_without_privilege), "cannot be written (Permission denied)")
    assert not (data / "000").exists()


WITH_CRF = ("--method", "crf", "--gamma", "32", "--threads", "2")
"""Labels that are made in processes, where pydensecrf is installed."""


@NEEDS_PYDENSECRF
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_is_killed_is_said_and_the_command_then_goes_on(data: Path, moment: str) -> None:
    done = command(data, *WITH_CRF, program=(str(DYING_WORKER), moment))
    check_one_message(done, "000: a worker process was killed, for want of memory perhaps; use fewer threads")
    assert not (data / "000").exists()
    assert (data / ".000.partial").is_dir()
    done = command(data, *WITH_CRF)
    assert done.returncode == 0, done.stderr
    for path in complete(data, "whole", method="crf").glob("*.png"):
        assert (data / "000" / path.name).read_bytes() == path.read_bytes()


@NEEDS_PYDENSECRF
def test_processes_are_started_without_torch(data: Path) -> None:
    done = command(data, *WITH_CRF, program=("-c", f"import sys; sys.modules['torch'] = None; {COMMAND}"))
    assert done.returncode == 0, done.stderr
    assert len([*(data / "000").glob("*.png")]) == 5


@NEEDS_PYDENSECRF
def test_an_interrupt_while_workers_start_is_left_to_the_stage(data: Path) -> None:
    done = command(data, *WITH_CRF, program=(str(DYING_WORKER), INTERRUPTED))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def reject(data: Path, *ids: str) -> str:
    """A file of verdicts that calls these images bad, and another one good."""
    path = data / "verdicts.csv"
    path.write_text("".join(f"{line}\n" for line in ("id,verdict,note", "i4,good,", *(f"{id},bad," for id in ids))))
    return str(path)


@pytest.mark.parametrize("method", ["activation", "crf"])
def test_rejected_images_are_left_out(data: Path, method: str) -> None:
    whole = complete(data, "whole", method=method)
    out = complete(data, method=method, verdicts=reject(data, "i0", "i2"))
    manifest = read_json(out / "manifest.json")
    assert (manifest["ids"], manifest["rejected"]) == (["i1", "i3", "i4"], ["i0", "i2"])
    assert sorted(path.stem for path in out.glob("*.png")) == manifest["ids"]
    for path in out.glob("*.png"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    # A person's look at labels is a supervision of its own.
    assert manifest["supervision"] == {"activation": "I+S+V", "crf": "I+V"}[method]


def test_rejected_images_may_be_blanked(data: Path) -> None:
    whole = complete(data, "whole")
    out = complete(data, verdicts=reject(data, "i0", "i2"), rejected="unknown")
    manifest = read_json(out / "manifest.json")
    assert (manifest["ids"], manifest["rejected"]) == (["i0", "i1", "i2", "i3", "i4"], ["i0", "i2"])
    for path in out.glob("*.png"):
        if path.stem in manifest["rejected"]:
            assert (read_labels(path) == 255).all()
            assert read_labels(path).shape == read_labels(whole / path.name).shape
        else:
            assert path.read_bytes() == (whole / path.name).read_bytes()


def test_all_images_may_be_rejected_and_what_follows_copes(data: Path) -> None:
    out = complete(data, "labels/000", verdicts=reject(data, "i0", "i1", "i2", "i3"))
    assert read_json(out / "manifest.json")["ids"] == ["i4"]
    verdicts = data / "all.json"
    write_json(verdicts, {"verdicts": [{"id": f"i{number}", "verdict": "bad"} for number in range(5)]})
    out = complete(data, "labels/000", verdicts=str(verdicts))
    assert read_json(out / "manifest.json")["ids"] == []
    (data / "shards").mkdir()
    (data / "maps").rename(data / "shards" / "000")
    score_labels.run(
        score_labels.Arguments(
            index=data / "index.csv",
            maps=data / "shards",
            pseudo_labels=data / "labels",
            shards=1,
            threshold=0.15,
            out=data / "scores.json",
            threads=1,
        )
    )
    scores = read_json(data / "scores.json")
    assert (scores["images"], scores["coverage"], scores["best_threshold"]) == (0, None, None)


def test_bad_verdicts_are_one_message_and_leave_nothing(data: Path) -> None:
    before = sorted(path.name for path in data.iterdir())
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        complete(data, verdicts=str(data / "nowhere.csv"))
    assert sorted(path.name for path in data.iterdir()) == before
    with pytest.raises(InputError, match=r"verdicts\.csv, line 3: id 'i9' is not in index\.csv"):
        complete(data, verdicts=reject(data, "i9"))


def correct(data: Path, **labels: np.ndarray) -> str:
    """A folder of corrected labels."""
    for id, values in labels.items():
        write_labels(data / "corrected" / f"{id}.png", values)
    return str(data / "corrected")


@pytest.mark.parametrize("method", ["activation", "crf"])
def test_corrected_labels_are_taken_as_they_are(data: Path, method: str) -> None:
    whole = complete(data, "whole", method=method)
    values = np.full_like(read_labels(whole / "i2.png"), 255)
    values[0, :3] = 0, 1, 2
    # Who corrects an image's labels wants them, whatever was said of it before.
    out = complete(data, method=method, verdicts=reject(data, "i0", "i2"), corrected=correct(data, i2=values))
    manifest = read_json(out / "manifest.json")
    assert (manifest["ids"], manifest["rejected"]) == (["i1", "i2", "i3", "i4"], ["i0"])
    assert (read_labels(out / "i2.png") == values).all()
    assert (out / "i1.png").read_bytes() == (whole / "i1.png").read_bytes()
    assert manifest["corrected"] == ["i2"]
    assert manifest["supervision"] == {"activation": "I+S+V", "crf": "I+V"}[method]


def test_corrected_labels_without_a_class_are_said(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = complete(data, "whole")
    masks = {id: np.zeros_like(read_labels(whole / f"{id}.png")) for id in ("i1", "i2", "i3")}
    masks["i1"][1:3] = masks["i2"][1:3] = 255
    masks["i2"][0] = 1
    caplog.clear()
    complete(data, corrected=correct(data, **masks))
    [said] = [message for message in caplog.messages if "show no class" in message]
    assert said == f"1 corrected labels in {data / 'corrected'} show no class, only unknown pixels"


def test_bad_corrections_are_one_message_and_leave_nothing(data: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder; name that of your corrected labels"):
        complete(data, corrected=str(data / "nowhere"))
    with pytest.raises(InputError, match=r"i1\.png: size \(2, 2\) is not the image's"):
        complete(data, corrected=correct(data, i1=np.zeros((2, 2), np.uint8)))
    assert not (data / "out").exists()
    with pytest.raises(InputError, match=r"i9\.png: is of no image of the index"):
        complete(data, corrected=correct(data, i9=np.zeros((2, 2), np.uint8)))


def test_a_stopped_stage_starts_anew_when_the_verdicts_have_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = reject(data, "i3")
    before = stop(data, monkeypatch, verdicts=verdicts)
    os.utime(verdicts, (1, 1))
    out = complete(data, verdicts=verdicts)
    assert (out / "i0.png").stat().st_mtime_ns != before["i0.png"]
