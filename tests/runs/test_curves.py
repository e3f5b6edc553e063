from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from getam.pages.plots.training import curve_panels
from getam.runs.curves import Curve, epoch_curves, smoothed, thinned, training_curves
from getam.system.files import write_json


def test_the_scalars_of_a_resumed_training_are_read_once(tmp_path: Path) -> None:
    folder = str(tmp_path / "tensorboard")
    with SummaryWriter(folder) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("loss/classification", 1 / step, step)
    # Stopped at 20 and gone on with.
    with SummaryWriter(folder, purge_step=21, filename_suffix=".2") as writer:
        writer.add_scalar("loss/classification", 0.5, 30)
        writer.add_scalar("loss/classification", float("nan"), 40)
        writer.add_image("step", np.zeros((4, 4, 3), np.uint8), 30, dataformats="HWC")
    curves = training_curves(tmp_path)
    assert set(curves) == {"loss/classification"}
    assert curves["loss/classification"].steps.tolist() == [10, 20, 30]
    np.testing.assert_allclose(curves["loss/classification"].values, [0.1, 0.05, 0.5], rtol=1e-6)


def test_a_training_without_tensorboard_has_no_curve(tmp_path: Path) -> None:
    assert training_curves(tmp_path) == {}
    (tmp_path / "tensorboard").mkdir()
    assert training_curves(tmp_path) == {}


def test_the_means_of_epochs_stand_in_where_there_are_no_scalars(tmp_path: Path) -> None:
    assert epoch_curves(tmp_path) == {}
    history = [{"classification": 0.5}, {"classification": 0.25, "segmentation": 2, "val_miou": 0.3}]
    write_json(tmp_path / "model.json", {"history": history})
    curves = epoch_curves(tmp_path)
    assert {tag: (curve.steps.tolist(), curve.values.tolist()) for tag, curve in curves.items()} == {
        "loss/classification": ([1, 2], [0.5, 0.25]),
        "loss/segmentation": ([2], [2.0]),
        "val_miou": ([2], [0.3]),
    }
    assert epoch_curves(tmp_path.parent) == {}


def test_a_running_mean_is_of_fewer_at_the_ends() -> None:
    curve = Curve(np.arange(4), np.array([0.0, 3.0, 6.0, 3.0]))
    np.testing.assert_allclose(smoothed(curve, window=3).values, [1.5, 3, 4, 4.5])
    np.testing.assert_allclose(smoothed(curve, window=1).values, curve.values)


def test_thinning_keeps_the_ends() -> None:
    curve = Curve(np.arange(100), np.arange(100.0))
    assert thinned(curve, most=4).steps.tolist() == [0, 33, 66, 99]
    assert thinned(curve, most=100) is curve


def test_panels_leave_out_what_there_is_not_and_groups_of_one_rate() -> None:
    flat, other, third = (Curve(np.arange(2), np.full(2, value)) for value in (1.0, 2.0, 3.0))
    tags = {"images_per_second": flat, "loss/a": flat, "learning_rate/0": flat, "learning_rate/1": flat}
    panels = curve_panels(tags | {"learning_rate/2": other, "learning_rate/decoder": other, "learning_rate/new": third})
    assert {title: list(panel) for title, panel in panels.items()} == {
        "loss": ["a"],
        "learning rate": ["group 0", "group 2", "new"],
    }
    assert list(curve_panels(tags | {"val_miou": flat})) == ["loss", "validation", "learning rate"]
