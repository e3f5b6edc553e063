"""The package's version, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("getam")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "unknown"
