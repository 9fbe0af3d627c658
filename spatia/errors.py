"""The one exception that reaches a user as one line instead of a traceback."""


class SpatiaError(Exception):
    """Something the user can fix.

    The message is one line: what was expected, what was found, where, what to do.
    The command line prints it without a traceback and exits with status 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
