"""Changes honest files at random and reads them: `python tests/fuzz [--inputs N] [--only KIND] [--seed S]`.

No reader may raise anything but InputError, take more than MEMORY or SECONDS, or end its process. What does is kept in
--keep, and the exit code is 1. Runs of one seed, N and version of the libraries read the same bytes.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from readers import MEMORY, SECONDS, Reader, readers

from getam.errors import InputError

HANGS = 60
"""Seconds without a word after which a reader counts as endless."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="inputs of each kind [2000]")
    parser.add_argument("--only", nargs="+", help="kinds, such as a.pth")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"), help="folder of what was found")
    arguments = parser.parse_args()
    faults = total = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        kinds = [each for each in readers(scratch) if each.name in (arguments.only or [each.name])]
        for reader in kinds:
            started = time.monotonic()
            found = fuzz(reader, scratch, arguments)
            faults += found
            total += arguments.inputs
            seconds = time.monotonic() - started
            print(f"{reader.name:20} {arguments.inputs:7} inputs {seconds:6.0f} s, {found} faults", flush=True)
    print(f"{total} inputs, {faults} faults")
    return min(faults, 1)


def fuzz(reader: Reader, scratch: Path, arguments: argparse.Namespace) -> int:
    """Reads changed files in a process of its own, a fresh one after each that died; returns the number of faults."""
    context = multiprocessing.get_context("fork")
    first = faults = 0
    while first < arguments.inputs:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(
            target=work, args=(reader, scratch, arguments.seed, range(first, arguments.inputs), sender)
        )
        worker.start()
        sender.close()
        number, fault = first, ""
        try:
            while number < arguments.inputs:
                if not receiver.poll(HANGS):
                    fault = "hangs"
                    break
                number, fault = receiver.recv()
                if fault:
                    break
        except EOFError:
            worker.join()
            fault = f"ended its process ({worker.exitcode})"
        worker.kill()
        worker.join()
        if fault:
            faults += 1
            arguments.keep.mkdir(exist_ok=True)
            kept = arguments.keep / f"{arguments.seed}-{number}-{reader.name}"
            kept.write_bytes((scratch / reader.name).read_bytes())
            print(f"{kept}: {fault}", flush=True)
        first = number + 1
    return faults


def work(reader: Reader, scratch: Path, seed: int, numbers: range, sender: object) -> None:
    """Reads the inputs of these numbers and sends the number of each before it is read, and its fault if it has one."""
    logging.disable()
    warnings.simplefilter("ignore")
    # Beyond the bound on memory, so that an allocation is seen and not refused.
    resource.setrlimit(resource.RLIMIT_AS, (_size() + 8 * MEMORY * 2**20,) * 2)
    # libtiff and libjpeg write what they think of a file to the standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    before = _peak()
    for number in numbers:
        random = Random(f"{seed} {reader.name} {number}")
        (scratch / reader.name).write_bytes(reader.change(random, random.choice(reader.seeds)))
        sender.send((number, ""))  # type: ignore[attr-defined]
        started = time.process_time()
        fault = ""
        try:
            reader.read(scratch / reader.name)
        except InputError:
            pass
        except BaseException:
            fault = traceback.format_exc()
        if (seconds := time.process_time() - started) > SECONDS:
            fault += f"{seconds:.1f} s"
        if (grown := _peak() - before) > MEMORY * 2**20:
            fault += f"{grown / 2**20:.0f} MB"
        if fault:
            sender.send((number, fault))  # type: ignore[attr-defined]
            return
    sender.send((numbers.stop, ""))  # type: ignore[attr-defined]


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
