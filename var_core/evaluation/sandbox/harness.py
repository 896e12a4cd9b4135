"""Run ``program.py`` of the working folder and report that its last line was reached.

The text of this module is handed to a fresh interpreter inside the sandbox, so it imports nothing of the library.
The token to report comes through standard input and goes to the file descriptor named by the first argument.
"""

import os
import sys
import types


def main() -> None:
    """Run the program; end at once when it is done, whatever threads or exit handlers it left."""
    # The program may put its own functions in the place of these.
    write, leave, out, err = os.write, os._exit, sys.stdout, sys.stderr
    report = int(sys.argv[1])
    token = sys.stdin.buffer.read()
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123  pathlib is slow to import
        os.dup2(nothing.fileno(), 0)
    with open("program.py", encoding="utf-8") as stream:  # noqa: PTH123
        source = stream.read()
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = ["program.py"]
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
        out.flush()
        err.flush()
    except MemoryError:
        write(report, b"memory")
        raise
    write(report, token)
    leave(0)


if __name__ == "__main__":
    main()
