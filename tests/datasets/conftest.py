"""What the tests of data sets share."""

from __future__ import annotations

import pytest

from getam.datasets import checked_files


@pytest.fixture(autouse=True)
def _files_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a test count as just written, however slow the machine is, so that no facts of them are kept."""
    monkeypatch.setattr(checked_files, "CLOCK_SECONDS", 3600)
