"""The one exception that a user is meant to read."""


class InputError(Exception):
    """Bad input: the message names the file or key at fault and the cure.

    The command line prints the message alone, without a traceback, and exits with code 1.
    """
