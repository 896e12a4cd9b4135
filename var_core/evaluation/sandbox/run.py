"""Running programs that nobody has read, many at a time.

What the sandbox does. A program runs as an unprivileged user in namespaces of its own. It sees no process but its own,
no network (not even a loopback that is up), none of the machine's files but the system's libraries and Python, all
read-only, and one folder in memory to write in, which vanishes with it. It has no environment variables but five that
are the same everywhere, no privileges and no way to get any, no tracing, no memory outside of processes, and limits on
time, memory, processes, files and output. When it ends or is ended, everything it has started is gone too, also if the
calling process is killed. Nothing needs root; as root, the program runs as nobody.

What it does not do. It is one kernel: a program that exploits a fault of Linux gets out, so run programs of which you
fear that on a machine of their own. Limits are not those of a cgroup: resident memory is looked at 20 times a second,
and memory of the kernel itself (pipes, sockets) is bounded only by the limits on open files and processes. Programs of
one batch share the machine's processors, so the limit on wall time also measures the load. Program and tests share an
interpreter: the end of a program is reported by a token that is in neither its source, arguments nor environment, which
leaves no chance to ``sys.exit(0)`` or to printing "passed", but code written to search the harness's stack frames would
find the token, and an object that is equal to everything passes every assertion, as in any harness of this kind.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from var_core.errors import VarError
from var_core.evaluation.sandbox.probe import why_not
from var_core.evaluation.sandbox.process import SandboxFaultError, execute
from var_core.evaluation.sandbox.program import Limits, ProgramResult
from var_core.progress import Progress

_LOGGER = logging.getLogger(__name__)


def run_program(program: str, limits: Limits | None = None, unsafe: bool = False) -> ProgramResult:
    """Run one program; parameters and errors as :func:`run_programs`."""
    return run_programs([program], limits, 1, unsafe)[0]


def run_programs(
    programs: Sequence[str],
    limits: Limits | None = None,
    workers: int = 1,
    unsafe: bool = False,
    description: str = "run programs",
) -> list[ProgramResult]:
    """Run programs, each in a sandbox of its own, and say what became of each.

    Parameters
    ----------
    programs : sequence of str
        Python source. A program passes when its last line is reached.
    limits : Limits, optional
        For each program.
    workers : int, optional
        Programs at one time. More than there are processors makes time limits unfair.
    unsafe : bool, optional
        Run without a sandbox: with limits, in a process group and a folder of its own, and with an empty environment,
        but with this user's files, network and processes in reach. Only for programs that you have read.
    description : str, optional
        For the progress bar.

    Returns
    -------
    list of ProgramResult
        In the order of the programs.

    Raises
    ------
    VarError
        If the sandbox cannot be set up here and `unsafe` is false.
    """
    reason = None if unsafe else why_not()
    if reason is not None:
        raise VarError(
            f"sandbox: {reason}; run on a Linux machine that permits user namespaces, or pass unsafe=True if the "
            "programs may do whatever you may"
        )
    if workers < 1:
        raise VarError(f"sandbox workers: {workers} cannot run anything; set at least 1")
    if unsafe:
        _LOGGER.warning("%d programs run without a sandbox: they can do whatever this user can", len(programs))
    results: dict[int, ProgramResult] = {}
    chosen = limits or Limits()
    with (
        Progress(len(programs), "program", description) as progress,
        ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool,
    ):
        running = {pool.submit(execute, text, chosen, not unsafe): place for place, text in enumerate(programs)}
        try:
            for future in as_completed(running):
                results[running[future]] = future.result()
                progress.advance(1)
        except SandboxFaultError as fault:
            pool.shutdown(wait=False, cancel_futures=True)
            raise VarError(f"sandbox: could not be built for a program: {fault}; run again") from fault
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[place] for place in range(len(programs))]
