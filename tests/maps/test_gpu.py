"""The same equalities on a CUDA device: the authors' arrays, the CPU's results, and bfloat16 beside float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from support.classifiers import CLASSES, METHODS, classifier
from support.dumped_maps import dump, write_data
from support.networks import images_of, reference_model
from support.training_steps import build, make_batch, without_dropout
from torch import Tensor

from getam.labels.completion import complete_labels
from getam.maps.attention import AttentionMaps
from getam.maps.baselines import create_maps
from getam.maps.pamr import normalize, pamr
from getam.settings.config import validate_config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.maps import ActivationSettings
from getam.settings.reading import read_yaml
from getam.system.distributed import ImageDropout
from getam.system.files import read_array
from getam.training.batches import moved
from getam.training.double_backward import training_step

Arrays = Callable[[str], dict[str, np.ndarray]]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DEVICE = "cuda"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _float32_means_float32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def no_waits() -> Iterator[Callable[[], None]]:
    """A function: from its call on, torch refuses what waits for the device. tests/device counts it without one."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to each map's maximum: (K, n_h, n_w) both."""
    difference = (found.cpu().double() - expected.cpu().double()).flatten(1).abs().amax(1)
    return float((difference / expected.cpu().double().flatten(1).amax(1)).max())


@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize(
    "name", ["getam_small", "getam_small_rect", "getam_small_distilled", "getam_small_clshead", "getam_base_vitb"]
)
def test_maps_equal_the_authors(name: str, coupling: str, reference: Arrays) -> None:
    arrays = reference(f"{name}.npz")
    model = reference_model(name, arrays, torch.float32).to(DEVICE)
    images = torch.from_numpy(arrays["x"]).to(DEVICE)
    blocks = torch.from_numpy(arrays["ref/off_blocks" if coupling == "released" else "ref/p1_blocks"])
    with AttentionMaps(model, coupling, start_block=2) as maps:
        _, found = maps(images, [arrays["classes"].tolist()] * len(images))
    for m, expected in zip(found, blocks[:, :, 2:].sum(2), strict=True):
        assert m.device.type == DEVICE
        assert relative_error(m, expected.view(m.shape)) <= 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_cpus_maps(method: str) -> None:
    config = validate_config(read_yaml(Path(__file__).resolve().parents[2] / "config.yaml"))
    settings = ActivationSettings.model_validate(config.end_to_end.maps.model_dump() | {"method": method})
    model, images = classifier(), images_of(2)
    with create_maps(model, settings) as maps:
        _, expected = maps(images, CLASSES)
    with create_maps(model.to(DEVICE), settings) as maps:
        _, found = maps(images.to(DEVICE), CLASSES)
    for m, values in zip(found, expected, strict=True):
        assert relative_error(m, values) <= 1e-4


@pytest.mark.parametrize("name", ["vit_base_patch16_384", "deit_base_distilled_patch16_384"])
def test_bfloat16_is_near_float32(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).to(DEVICE)
    images = torch.randn(2, 3, 384, 384, device=DEVICE)
    with AttentionMaps(model, start_block=6) as maps:
        _, expected = maps(images, [[0, 1], [2]])
        with torch.autocast(DEVICE, torch.bfloat16):
            _, found = maps(images, [[0, 1], [2]])
    for m, values in zip(found, expected, strict=True):
        assert m.dtype == torch.float32
        assert relative_error(m, values) <= 2e-2


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("out10", {}),
        ("out1", {"iterations": 1}),
        ("out10_dil12", {"dilations": (1, 2)}),
    ],
)
def test_pamr_equals_the_authors(key: str, options: dict[str, Any], reference: Arrays) -> None:
    arrays = reference("pamr.npz")
    image, masks = (torch.from_numpy(arrays[name]).float().to(DEVICE) for name in ("image", "mask"))
    found = pamr(image, masks, **options)
    assert (found.cpu().double() - torch.from_numpy(arrays[f"ref/{key}"])).abs().max() <= 1e-5


