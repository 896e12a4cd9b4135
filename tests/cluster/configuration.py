"""The files a Slurm cluster of one machine is configured with; everything is below one folder."""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "g1")
DAEMONS = ("slurmctld", "slurmdbd", *NODES)


@dataclass(frozen=True)
class Layout:
    """Where a cluster's files are, and what it can do.

    Attributes
    ----------
    folder : Path
        Everything is below it.
    ports : dict
        One for each of `DAEMONS`.
    accounting : bool
        Whether slurmdbd keeps accounts, so that sacct works.
    cgroup : Path or None
        The memory cgroup (version 1) under which jobs get limits from the kernel; without it slurmstepd looks every
        second, and kills what is over.
    """

    folder: Path
    ports: dict[str, int]
    accounting: bool
    cgroup: Path | None

    @property
    def configuration(self) -> Path:
        return self.folder / "etc/slurm.conf"


def free_ports() -> dict[str, int]:
    """A port that nobody listens on for each daemon."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in DAEMONS}
    ports = {name: opened.getsockname()[1] for name, opened in sockets.items()}
    for opened in sockets.values():
        opened.close()
    return ports


def memory_cgroup() -> Path | None:
    """A part of this process's memory cgroup, not made yet, if that is of version 1 and can be divided."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            group = Path(f"/sys/fs/cgroup/memory{path}")
            own = group / f"var-slurm-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                own.mkdir()
                own.rmdir()
            except OSError:
                return None
            return own
    return None


def write(layout: Layout) -> None:
    """Write everything that the daemons read."""
    folder = layout.folder
    for name in ("etc", "run", "log", "state", "spool", "munge", "devices", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "munge").chmod(0o700)
    layout.configuration.write_text(slurm_conf(layout))
    for number in range(2):  # slurmd takes any character device for a GPU
        (folder / f"devices/gpu{number}").symlink_to("/dev/null")
    (folder / "etc/gres.conf").write_text(f"NodeName=g1 Name=gpu Type=fake File={folder}/devices/gpu[0-1]\n")
    if layout.cgroup:
        layout.cgroup.mkdir()
        (folder / "cgroup").mkdir()
        (folder / "cgroup/memory").symlink_to(layout.cgroup)
    (folder / "etc/cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={folder}/cgroup\n"
        "ConstrainRAMSpace=yes\nAllowedRAMSpace=100\n"
    )
    if layout.accounting:
        database = folder / "etc/slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(slurmdbd_conf(layout))
    # The slurm plugin's inner executor removes SLURM_CONF from the environment of its srun.
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={layout.configuration} exec /usr/bin/srun "$@"\n')
    srun.chmod(0o755)


def slurm_conf(layout: Layout) -> str:
    """slurm.conf: times are short, so that faults are found soon."""
    folder, ports, host = layout.folder, layout.ports, socket.gethostname().split(".")[0]
    hardware = "CPUs=4 RealMemory=64000 State=UNKNOWN"
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[name]} {hardware}"
        + (" Gres=gpu:fake:2" if name == "g1" else "")
        for name in NODES
    ]
    limits = (
        ["TaskPlugin=task/cgroup"] if layout.cgroup else ["TaskPlugin=task/none", "JobAcctGatherParams=OverMemoryKill"]
    )
    accounting = (
        [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={ports['slurmdbd']}",
            f"AccountingStoragePass={folder}/run/munge.sock",
            "AccountingStorageTRES=gres/gpu",
        ]
        if layout.accounting
        else ["AccountingStorageType=accounting_storage/none"]
    )
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        "SlurmUser=root",
        "SlurmdUser=root",
        f"SlurmctldPort={ports['slurmctld']}",
        "AuthType=auth/munge",
        # A requeued job is held until the old credential has run out: two minutes, if nobody says otherwise.
        f"AuthInfo=socket={folder}/run/munge.sock,cred_expire=5",
        "CredType=cred/munge",
        "MpiDefault=none",
        "SwitchType=switch/none",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmdPidFile={folder}/run/slurmd.%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd.%n.log",
        "SlurmdParameters=config_overrides",  # nodes may pretend to have more than there is
        "ReturnToService=2",
        "ProctrackType=proctrack/linuxproc",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0",
        "GresTypes=gpu",
        "SlurmdTimeout=8",
        "SlurmctldTimeout=8",
        "MessageTimeout=5",
        "KillWait=5",
        "MinJobAge=300",
        "EnforcePartLimits=ALL",  # a job that fits no partition is refused, where it would wait for ever
        *limits,
        *accounting,
        *nodes,
        "PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=1-0 State=UP",
        "PartitionName=gpu Nodes=g1 MaxTime=1-0 State=UP",
    ]
    return "\n".join(lines) + "\n"


def slurmdbd_conf(layout: Layout) -> str:
    """slurmdbd.conf, with a MariaDB that listens on a socket in the same folder only."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.folder}/run/munge.sock",
        f"DbdHost={socket.gethostname().split('.')[0]}",
        "DbdAddr=127.0.0.1",
        f"DbdPort={layout.ports['slurmdbd']}",
        "SlurmUser=root",
        f"LogFile={layout.folder}/log/slurmdbd.log",
        f"PidFile={layout.folder}/run/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=slurm",
        "StoragePass=only-on-a-socket",
        "StorageLoc=slurm",
    ]
    return "\n".join(lines) + "\n"
