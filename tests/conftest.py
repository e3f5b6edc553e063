"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("GETAM_SHARED", PROJECT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference arrays and the real photographs; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist: set GETAM_SHARED to the folder with reference/ and data/")
    return SHARED


@pytest.fixture(scope="session")
def reference(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Loads an archive of reference arrays by its file name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / "reference" / name, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load
