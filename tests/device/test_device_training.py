"""Trainings on the simulated device: the CPU's losses, one wait a step, which is for its loss, and resuming."""

from __future__ import annotations

import copy
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.simulated_cuda import Device, simulated_cuda
from support.training_steps import build, make_batch
from support.trainings import TRAININGS, settings_of, write_inputs
from torch import Tensor

import getam.training.loop
from getam.errors import InputError, Stopped
from getam.maps.attention import FUSIONS
from getam.settings.config import Config
from getam.settings.end_to_end import EndToEndSettings
from getam.system.files import read_json
from getam.training.batches import moved
from getam.training.double_backward import training_step


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("data"))


STEPS = {"classifier": 2, "end_to_end": 4, "deeplab": 2, "saliency": 1}


class Watched:
    """Watches the steps of trainings.

    Attributes:
        steps: the waits of each step so far.
        pageable: the uploads of each step so far from memory that is not pinned.
        loaders: options of the loaders so far.
        stop_after: number of steps after which the next one ends the training; 0: never.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Counter[str]] = []
        self.pageable: list[int] = []
        self.loaders: list[dict[str, Any]] = []
        self.stop_after = 0
        self.device = Device()
        train_batch, loader = getam.training.loop.Training.train_batch, getam.training.loop.DataLoader

        def watch(training: Any, *arguments: Any) -> None:
            self.device.forget()
            if self.stop_after and len(self.steps) == self.stop_after:
                training.stop.received = signal.SIGTERM
            train_batch(training, *arguments)
            self.steps.append(self.device.waits.copy())
            self.pageable.append(self.device.pageable)

        def load(*arguments: Any, **options: Any) -> Any:
            self.loaders.append(options)
            # A process for each loader would be most of the test's time.
            return loader(*arguments, **options | {"num_workers": 0})

        monkeypatch.setattr(getam.training.loop.Training, "train_batch", watch)
        monkeypatch.setattr(getam.training.loop, "DataLoader", load)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def train(section: str, config: Config, data: Path, out: Path, device: str, **changes: Any) -> list[dict[str, float]]:
    """Runs a training's command; returns the mean losses of its epochs."""
    module, paths, _ = TRAININGS[section]
    values = settings_of(section, config).model_dump() | {"gradient_clipping": 1.0} | changes
    module.run(module.Arguments(**values, **paths(data), out=out, threads=1, device=device, scalars_every=0))
    history: list[dict[str, float]] = read_json(out / "model.json")["history"]
    return history


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("section", TRAININGS)
def test_a_step_waits_for_its_loss_alone(
    section: str, precision: str, config: Config, data: Path, tmp_path: Path, watched: Watched
) -> None:
    with simulated_cuda() as watched.device:
        found = train(section, config, data, tmp_path / "cuda", "cuda", precision=precision)
    assert watched.steps == [{"download": 1}] * STEPS[section]
    # Each backward pass of maps, one a class of an image, takes an array from the CPU, which says of which scores.
    assert watched.pageable == ([0, 0, 2, 1] if section == "end_to_end" else [0] * STEPS[section])
    assert all(options["pin_memory"] and options["num_workers"] for options in watched.loaders)
    expected = train(section, config, data, tmp_path / "cpu", "cpu", precision=precision)
    for one, other in zip(found, expected, strict=True):
        # CUDA's autocast rounds in other operations than the CPU's.
        assert one == pytest.approx(other, rel=1e-3 if precision == "float32" else 0.2, abs=1e-3)


def test_a_stopped_training_goes_on(config: Config, data: Path, tmp_path: Path, watched: Watched) -> None:
    with simulated_cuda() as watched.device:
        train("end_to_end", config, data, tmp_path / "whole", "cuda", epochs=2)
        assert len(watched.steps) == 4
        watched.steps.clear()
        watched.stop_after = 2
        with pytest.raises(Stopped):
            train("end_to_end", config, data, tmp_path / "resumed", "cuda", epochs=2)
        watched.steps.clear()
        watched.stop_after = 0
        train("end_to_end", config, data, tmp_path / "resumed", "cuda", epochs=2)
    assert len(watched.steps) == 1
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(values, resumed[name]) for name, values in whole.items())


def test_pictures_and_validation_of_a_training(config: Config, tmp_path: Path, watched: Watched) -> None:
    data = write_inputs(tmp_path / "data", masks=True)

    def run(device: str) -> list[float]:
        module, paths, _ = TRAININGS["end_to_end"]
        shown = {"pictures_every": 2, "scalars_every": 0, "validate_every": 1}
        values = config.end_to_end.model_dump() | shown
        module.run(module.Arguments(**values, **paths(data), out=tmp_path / device, threads=1, device=device))
        return [entry["val_miou"] for entry in read_json(tmp_path / device / "model.json")["history"]]

    with simulated_cuda() as watched.device:
        found = run("cuda")
    assert found == pytest.approx(run("cpu"), abs=0.02)
    pictures = [sorted(path.name for path in (tmp_path / name / "pictures").iterdir()) for name in ("cuda", "cpu")]
    assert pictures[0] == pictures[1] == ["000004.png"]


def test_scalars_are_read_together(config: Config, data: Path, tmp_path: Path, watched: Watched) -> None:
    module, paths, _ = TRAININGS["classifier"]
    values = config.classifier.model_dump() | {"gradient_clipping": 1.0}
    with simulated_cuda() as watched.device:
        module.run(
            module.Arguments(**values, **paths(data), out=tmp_path / "out", threads=1, device="cuda", scalars_every=1)
        )
    assert watched.steps == [{"download": 2}] * 2


