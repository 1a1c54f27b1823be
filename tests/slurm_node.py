"""A Slurm of one node on loopback, from Debian's packages, for the tests: started in a folder and stopped again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback import free_port, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# slurmctld and slurmd listen on loopback alone; without a default of memory one job would take the whole node
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=600
KillWait=5
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={name} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={name} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Tell what keeps a node from being started here; empty if nothing does."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs Slurm ({', '.join(absent)} not found): make test-slurm"
    return "" if os.geteuid() == 0 else "needs root: slurmd starts jobs as their users"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextmanager
def node(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start a node and yield the environment in which its commands find it."""
    for room in ("state", "spool", "bin"):
        (folder / room).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    configuration.write_text(
        CONFIGURATION.format(
            name=socket.gethostname().partition(".")[0], folder=folder, controller=free_port(), daemon=free_port(),
            user="root", cores=os.cpu_count(), memory=pages * 3 // 4,
        )
    )  # fmt: skip
    # Snakemake's job step takes all variables of Slurm away before it calls srun, that of the configuration too
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    found = environment | {"PATH": f"{folder}/bin:{environment['PATH']}:/usr/sbin", "SLURM_CONF": str(configuration)}
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    munge = ["munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", *files]
    for command in (munge, ["slurmctld", "-c"], ["slurmd"]):
        subprocess.run(command, env=found, check=True, capture_output=True)
    try:
        wait_for(lambda: "idle" in _say(found, "sinfo", "--noheader", "--format=%T"), "an idle node")
        yield found
    finally:
        _say(found, "scancel", "--user=root")
        _say(found, "scontrol", "shutdown")
        wait_for(lambda: not (folder / "slurmd.pid").exists(), "the node's end")
        pid = folder / "munge.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), 15)


def _say(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True).stdout
