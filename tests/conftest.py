"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Tests run side by side, and their computations are small: threads of one test would take the cores from another's, and
# those that a test asks for would wait for each other in a loop. torch and numpy read this when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import numpy as np
import pytest
import torch
from support.references import SHARED, Procedural, Shapes
from support.workplace import ONE_THREAD_A_JOB, PROJECT, Workplace, complete_by_stand_ins

from getam.settings.config import Config, validate_config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.reading import read_yaml

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("getam", deadline=None)
hypothesis.settings.load_profile("getam")

# A shell that runs the tests in the background has them ignore SIGINT, and every process that they start too. Tests of
# what an interrupt does would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest begins first, so that no process ends with it alone."""

    def seconds(item: pytest.Item) -> int:
        marker = item.get_closest_marker("timeout")
        return 0 if marker is None else marker.args[0]

    items.sort(key=seconds, reverse=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference arrays and the real photographs; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist: set GETAM_SHARED to the folder with reference/ and data/")
    return SHARED


@pytest.fixture(autouse=True)
def _state_of_the_process() -> Iterator[None]:
    """A command sets the root logger and torch's threads up; the next test gets them back as they were."""
    root = logging.getLogger()
    handlers, level, threads = root.handlers[:], root.level, torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def reference(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Loads an archive of reference arrays by its file name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / "reference" / name, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def full_shapes(shared: Path) -> Shapes:
    """Shapes of the tensors of one of the authors' full-size networks, by its name in shapes.json."""
    shapes = json.loads((shared / "reference" / "shapes.json").read_text())
    return lambda name: shapes[name]


@pytest.fixture(scope="session")
def procedural(shared: Path) -> Procedural:
    """Fills shapes with the weights that the reference arrays of full-size networks were computed with."""
    fill = runpy.run_path(str(shared / "reference" / "procedural_weights.py"))["fill"]
    return lambda shapes: {key: torch.from_numpy(value) for key, value in fill(shapes).items()}


CROP = {"long_side": [28, 36], "size": 32, "color_jitter": 0}
BACKBONE = {
    "backbone_options": {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2},
    "stem_channels": [],
    "epochs": 1,
    "batch_size": 2,
    "crop": CROP,
}
CHANGES: dict[str, dict[str, Any]] = {
    "classifier": BACKBONE,
    "end_to_end": BACKBONE
    | {
        "epochs": 2,
        "classifier_epochs": 1,
        "decoder": {"scales": [4, 2, 1], "taps": [0, 1, 2], "channels": [8, 8, 8], "width": 16},
        "refine": {"iterations": 2, "dilations": [1, 2]},
    },
    "saliency": {
        "backbone_options": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 6},
        "neck_width": 16,
        "epochs": 1,
        "batch_size": 2,
    },
    "deeplab": {"epochs": 1, "batch_size": 2, "crop": CROP},
}


@pytest.fixture(scope="session")
def config() -> Config:
    """config.yaml with networks so small that a training takes a second; images of 32x32."""
    values = read_yaml(PROJECT / "config.yaml")
    for section, changes in CHANGES.items():
        values[section] |= changes
    return validate_config(values)


@pytest.fixture(scope="session")
def settings(config: Config) -> EndToEndSettings:
    """The end-to-end section of it."""
    return config.end_to_end


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace where the whole workflow has run, by stand-ins; it has sources of its own."""
    return complete_by_stand_ins(tmp_path_factory.mktemp("finished") / "work", sources=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace where the whole workflow has run on a tiny demo, by the real commands, which are forks."""
    workplace = Workplace(tmp_path_factory.mktemp("tiny") / "work", stand_ins=False, forked=True)
    result = workplace.snakemake(*ONE_THREAD_A_JOB)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return workplace
