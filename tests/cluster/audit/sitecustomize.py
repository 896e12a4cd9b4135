"""Put first on PYTHONPATH of jobs: every file that one publishes under capture/ is noted, with who did it.

Files there are written aside and renamed, so that a rename is the moment at which a shard is written.
"""

import os
import sys
import time
from pathlib import Path


def _note(event: str, arguments: tuple) -> None:
    if event != "os.rename":
        return
    target = os.fsdecode(arguments[1])
    if "/capture/" not in target:
        return
    job = f"{os.environ.get('SLURM_JOB_ID', '-')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    line = f"{time.time():.4f} {os.getpid()} {job} {Path(target).resolve()}\n"
    descriptor = os.open(os.environ["VAR_TEST_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


if "VAR_TEST_AUDIT" in os.environ:
    sys.addaudithook(_note)
