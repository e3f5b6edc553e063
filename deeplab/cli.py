"""The command `deeplab <stage> --flag value ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from getam.cli import command, commands_in

STAGES = commands_in(Path(__file__).with_name("stages"))
"""Commands that the workflow's rules run."""

TOOLS = commands_in(Path(__file__).with_name("tools"))
"""Commands for people; no rule of the workflow runs them."""


def main() -> None:
    """Entry point of the command `deeplab`."""
    sys.exit(command("deeplab", STAGES | TOOLS, sys.argv[1:], TOOLS))
