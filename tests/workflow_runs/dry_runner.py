"""Dry runs of one folder, each in a fork of a process that has imported Snakemake and parsed the library once."""

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn


class DryRunner:
    """A process that runs ``snakemake`` with given arguments in a folder; it ends with this one.

    Each run is a fork, so it starts as a new process would, with the code that the folder has then: the process itself
    has imported of the folder only what digests code, and remembers digests of texts.
    """

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        context.Process(target=_serve, args=(str(folder), there), daemon=True).start()
        there.close()

    def run(self, arguments: list[str]) -> tuple[int, str]:
        """Run, and give the exit status and what was printed."""
        self._here.send(arguments)
        return self._here.recv()


def _serve(folder: str, pipe: Connection) -> None:
    os.chdir(folder)
    sys.path.insert(0, folder)
    import pydantic  # noqa: F401
    import snakemake.cli  # noqa: F401

    from var_core.code_digest import code_digest

    for script in Path(folder).glob("workflow_scripts/*.py"):
        code_digest(script)
    log = Path("dry-run.log")
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        process = os.fork()
        if not process:
            _snakemake(arguments, log)
        _, status = os.waitpid(process, 0)
        pipe.send((os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8")))


def _snakemake(arguments: list[str], log: Path) -> NoReturn:
    """Do in a fork what ``snakemake`` does, and end it."""
    from snakemake.cli import main

    status = 1
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
