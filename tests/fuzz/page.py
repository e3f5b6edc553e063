"""The audit page's JavaScript that reads foreign bytes, run by the Node that playwright brings along."""

from __future__ import annotations

import json
import select
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

import playwright

from getam.errors import InputError
from getam.pages.audit.page import TEMPLATES
from getam.runs.verdicts import read_verdicts

NODE = Path(playwright.__file__).parent / "driver" / "node"
SCRIPT = TEMPLATES / "audit" / "verdicts.js"
PATIENCE = 30
"""Seconds without an answer after which the page hangs."""


class Fault(Exception):
    """What the page must not do."""


class Page:
    """The page of some images, in a process that starts with the first file and ends with this object.

    Args:
        ids: of the images.
        scratch: folder for what the page exports.
        memory, seconds: most megabytes, and seconds of its process's time, that reading one file may take.
    """

    def __init__(self, ids: Sequence[str], scratch: Path, *, memory: float, seconds: float) -> None:
        self.ids, self.scratch, self.memory, self.seconds = ids, scratch, memory, seconds
        self._command = [str(NODE), str(Path(__file__).with_suffix(".js")), str(SCRIPT), "demo", json.dumps(ids)]
        self._process: subprocess.Popen[str] | None = None

    def take(self, path: Path) -> None:
        """Imports a file.

        Raises:
            Fault: see `_read`; or a verdict is on no image of the page.
        """
        if foreign := self._read(path, stored=False) - {*self.ids}:
            raise Fault(f"verdicts on {foreign}")

    def open(self, path: Path) -> None:
        """Opens the page in a browser whose storage holds a file.

        Raises:
            Fault: see `_read`.
        """
        self._read(path, stored=True)

    def _read(self, path: Path, *, stored: bool) -> set[str]:
        """Reads a file, and compares the page's two exports; returns the ids that have a verdict then.

        Raises:
            Fault: the page throws, hangs, dies or takes more than its bounds; or getam refuses an export, or reads the
                two as different verdicts.
        """
        answer = self._ask(json.dumps({"file": str(path), "stored": stored}))
        if "fault" in answer:
            raise Fault(answer["fault"])
        if answer["seconds"] > self.seconds or answer["bytes"] > self.memory * 2**20:
            raise Fault(f"{answer['seconds']} s, {answer['bytes'] / 2**20:.0f} MB")
        ids = {entry["id"] for entry in json.loads(answer["json"])["verdicts"]}
        found = []
        for suffix in ("json", "csv"):
            exported = self.scratch / f"exported.{suffix}"
            exported.write_bytes(answer[suffix].encode())
            try:
                found.append(read_verdicts(exported, ids))
            except InputError as error:
                raise Fault(f"exports what getam refuses: {error}") from None
        if found[0] != found[1]:
            raise Fault("exports CSV that is not as the JSON")
        return ids

    def _ask(self, line: str) -> dict[str, str | float]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
            weakref.finalize(self, _end, self._process)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        is_there, _, _ = select.select([process.stdout], [], [], PATIENCE)
        if answer := process.stdout.readline() if is_there else "":
            return json.loads(answer)
        _end(process)
        raise Fault(f"ended its process ({process.returncode})" if is_there else "hangs")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    # Its pipes are closed, and the process is waited for.
    with process:
        pass
