"""Runs Python code in a process of its own that starts at once: a fork of one that has imported what the code imports.

What a fresh process does when it starts is not tested so; of everything else a fork says as much as a fresh process.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

PROJECT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("fork_server.py")
COMMAND_SERVER = Path(__file__).with_name("command_server.py")

CLIENT = """#!{python} -S
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect("{socket}")
package = os.path.basename(sys.argv[0])
request = dict(package=package, words=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
socket.send_fds(server, [b"x"], [0, 1, 2])
server.sendall(json.dumps(request).encode() + b"\\n")
sys.exit(server.recv(1)[0])
"""
"""In the place of a command; however it is stopped, its fork is killed (not what that has started)."""


def environment_of_server() -> dict[str, str]:
    """The tests' environment with one thread, since a fork does not inherit those with which a library computes."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Forks:
    """Starts tests/support/fork_server.py, whose kinds it knows, at the first use; it ends with the tests."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process: subprocess.Popen[str] | None = None

    def run(
        self,
        code: str,
        *words: str,
        folder: Path | None = None,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        seconds: int = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Runs code as `python -c code words` would, and kills it after some seconds.

        Args:
            folder: working directory; the tests' own by default.
            python: what the code finds as sys.executable.
            environment: environment variables; the tests' own by default.
        """
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), self.kind],
                env=environment_of_server(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {
            "code": code,
            "words": words,
            "folder": str(folder or Path.cwd()),
            "python": python,
            "environment": dict(os.environ if environment is None else environment),
            "seconds": seconds,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code_of_exit, output, errors = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess([python, "-c", code, *words], code_of_exit, output, errors)


class Commands:
    """Starts tests/support/command_server.py at the first use; it ends with the tests.

    Args:
        root: the folder of the packages getam and deeplab.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = Path(tempfile.gettempdir()) / f"getam-commands-{uuid4().hex}"
        self.process: subprocess.Popen[bytes] | None = None

    def client(self) -> str:
        """The source of a script in the place of a command, which has the server run the command."""
        if self.process is None:
            words = [sys.executable, str(COMMAND_SERVER), str(self.socket), str(self.root)]
            self.process = subprocess.Popen(words, env=environment_of_server(), stdin=subprocess.PIPE)
            while not self.socket.exists():
                assert self.process.poll() is None, "the server of commands has ended"
                time.sleep(0.01)
        return CLIENT.format(python=sys.executable, socket=self.socket)

    def end(self) -> None:
        """Ends the server, if it has been started."""
        if self.process is not None:
            self.process.communicate()


def put_commands(folder: Path, script: str) -> None:
    """Makes a folder with a script in the place of both commands: the rules use it if its `python` runs Snakemake."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python").unlink(missing_ok=True)
    (folder / "python").symlink_to(sys.executable)
    for name in ("getam", "deeplab"):
        (folder / name).write_text(script)
        (folder / name).chmod(stat.S_IRWXU)


SNAKEMAKE = Forks("snakemake")
SNAKEMAKE_AND_PROJECT = Forks("snakemake_and_project")
"""For folders that use the project's own packages."""
NETWORKS = Forks("networks")
COMMANDS = Commands(PROJECT)
