"""A run of the workflow that something happens to, and what must be true of it in the end."""

from contextlib import AbstractContextManager
from types import TracebackType

from cluster.project import Project, Snakemake
from cluster.record import Row
from cluster.slurm import Slurm, SlurmJob, wait_until


class Disturbed:
    """Context manager: starts Snakemake and waits until captures run and have checkpoints; checks the end.

    Attributes
    ----------
    slurm, project
        Where it runs, and what.
    snakemake
        The Snakemake started last.
    """

    def __init__(
        self,
        slurm: Slurm,
        project: Project,
        expected: dict[str, str],
        row: AbstractContextManager[Row],
        profile: str,
    ) -> None:
        self.slurm, self.project, self._expected, self._row, self._profile = slurm, project, expected, row, profile
        self.snakemake: Snakemake
        self._noted: Row

    def __enter__(self) -> "Disturbed":
        self._noted = self._row.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._check()
            else:
                error.add_note(self.output()[-6000:])
        except AssertionError as failure:
            failure.add_note(self.output()[-6000:])
            self._row.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._row.__exit__(kind, error, trace)

    def start(self, *arguments: str) -> Snakemake:
        """Start Snakemake, by the profile."""
        self.snakemake = self.project.on_cluster(self.slurm, *arguments, profile=self._profile)
        return self.snakemake

    def start_and_wait(self, *arguments: str) -> SlurmJob:
        """Start Snakemake; return a job that captures and has written something that it can go on from."""
        self.start(*arguments)
        return wait_until("a capture is under way", self.capture_under_way, 90)

    def capture_under_way(self) -> SlurmJob | None:
        if not self.project.checkpoints():
            return None
        return next(iter(self.captures()), None)

    def captures(self) -> list[SlurmJob]:
        """Jobs that run a capture."""
        return [job for job in self.slurm.jobs() if job.state == "RUNNING" and self._captures(job)]

    def finish(self, limit: float = 200) -> None:
        """Wait until Snakemake has done all that it should."""
        status = self.snakemake.wait(limit)
        assert status == 0, f"Snakemake ended with {status}"

    def output(self) -> str:
        return "\n".join(snakemake.output() for snakemake in self.project.started)

    def _captures(self, job: SlurmJob) -> bool:
        return "capture" in job.name or self._profile != "slurm"

    def _check(self) -> None:
        """Check that the files are those of the undisturbed run, written one after the other, and the fault seen."""
        assert self.project.files() == self._expected
        for file, writers in self.project.writers().items():
            assert len(writers) == len(set(writers)), f"{file}: {' then '.join(writers)}"
        assert self._noted.shown in self.output()
