"""The command `deeplab <stage> --flag value ...`."""

from __future__ import annotations

from pathlib import Path

from getam.cli import commands_in, run_process

STAGES = commands_in(Path(__file__).with_name("stages"))
"""Commands that the workflow's rules run."""

TOOLS = commands_in(Path(__file__).with_name("tools"))
"""Commands for people; no rule of the workflow runs them."""


def main() -> None:
    """Entry point of the command `deeplab`."""
    run_process("deeplab", STAGES | TOOLS, TOOLS)
