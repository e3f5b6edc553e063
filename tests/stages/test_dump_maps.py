"""The stage dump_maps on a tiny classifier: files, manifest, averaged views, shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.dumped_maps import CLASSES, CLASSIFIER, MAPS, dump, write_data
from torch import Tensor

import getam.stages.dump_maps
import getam.system.version
from getam.datasets.images import normalize_rgb
from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.errors import InputError
from getam.maps.baselines import create_maps
from getam.networks.checkpoints import save_model
from getam.networks.classifier import (
    CNNClassifier,
    ViTClassifier,
    build_classifier,
    describe_classifier,
    load_classifier,
)
from getam.settings.classifier import ClassifierSettings
from getam.stages.dump_maps import averaged_maps
from getam.system.files import read_array, read_json
from getam.system.image_files import read_image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def class_maps(
    model: ViTClassifier | CNNClassifier, inputs: Tensor, indices: Sequence[int], method: str = "getam"
) -> Tensor:
    with create_maps(model, MAPS.model_copy(update={"method": method})) as maps:
        return maps(inputs, [indices])[1][0]


def network_input(row: IndexRow) -> Tensor:
    return normalize_rgb(torch.from_numpy(read_image(row.image).copy()).permute(2, 0, 1))[None]


@pytest.mark.parametrize("method", ["getam", "attention_gradient", "rollout", "grad_cam", "cam"])
def test_files_hold_the_maps_of_the_present_classes_in_ascending_order(data: Path, tmp_path: Path, method: str) -> None:
    dump(data, tmp_path / "000", method=method)
    index = read_index(data / "index.csv")
    model, _ = load_classifier(data / "classifier")
    grids = [(4, 4), (4, 4), (2, 4), (4, 2), (4, 4)]  # longer side 32, patches of 8
    for row, grid in zip(index.split("train"), grids, strict=True):
        maps = read_array(tmp_path / "000" / f"{row.id}.npy")
        assert maps.dtype == np.float32
        assert maps.shape == (len(row.labels), *grid)
        assert (maps >= 0).all()
        if (row.height, row.width) == (32, 32):
            for values, name in zip(maps, sorted(row.labels), strict=True):
                expected = class_maps(model, network_input(row), [CLASSES.index(name)], method)[0]
                np.testing.assert_allclose(values, expected.numpy(), rtol=1e-4, atol=1e-6 * float(expected.max()))
    several = read_array(tmp_path / "000" / "i0.npy")
    assert several.max() > 0
    alike = np.allclose(several[0], several[1], rtol=0.1)
    assert alike == (method == "rollout"), "the classes' maps are alike: their order shows nothing"


def test_manifest_says_what_was_made_and_how(data: Path, tmp_path: Path) -> None:
    dump(data, tmp_path / "000", flip=True)
    ids = [f"i{number}" for number in range(5)]
    assert read_json(tmp_path / "000" / "manifest.json") == {
        "ids": ids,
        "classes": list(CLASSES),
        "settings": MAPS.model_copy(update={"flip": True}).model_dump(mode="json"),
        "version": getam.system.version.VERSION,
        "supervision": "I",
    }
    names = sorted(path.name for path in (tmp_path / "000").iterdir())
    assert names == [".getam", *(f"{id}.npy" for id in ids), "manifest.json"]


@pytest.mark.parametrize("method", ["getam", "cam"])
def test_averaged_maps_are_the_mean_over_scales_and_flip(data: Path, tmp_path: Path, method: str) -> None:
    dump(data, tmp_path / "000", method=method, scales=(1.0, 1.5, 0.5), flip=True)
    index = read_index(data / "index.csv")
    model, _ = load_classifier(data / "classifier")
    row = index.split("train")[0]
    views = []
    for side in (32, 48, 16):
        inputs = network_input(row)
        if side != 32:
            inputs = F.interpolate(inputs, size=(side, side), mode="bilinear", antialias=True)
        for mirrored in (False, True):
            maps = class_maps(model, inputs.flip(-1) if mirrored else inputs, [0, 2], method)
            assert maps.shape == (2, side // 8, side // 8)
            maps = maps.flip(-1) if mirrored else maps
            maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-30)
            views.append(F.interpolate(maps[None], size=(4, 4), mode="bilinear", align_corners=False)[0])
    expected = torch.stack(views).mean(0).numpy()
    written = read_array(tmp_path / "000" / "i0.npy")
    np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert not np.allclose(written, views[0].numpy(), rtol=1e-2)


def sized_by_resolution(images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
    """Maps on tokens of 8 pixels as a ViT's are: values that shrink by the square of the number of tokens.

    The first class is found on the left of the input of 32 pixels and on the right of every other; further classes are
    found nowhere.
    """
    height, width = images.shape[2] // 8, images.shape[3] // 8
    maps = []
    for indices in classes:
        values = torch.zeros(len(indices), height, width)
        half = slice(0, width // 2) if images.shape[3] == 32 else slice(width // 2, width)
        values[:1, :, half] = 1 / (height * width) ** 2
        maps.append(values)
    return torch.zeros(len(images), 3), maps


@pytest.mark.parametrize("other", [0.5, 2.0, 3.0])
def test_a_second_scale_counts_as_much_as_the_first(other: float) -> None:
    settings = MAPS.model_copy(update={"scales": (1.0, other)})
    (found,) = averaged_maps(sized_by_resolution, torch.zeros(1, 3, 32, 32), [[0, 2]], settings, 8)
    # Left comes from the one scale alone and right from the other; between them they are interpolated.
    assert found[0, :, [0, 3]].tolist() == [[0.5, 0.5]] * 4
    assert found[1].tolist() == [[0.0] * 4] * 4, "a class that is found nowhere stays at zero"


@pytest.mark.parametrize("scales", [(1.0,), (0.5,)])
@pytest.mark.parametrize("flip", [False, True])
def test_the_maps_of_one_scale_stay_raw(scales: tuple[float, ...], flip: bool) -> None:
    settings = MAPS.model_copy(update={"scales": scales, "flip": flip})
    (found,) = averaged_maps(sized_by_resolution, torch.zeros(1, 3, 32, 32), [[0]], settings, 8)
    tokens = 16 * scales[0] ** 2
    assert found.max() == (0.5 if flip else 1) / tokens**2


def test_flip_average_is_symmetric_by_hand() -> None:
    def marks_left(images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """1 in the leftmost column of the first class, 2 of the second, ..."""
        grid = (images.shape[2] // 8, images.shape[3] // 8)
        maps = []
        for indices in classes:
            values = torch.zeros(len(indices), *grid)
            values[:, :, 0] = torch.arange(1.0, len(indices) + 1)[:, None]
            maps.append(values)
        return torch.zeros(2, 3), maps

    settings = MAPS.model_copy(update={"flip": True})
    one, none = averaged_maps(marks_left, torch.zeros(2, 3, 16, 32), [[0, 2], []], settings, 8)
    assert one[0].tolist() == [[0.5, 0, 0, 0.5]] * 2
    assert one[1].tolist() == [[1.0, 0, 0, 1.0]] * 2
    assert none.shape == (0, 2, 4)


def test_maps_that_are_not_finite_are_refused(data: Path, tmp_path: Path) -> None:
    model, classes = load_classifier(data / "classifier")
    for parameter in model.readout.parameters():
        # The weights are finite, and the scores of so large ones are not.
        parameter.data.fill_(torch.finfo(torch.float32).max)
    save_model(tmp_path / "classifier", model, describe_classifier(CLASSIFIER, classes))
    for name in ("index.csv", "classes.txt"):
        (tmp_path / name).write_text((data / name).read_text())
    with pytest.raises(InputError, match=r"classifier: gives maps of i1 that are not finite; train it again"):
        dump(tmp_path, tmp_path / "000")
    assert not (tmp_path / ".000.partial").exists()


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5), (0.5,)])
def test_an_image_without_classes_has_no_maps(data: Path, tmp_path: Path, scales: tuple[float, ...]) -> None:
    index = read_index(data / "index.csv")
    write_index(
        tmp_path / "index.csv", Index((dataclasses.replace(index.rows[0], labels=()), *index.rows[1:]), CLASSES)
    )
    (tmp_path / "classifier").symlink_to(data / "classifier")
    dump(tmp_path, tmp_path / "000", scales=scales, flip=True)
    assert read_array(tmp_path / "000" / "i0.npy").shape == (0, 4, 4)


def test_a_split_without_images_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image of the split 'trian'"):
        dump(data, tmp_path / "000", split="trian")


def test_labels_that_changed_while_a_shard_was_stopped_count(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("index.csv", "classes.txt"):
        (tmp_path / name).write_text((data / name).read_text())
    (tmp_path / "classifier").symlink_to(data / "classifier")
    averaged = getam.stages.dump_maps.averaged_maps
    seen: list[int] = []

    def stopping(maps_of: Any, images: Tensor, *rest: Any) -> list[Tensor]:
        if seen:
            raise KeyboardInterrupt
        seen.append(len(images))
        return averaged(maps_of, images, *rest)

    monkeypatch.setattr(getam.stages.dump_maps, "averaged_maps", stopping)
    with pytest.raises(KeyboardInterrupt):
        dump(tmp_path, tmp_path / "000")
    assert (tmp_path / ".000.partial" / "i1.npy").exists()
    monkeypatch.setattr(getam.stages.dump_maps, "averaged_maps", averaged)
    index = read_index(tmp_path / "index.csv")
    changed = dataclasses.replace(index.rows[1], labels=("c",))
    write_index(tmp_path / "index.csv", Index((index.rows[0], changed, *index.rows[2:]), CLASSES))
    dump(tmp_path, tmp_path / "000")
    dump(tmp_path, tmp_path / "fresh")
    names = [path.name for path in (tmp_path / "fresh").glob("*.npy")]
    assert all((tmp_path / "000" / n).read_bytes() == (tmp_path / "fresh" / n).read_bytes() for n in names)


def test_shards_cover_every_image_once_and_agree_with_one_shard(data: Path, tmp_path: Path) -> None:
    dump(data, tmp_path / "whole")
    ids: list[str] = []
    for shard in range(3):
        out = tmp_path / "parts" / f"{shard:03d}"
        dump(data, out, shard=shard, shards=3)
        own = read_json(out / "manifest.json")["ids"]
        ids += own
        for id in own:
            np.testing.assert_allclose(
                read_array(out / f"{id}.npy"), read_array(tmp_path / "whole" / f"{id}.npy"), rtol=1e-3, atol=1e-7
            )
    assert ids == [f"i{number}" for number in range(5)]


def test_only_the_split_is_mapped(data: Path, tmp_path: Path) -> None:
    dump(data, tmp_path / "000", split="val")
    assert read_json(tmp_path / "000" / "manifest.json")["ids"] == ["i5"]


def test_classifier_of_other_classes_is_refused(data: Path, tmp_path: Path) -> None:
    index = read_index(data / "index.csv")
    write_index(tmp_path / "index.csv", Index(index.rows, ("c", "b", "a")))
    (tmp_path / "classifier").symlink_to(data / "classifier")
    with pytest.raises(InputError, match=r"model\.json: was made for other classes"):
        dump(tmp_path, tmp_path / "000")
    assert not (tmp_path / "000").exists()


def test_bfloat16_gives_float32_files_near_those_of_float32(data: Path, tmp_path: Path) -> None:
    dump(data, tmp_path / "full")
    dump(data, tmp_path / "half", precision="bfloat16")
    maps = [read_array(tmp_path / name / "i0.npy") for name in ("full", "half")]
    assert maps[1].dtype == np.float32
    assert not np.array_equal(*maps)
    for full, half in zip(*maps, strict=True):
        assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.98


def test_cam_of_a_cnn(data: Path, tmp_path: Path) -> None:
    values = CLASSIFIER.model_dump() | {"backbone": "resnet10t", "backbone_options": {}, "readout": "pool"}
    settings = ClassifierSettings.model_validate(values)
    model = build_classifier(settings, num_classes=3, image_size=32)
    save_model(tmp_path / "classifier", model, describe_classifier(settings, CLASSES))
    (tmp_path / "index.csv").write_text((data / "index.csv").read_text())
    (tmp_path / "classes.txt").write_text((data / "classes.txt").read_text())
    dump(tmp_path, tmp_path / "000", method="cam", image_size=64)
    assert [read_array(tmp_path / "000" / f"i{n}.npy").shape for n in range(4)] == [
        (2, 2, 2),
        (1, 2, 2),
        (3, 1, 2),
        (1, 2, 1),
    ]
    with pytest.raises(InputError, match="holds no ViT with a class token"):
        dump(tmp_path, tmp_path / "001", method="getam")


def test_a_photograph_of_another_size_than_the_index_says_is_refused(data: Path, tmp_path: Path) -> None:
    index = read_index(data / "index.csv")
    wrong = dataclasses.replace(index.rows[0], height=31)
    write_index(tmp_path / "index.csv", Index((wrong, *index.rows[1:]), CLASSES))
    (tmp_path / "classifier").symlink_to(data / "classifier")
    with pytest.raises(InputError, match=r"0\.png: size \(32, 32\) is not \(31, 32\) .* run index-dataset again"):
        dump(tmp_path, tmp_path / "000")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("000", "partial"))] == []


def test_a_stopped_shard_is_gone_on_with_and_ends_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(data, tmp_path / "whole")
    seen: list[int] = []
    averaged = getam.stages.dump_maps.averaged_maps

    def stopping(maps_of: Any, images: Tensor, *rest: Any) -> list[Tensor]:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images))
        return averaged(maps_of, images, *rest)

    monkeypatch.setattr(getam.stages.dump_maps, "averaged_maps", stopping)
    monkeypatch.setattr(getam.stages.dump_maps, "BATCH_SIZE", 2)
    with pytest.raises(KeyboardInterrupt):
        dump(data, tmp_path / "000")
    assert seen == [2, 1]
    assert not (tmp_path / "000").exists()
    seen[:] = [0]

    def counting(maps_of: Any, images: Tensor, *rest: Any) -> list[Tensor]:
        seen.append(len(images))
        return averaged(maps_of, images, *rest)

    monkeypatch.setattr(getam.stages.dump_maps, "averaged_maps", counting)
    dump(data, tmp_path / "000")
    # Three images of 32x32, one of 30x60 and one of 60x30: the first two batches were done.
    assert seen == [0, 1, 1]
    monkeypatch.setattr(getam.stages.dump_maps, "averaged_maps", averaged)
    dump(data, tmp_path / "again")
    for path in (tmp_path / "again").glob("*.npy"):
        assert (tmp_path / "000" / path.name).read_bytes() == path.read_bytes()


def test_equal_sizes_share_a_batch_of_like_numbers_of_classes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards: list[int] = []
    gradients = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        backwards.append(1)
        return gradients(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    dump(data, tmp_path / "000")
    # A batch of i1, i0, i4 with 1, 2 and 2 classes; i2 with 3; i3 with 1.
    assert len(backwards) == 2 + 3 + 1
