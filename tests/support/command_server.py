"""Runs the commands `getam` and `deeplab` in forks of one process, which has imported what they import.

    python command_server.py SOCKET ROOT

ROOT is the folder of the two packages. A whole run starts some thirty commands, and each takes seconds to import torch.
Here a client in the place of a command sends its words, folder, environment and standard streams, and ends with the
exit code that it is sent. The server ends with the process that has started it, of whose pipe its standard input is the
other end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from fork_server import become


def main() -> None:
    root = Path(sys.argv[2])
    sys.path.insert(0, str(root))
    for package in ("getam", "deeplab"):
        # The environment has the checkout's packages too.
        assert Path(str(import_module(package).__file__)).is_relative_to(root), f"{root} has no {package}"
        for module in sorted((root / package / "stages").glob("[!_]*.py")):
            import_module(f"{package}.stages.{module.stem}")
    # Objects that the collector does not visit stay in memory that the forks share.
    gc.freeze()
    # A fork that has ended is not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        # Clients may come once the socket has its name.
        server.bind(sys.argv[1] + ".new")
        server.listen()
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()
    os.unlink(sys.argv[1])
    # Without the collector's visit some libraries miss their objects, and say so at length.
    os._exit(0)


def _answer(connection: socket.socket) -> NoReturn:
    """Runs a client's command in a fork, and sends the client its exit code; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = socket.recv_fds(connection, 1, 3)[1]
    with connection.makefile("rb") as file:
        line = file.readline()
    if not line:
        # The client was killed before it said what to run.
        os._exit(0)
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # The server's own would take these for what they were, files for instance.
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        package = request["package"]
        become(
            import_module(f"{package}.cli").main,
            [package, *request["words"]],
            folder=request["folder"],
            environment=request["environment"],
        )
    # A client says nothing more; it is gone where there is something to read.
    if connection in select.select([connection, os.pidfd_open(child)], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # As a shell says it: 128 + number of the signal.
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


if __name__ == "__main__":
    main()
