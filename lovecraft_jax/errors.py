"""The one error that the user is meant to read."""


class UserError(Exception):
    """Wrong input: one line that says what was given, what was expected and what to do.

    The entry points print it without a traceback and leave with exit code 2.
    """
