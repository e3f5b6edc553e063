"""The package's version, as installed, and a hash of its sources."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    VERSION = version("getam")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "unknown"


@cache
def source_hash() -> str:
    """Changes with any line of the packages getam and deeplab; a version stays the same between releases."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("getam", "deeplab"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
