"""Measures what the project promises about time and memory, beside literal versions: `make bench`."""

import sys
from pathlib import Path

# The literal versions are the tests' (tests/reference), and tests/ is no package: pytest puts it on the path likewise.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
