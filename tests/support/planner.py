"""Many dry runs in one process: Snakemake is imported once, and each dry run is a fork of it.

Reads a line of JSON a dry run from standard input, {folder, python, words, packages}; answers with a line of JSON each,
[exit code, output]. Importing Snakemake takes three times as long as a dry run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback

import snakemake.cli

# What the workflow and Snakemake import when they run; not getam, of which each folder may have its own.
import snakemake.api  # isort: skip
import snakemake.dag  # isort: skip
import snakemake.scheduling.job_scheduler  # isort: skip


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile("w+") as output:
            child = os.fork()
            if child == 0:
                _run(asked, output.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            print(json.dumps([code, output.read()]), flush=True)


def _run(asked: dict, output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(asked["folder"])
    sys.path[:0] = asked["packages"]
    sys.executable = asked["python"]
    code = 1
    try:
        snakemake.cli.main(asked["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
