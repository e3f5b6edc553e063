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


def _answer(connection: socket.socket) -> None:
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
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
        )
        _run(**request)
    # A client says nothing more; it is gone where there is something to read.
    if connection in select.select([connection, os.pidfd_open(child)], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # As a shell says it: 128 + number of the signal.
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(package: str, words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Becomes the command; does not return."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [package, *words]
    code = 1
    try:
        import_module(f"{package}.cli").main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
