"""A Slurm cluster on one machine for tests: a controller and two nodes on loopback, one with two fake GPUs.

The cluster leaves nothing behind: daemons die with the process that started them, and its two files in /etc/slurm,
where job steps look for them, are removed. Another Slurm on the machine is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

CONFIGURATION = (Path("/etc/slurm/slurm.conf"), Path("/etc/slurm/gres.conf"))
MARK = "# Written by tests/support/slurm_cluster.py of getam, which removes it.\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol", "setpriv")
NAME = "getamtest"
GPU_NODE, CPU_NODE = "g1", "c1"

# The nodes claim more CPUs and memory than exist, since jobs ask for what the real networks need; `config_overrides`
# allows it.
SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
DefMemPerCPU=500
ReturnToService=2
MinJobAge=3600
KillWait=10
SlurmdTimeout=15
GresTypes=gpu
NodeName={gpu} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=32 RealMemory=128000 Gres=gpu:h200:2
NodeName={cpu} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=32 RealMemory=128000
PartitionName=cpu Nodes={cpu} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={gpu} MaxTime=INFINITE State=UP
"""
GRES_CONF = "NodeName={gpu} Name=gpu Type=h200 File={folder}/dev/gpu[0-1]\n"


def obstacle() -> str | None:
    """The reason why no cluster can be started on this machine, with a cure if there is one; None if it can."""
    if os.geteuid():
        return "not root: Slurm's daemons start jobs as other users"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    for path in CONFIGURATION:
        if path.exists() and not path.read_text().startswith(MARK):
            return f"{path} is there already: this machine belongs to a cluster, or is one"
    alive = [name for name in ("slurmctld", "slurmd") if _is_running(name)]
    if alive:
        return f"{' and '.join(alive)} run already: end the other test, or leave this machine's cluster alone"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _make_device(Path(folder) / "gpu")
        except OSError as error:
            return f"no device nodes can be made ({error.strerror}): a container needs CAP_MKNOD for it"
    return None


class Cluster:
    """Context manager that runs the cluster.

    Raises:
        RuntimeError: there is an obstacle, or the nodes don't come up; the message includes the daemons' logs.
    """

    def __enter__(self) -> Cluster:
        found = obstacle()
        if found:
            raise RuntimeError(found)
        # Cleans up after a test that was killed.
        if CONFIGURATION[0].exists():
            _end_jobs()
            for folder in re.findall(r"^StateSaveLocation=(.+)/state$", CONFIGURATION[0].read_text(), re.MULTILINE):
                shutil.rmtree(folder, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix="getam_slurm."))
        self.daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._write()
            self._start("munged", "--foreground", *self._munge_files())
            wait_for(lambda: (self.folder / "munge" / "socket").exists(), seconds=20, what="munged")
            self._start("slurmctld", "-D")
            for node in (GPU_NODE, CPU_NODE):
                self._start("slurmd", "-D", "-N", node)
            wait_for(self._is_up, seconds=30, what="the nodes")
        except BaseException as error:
            logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("**/*.log")}
            self.__exit__(None, None, None)
            if isinstance(error, Exception):
                raise RuntimeError("\n".join([str(error), *map(":\n".join, logs.items())])) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            subprocess.run(["scancel", "--user=root", "--full"], capture_output=True, timeout=20)
            subprocess.run(["scancel", "--user=root", "--signal=KILL"], capture_output=True, timeout=20)
            wait_for(lambda: not command("squeue", "--noheader"), seconds=30, what="the end of all jobs")
        except (RuntimeError, subprocess.SubprocessError):
            pass  # Without a controller there are no jobs to end.
        finally:
            for daemon in reversed(self.daemons):
                daemon.terminate()
            for daemon in reversed(self.daemons):
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            _end_jobs()
            for path in CONFIGURATION:
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def _write(self) -> None:
        # munged requires folders that others can enter but not write to.
        self.folder.chmod(0o755)
        for name in ("dev", "munge", "state"):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "key-file"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        for number in range(2):
            _make_device(self.folder / "dev" / f"gpu{number}")
        values = {
            "name": NAME,
            "host": socket.gethostname().split(".")[0],
            "folder": self.folder,
            "ports": _free_ports(3),
            "gpu": GPU_NODE,
            "cpu": CPU_NODE,
        }
        for path, text in zip(CONFIGURATION, (SLURM_CONF, GRES_CONF), strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_text(MARK + text.format(**values))

    def _munge_files(self) -> list[str]:
        # The cluster has a munge of its own, with all files in one folder, which does not touch the machine's.
        return [f"--{name}={self.folder}/munge/{name}" for name in ("socket", "key-file", "pid-file", "seed-file")]

    def _start(self, *words: str) -> None:
        # The new session keeps the terminal's Ctrl-C, which is for Snakemake, from the daemon. --pdeathsig ends the
        # daemon with this process, however that ends.
        with (self.folder / f"{len(self.daemons)}_{words[0]}.log").open("wb") as log:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *words], stdout=log, stderr=log, start_new_session=True
            )
        self.daemons.append(daemon)

    def _is_up(self) -> bool:
        nodes = [command("scontrol", "show", "node", name) for name in (GPU_NODE, CPU_NODE)]
        return all(re.search(r"State=IDLE\s", node) for node in nodes)


def command(*words: str) -> str:
    """The output of one of Slurm's commands; empty if it fails."""
    return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout


def jobs() -> list[dict[str, str]]:
    """All jobs since the cluster came up, as shown by `scontrol show job`."""
    lines = command("scontrol", "--oneliner", "--details", "show", "job").splitlines()
    return [dict(re.findall(r"(\w+(?::\w+)?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]


def wait_for(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Waits until a condition is true.

    Raises:
        RuntimeError: it is not true after that time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)


def _make_device(path: Path) -> None:
    """Makes a device like /dev/null: Slurm accepts any character device as a GPU."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _is_running(name: str) -> bool:
    return any(_read(path).strip() == name.encode() for path in Path("/proc").glob("[0-9]*/comm"))


def _end_jobs() -> None:
    """Kills processes of jobs whose daemons are gone; they would wait for the daemons forever."""
    for process in Path("/proc").glob("[0-9]*"):
        is_step = _read(process / "comm").strip() == b"slurmstepd"
        if is_step or f"SLURM_CLUSTER_NAME={NAME}".encode() in _read(process / "environ").split(b"\0"):
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def _read(path: Path) -> bytes:
    """Reads a file of /proc; empty if the process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    sys.exit(obstacle() and f"There can be no Slurm for the tests: {obstacle()}")
