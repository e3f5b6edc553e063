"""The command `deeplab <stage> --flag value ...`."""

from __future__ import annotations

import sys

from getam.cli import command

STAGES = {
    "train-deeplab": "train DeepLabv2 on pseudo labels",
    "predict-deeplab": "segment images with DeepLabv2",
    "evaluate-deeplab": "score DeepLabv2's predictions",
}


def main() -> None:
    """Entry point of the command `deeplab`."""
    sys.exit(command("deeplab", STAGES, sys.argv[1:]))
