"""Marks of tests that need pydensecrf, which installs where a C++ compiler makes it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

NEEDS_PYDENSECRF = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf is not installed: pip install 'getam[crf]' on Python 3.11 or 3.12, with a C++ compiler",
)


def without_pydensecrf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pydensecrf be missing for a test."""
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
