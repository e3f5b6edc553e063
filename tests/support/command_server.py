"""Runs the commands `getam` and `deeplab` in forks of one process, which has imported what they import.

    python command_server.py SOCKET

A whole run starts some thirty commands, and each takes seconds to import torch. Here a client in the place of a command
sends its words, folder, environment and standard streams, and ends with the exit code that it is sent. The server ends
with the process that has started it, of whose pipe its standard input is the other end.
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

PROJECT = Path(__file__).resolve().parents[2]

CLIENT = """#!{python} -S
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect("{socket}")
package = os.path.basename(sys.argv[0])
request = dict(package=package, words=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
socket.send_fds(server, [b"x"], [0, 1, 2])
server.sendall(json.dumps(request).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(server.recv(1)[0])
"""
"""A command of a workplace whose commands are forks; killed or interrupted, it leaves the fork alone."""


def main() -> None:
    sys.path.insert(0, str(PROJECT))
    for package in ("getam", "deeplab"):
        for module in sorted((PROJECT / package / "stages").glob("[!_]*.py")):
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


def _answer(connection: socket.socket) -> None:
    """Runs a client's command in a fork, and sends the client its exit code; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = socket.recv_fds(connection, 1, 3)[1]
    with connection.makefile("rb") as file:
        request = json.load(file)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(**request)
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
