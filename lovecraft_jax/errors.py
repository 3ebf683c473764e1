"""The errors that the user is meant to read, as one line without a traceback."""


class UserError(Exception):
    """Wrong input: what was given, what was expected and what to do. Exit code 2."""


class RunError(Exception):
    """The input was right, but the run could not go on: what happened and what to do. Exit code 1."""
