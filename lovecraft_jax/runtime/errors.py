"""Exit codes, and the errors that users see as one line without a traceback."""

DONE, FAILED, WRONG_INPUT = 0, 1, 2
INTERRUPTED = 75  # saved, and to be started again: EX_TEMPFAIL of sysexits.h, on which schedulers requeue


class UserError(Exception):
    """Wrong input: the message has what was given, what was expected and what to do. Exit code 2."""


class RunError(Exception):
    """The input was right but the run cannot go on: the message has what happened and what to do. Exit code 1."""
