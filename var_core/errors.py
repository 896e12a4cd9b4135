"""The one exception that a user is meant to read."""


class VarError(Exception):
    """Something the user can mend: the message is one line, names the file or key, and says what to do.

    Stage scripts print the message without a traceback and exit non-zero; anything that is not a
    ``VarError`` is a fault of the program and keeps its traceback.
    """