def test_images_are_named_where_a_loss_is_not_finite(
    config: Config, data: Path, tmp_path: Path, watched: Watched
) -> None:
    with (
        simulated_cuda() as watched.device,
        pytest.raises(InputError, match=r"loss is not finite .* on images i\d, i\d"),
    ):
        train("classifier", config, data, tmp_path / "out", "cuda", learning_rate=1e30, optimizer="sgd", epochs=3)


CHANGES: dict[str, dict[str, Any]] = {
    **{
        f"{coupling} {fusion}": {"maps": {"coupling": coupling, "fusion": fusion}}
        for coupling in ("released", "paper")
        for fusion in FUSIONS
    },
    "attention gradient": {"maps": {"method": "attention_gradient"}},
    "cam": {"maps": {"method": "cam"}},
    "propagation": {"maps": {"propagation": "both", "propagation_threshold": 0.0}},
    "opening": {"completion": {"opening": 3}},
    "released opening": {"completion": {"opening": "released"}},
    "bands": {"completion": {"method": "bands"}},
    "linear": {"architecture": "linear"},
    "token": {"readout": "token"},
    "frozen": {"trainable": "none"},
    "released losses": {"saliency_target": "released", "map_epsilon": 1e-5},
    "without energy": {"energy": {"weight": 0}},
}
ON_CPU: dict[str, dict[str, Any]] = {
    "boxes": {"maps": {"propagation": "attention", "propagation_threshold": 0.4}},
    "crf": {"completion": {"method": "crf", "crf": {"backend": "torch", "iterations": 1}}},
    "rrm": {"completion": {"method": "rrm", "crf": {"backend": "torch", "iterations": 1}}},
}
"""Settings of which a part is computed on the CPU."""


def changed(settings: EndToEndSettings, changes: dict[str, Any]) -> EndToEndSettings:
    values = settings.model_dump()
    for key, change in changes.items():
        if key == "completion" and "crf" in change:
            change = change | {"crf": values["completion"]["crf"] | change["crf"]}
        values[key] = values[key] | change if isinstance(change, dict) else change
    return EndToEndSettings.model_validate(values)


def stepped(network: Any, batch: dict[str, Tensor], settings: EndToEndSettings) -> tuple[dict[str, Tensor], Any]:
    """The second phase's losses, after their backward pass, and the step's pictures."""
    torch.manual_seed(5)
    step = training_step(network, batch, settings.classifier_epochs, settings)
    torch.stack(list(step.losses.values())).sum().backward()
    return {name: loss.detach() for name, loss in step.losses.items()}, step.pictures


@pytest.mark.parametrize("name", CHANGES | ON_CPU)
def test_a_step_of_two_backward_passes(name: str, settings: EndToEndSettings) -> None:
    settings = changed(settings, (CHANGES | ON_CPU)[name])
    network, batch = build(settings), make_batch()
    batch |= {"present": batch["classes"]}
    other = copy.deepcopy(network)
    expected, pictures = stepped(network, batch, settings)
    with simulated_cuda() as device:
        other.to("cuda")
        batch = moved(batch, torch.device("cuda"))
        device.forget()
        found, found_pictures = stepped(other, batch, settings)
        # Maps, or maps, saliency and photographs.
        downloads = {"boxes": 1, "crf": 3, "rrm": 3}.get(name, 0)
        assert device.waits == ({"download": downloads} if downloads else {})
        for title, values in vars(found_pictures).items():
            assert values.is_cuda, title
        assert (found_pictures.targets.cpu() == pictures.targets).float().mean() > 0.99
        for title, loss in expected.items():
            assert found[title].is_cuda
            torch.testing.assert_close(found[title].cpu(), loss, rtol=1e-3, atol=1e-5, msg=title)
        for (title, parameter), moved_parameter in zip(network.named_parameters(), other.parameters(), strict=True):
            assert (parameter.grad is None) == (moved_parameter.grad is None), title
            if parameter.grad is not None:
                assert moved_parameter.grad.is_cuda, title
                torch.testing.assert_close(
                    moved_parameter.grad.cpu().norm(), parameter.grad.norm(), rtol=1e-2, atol=1e-5, msg=title
                )


# The others differ in nothing that autocast rounds.
@pytest.mark.parametrize(
    "name", ["released sum", "paper matmul", "cam", "propagation", "bands", "linear", "token", "released losses"]
)
def test_a_step_of_two_backward_passes_under_autocast(name: str, settings: EndToEndSettings) -> None:
    settings = changed(settings, CHANGES[name])
    network, batch = build(settings), make_batch()
    batch |= {"present": batch["classes"]}
    with simulated_cuda() as device:
        network.to("cuda")
        batch = moved(batch, torch.device("cuda"))
        device.forget()
        with torch.autocast("cuda", torch.bfloat16):
            step = training_step(network, batch, settings.classifier_epochs, settings)
        for title, loss in step.losses.items():
            assert loss.is_cuda, title
            assert loss.dtype == torch.float32, title
        torch.stack(list(step.losses.values())).sum().backward()
        assert not device.waits
    for title, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.is_cuda, title
            assert parameter.grad.dtype == torch.float32, title


def test_broken_maps_make_a_loss_that_is_not_finite(settings: EndToEndSettings) -> None:
    # The scores are finite, and their gradients, the maps, are not.
    network, batch = build(settings), make_batch()
    batch |= {"present": batch["classes"]}
    with simulated_cuda() as device:
        network.to("cuda")
        batch = moved(batch, torch.device("cuda"))
        network.classifier.readout.head.register_full_backward_pre_hook(
            lambda module, gradients: (gradients[0] * torch.inf,)
        )
        device.forget()
        losses = training_step(network, batch, settings.classifier_epochs, settings).losses
        assert not device.waits
        assert losses["classification"].isfinite()
        assert losses["segmentation"].isnan()