@pytest.mark.parametrize("case", range(8))
def test_labels_equal_the_authors(case: int, reference: Arrays) -> None:
    arrays = reference("completion.npz")
    maps, saliency = (torch.from_numpy(arrays[f"{case}/{name}"]).to(DEVICE) for name in ("cam", "saliency"))
    how = {"alpha": float(arrays[f"{case}/cut_threshold"]), "gamma": 32}
    classes = arrays[f"{case}/classes"].tolist()
    for conflict, key in (("unknown", "alt_conflict255"), ("lowest", "out_before_opening")):
        labels = complete_labels(maps, classes, saliency, conflict=conflict, **how)
        assert labels.device.type == DEVICE
        np.testing.assert_array_equal(labels.cpu(), arrays[f"{case}/{key}"])
    labels = complete_labels(maps, classes, saliency, conflict="lowest", opening="released", **how)
    np.testing.assert_array_equal(labels.cpu(), arrays[f"{case}/out_official"])


def test_a_batch_is_refined_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(3, 3, 70, 90, generator=generator)
    masks = torch.rand(3, 2, 7, 9, generator=generator)
    expected = normalize(pamr(images, masks))
    found = normalize(pamr(images.to(DEVICE), masks.to(DEVICE)))
    assert (found.cpu() - expected).abs().max() <= 1e-5


def test_dump_maps_writes_the_cpus_maps(data: Path, tmp_path: Path) -> None:
    for device in ("cpu", DEVICE):
        dump(data, tmp_path / device, device=device)
    for path in (tmp_path / "cpu").glob("*.npy"):
        found, expected = (torch.from_numpy(read_array(tmp_path / device / path.name)) for device in (DEVICE, "cpu"))
        assert relative_error(found, expected) <= 1e-4


def test_training_step_equals_the_cpus(settings: EndToEndSettings) -> None:
    batch, network = make_batch(), without_dropout(build(settings))
    expected = training_step(network, batch, 1, settings)
    torch.stack(list(expected.losses.values())).sum().backward()
    norms = {name: p.grad.norm() for name, p in network.named_parameters() if p.grad is not None}
    moved = without_dropout(build(settings)).to(DEVICE)
    found = training_step(moved, {name: tensor.to(DEVICE) for name, tensor in batch.items()}, 1, settings)
    assert expected.pictures is not None
    assert found.pictures is not None
    assert found.pictures.targets.device.type == DEVICE
    assert (found.pictures.targets.cpu() == expected.pictures.targets).float().mean() > 0.999
    torch.stack(list(found.losses.values())).sum().backward()
    for name, value in expected.losses.items():
        torch.testing.assert_close(found.losses[name].cpu(), value, rtol=1e-3, atol=1e-5, msg=name)
    for name, parameter in moved.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad.norm().cpu(), norms[name], rtol=1e-2, atol=1e-5, msg=name)


def test_a_training_step_waits_for_nothing(settings: EndToEndSettings, no_waits: Callable[[], None]) -> None:
    batch, network = make_batch(), build(settings).to(DEVICE)
    batch = moved(batch | {"present": batch["classes"]}, torch.device(DEVICE))
    no_waits()
    step = training_step(network, batch, settings.classifier_epochs, settings)
    torch.stack(list(step.losses.values())).sum().backward()


@pytest.mark.parametrize("method", METHODS)
def test_no_map_method_waits(method: str, settings: EndToEndSettings, no_waits: Callable[[], None]) -> None:
    changed = ActivationSettings.model_validate(settings.maps.model_dump() | {"method": method, "start_block": 0})
    images = images_of(2).to(DEVICE)
    with create_maps(classifier().to(DEVICE), changed) as maps:
        no_waits()
        maps(images, CLASSES)


def test_dropout_on_the_device() -> None:
    x = torch.ones(3, 1000, device=DEVICE)
    torch.manual_seed(0)
    one = ImageDropout(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(ImageDropout(0.5)(x), one)
    assert 0.4 < float((one == 0).float().mean()) < 0.6
