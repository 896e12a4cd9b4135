"""One cluster without accounting and one with it; the workflow on the first; and a copy of it for every fault."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.disturbed import Disturbed
from cluster.installation import why_not
from cluster.project import ROOT, Project
from cluster.record import Record
from cluster.slurm import Slurm

RECORDS = ROOT / "results/cluster"


@pytest.fixture(scope="session")
def workplace() -> Iterator[Path]:
    """A folder for everything, gone afterwards; its name is short, since sockets are in it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # A test run that is terminated cleans up as one that is interrupted does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="var-slurm-", ignore_cleanup_errors=True) as folder:
        # Slurm wants to be sure that nobody else could have put something there; its daemons' users must get in.
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def record(workplace: Path) -> Iterator[Record]:
    record = Record()
    yield record
    if record.rows:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "all")
        record.write(RECORDS / f"faults-{worker}.json", Slurm.version(), Slurm.memory_limit())


@pytest.fixture(scope="session")
def start_slurm(workplace: Path) -> Iterator[Callable[[bool], Slurm]]:
    """A function that starts a cluster, or gives the one that runs already."""
    clusters: dict[bool, Slurm] = {}

    def start(accounting: bool) -> Slurm:
        if accounting not in clusters:
            folder = workplace / ("accounting" if accounting else "plain")
            folder.mkdir()
            clusters[accounting] = Slurm(folder, accounting)
            clusters[accounting].start()
        return clusters[accounting]

    try:
        yield start
    finally:
        for cluster in clusters.values():
            cluster.stop()


@pytest.fixture(scope="session")
def undisturbed(start_slurm: Callable[[bool], Slurm], record: Record, workplace: Path) -> Project:
    """The workflow from its start to the merged statistics on the cluster, with nothing in its way.

    Workers share it: the first one makes it, the others wait and copy it.
    """
    shared = _shared(os.getppid())
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "project").exists():
            made = _run_undisturbed(start_slurm(False), Project.new(workplace / "made"), record)
            shutil.copytree(made.folder, shared / "unfinished", symlinks=True)
            (shared / "unfinished").rename(shared / "project")
        # By itself, so that a worker that ends takes nothing from the others.
        shutil.copytree(shared / "project", workplace / "undisturbed", symlinks=True)
    return Project(workplace / "undisturbed")


def _run_undisturbed(slurm: Slurm, project: Project, record: Record) -> Project:
    with record.row(
        "none",
        "Finished jobid",
        "nothing is needed: corpus, model, capture and merge as jobs of the cluster",
        profile="slurm",
        accounting=False,
        place=["", 0],
    ):
        snakemake = project.on_cluster(slurm)
        try:
            assert snakemake.wait(240) == 0, snakemake.output()[-5000:]
        finally:
            project.end()
    return project


def _shared(process: int) -> Path:
    """What the workers of a process that distributes tests share."""
    return Path(tempfile.gettempdir()) / f"var-slurm-shared-{process}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove what was shared, when all workers have ended; without workers, this process's parent stands for them."""
    if not hasattr(session.config, "workerinput"):
        for process in (os.getpid(), os.getppid()):
            shutil.rmtree(_shared(process), ignore_errors=True)


@pytest.fixture
def disturb(
    request: pytest.FixtureRequest,
    start_slurm: Callable[[bool], Slurm],
    undisturbed: Project,
    record: Record,
    workplace: Path,
) -> Iterator[Callable[..., Disturbed]]:
    """A function that begins a fault: a copy of the project in which one shard is not captured yet."""
    begun: list[Disturbed] = []

    def begin(fault: str, shown: str, recovers: str, *, accounting: bool = False, profile: str = "slurm") -> Disturbed:
        slurm = start_slurm(accounting)
        project = undisturbed.copy(Path(tempfile.mkdtemp(dir=workplace, prefix=request.node.name)) / "project")
        begun.append(
            Disturbed(
                slurm,
                project,
                undisturbed.files(),
                record.row(
                    fault,
                    shown,
                    recovers,
                    profile=profile,
                    accounting=accounting,
                    place=list(request.node.location[:2]),
                ),
                profile,
            )
        )
        return begun[-1]

    yield begin
    for disturbed in begun:
        disturbed.project.end()
        disturbed.slurm.recover()
