"""The command `deeplab <stage> --flag value ...`."""

from __future__ import annotations

import sys

from getam.cli import command

STAGES = {
    "train-deeplab": "train DeepLabv2, or another segmentation network, on pseudo labels",
    "predict-deeplab": "segment images with DeepLabv2",
    "evaluate-deeplab": "score DeepLabv2's predictions",
}

TOOLS = {
    "import-deeplab": "make a DeepLabv2 of kazuto1011's checkpoint",
}
"""Commands to run by hand; no rule of the workflow runs them."""


def main() -> None:
    """Entry point of the command `deeplab`."""
    sys.exit(command("deeplab", STAGES | TOOLS, sys.argv[1:], TOOLS))
