"""Benchmarks of time and memory against literal implementations, with the limits that the project promises.

Run them by `make bench`.
"""

import sys
from pathlib import Path

# The literal implementations are in tests/reference. tests/ is no package, so it is put on the path, as pytest does.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
