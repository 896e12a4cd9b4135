"""What surrounds a stage when a workflow runs it: its log file and one-line errors."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from var_core.errors import VarError


@contextmanager
def logged(log: str | Path) -> Iterator[None]:
    """Send log records to the file `log`, and end the process with one line when the user can mend the fault.

    A :class:`VarError` is printed to standard error and to the log as ``error: …`` and ends the process
    with status 1; any other exception is written to the log with its traceback and raised.
    """
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    # Without a terminal nobody sees a bar, so the same lines go to standard error for the scheduler's log.
    plain = None if sys.stderr.isatty() else logging.StreamHandler()
    if plain is not None:
        plain.addFilter(logging.Filter("var_core"))
        root.addHandler(plain)
    try:
        yield
    except VarError as error:
        line = f"error: {' '.join(str(error).split())}"
        logging.getLogger("var_core").error(line)
        if plain is None:
            print(line, file=sys.stderr)
        sys.exit(1)
    except Exception:
        logging.getLogger("job").exception("the stage failed")
        raise
    finally:
        root.removeHandler(handler)
        if plain is not None:
            root.removeHandler(plain)
        handler.close()
