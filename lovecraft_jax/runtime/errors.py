"""Exit codes, and the errors that the user is meant to read, as one line without a traceback."""

DONE, FAILED, WRONG_INPUT = 0, 1, 2
INTERRUPTED = 75
"""EX_TEMPFAIL: saved, to be started again; the one that schedulers requeue."""


class UserError(Exception):
    """Wrong input: what was given, what was expected and what to do. Exit code 2."""


class RunError(Exception):
    """The input was right, but the run could not go on: what happened and what to do. Exit code 1."""
