"""The errors that end a command with one line."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right.

    The commands print it as one line and exit with status 2.
    """


class ElsewhereError(RuntimeError):
    """Another process of the same run says what is wrong; this one ends with the same `status`, and without a word."""

    def __init__(self, message: str, status: int = 2):
        super().__init__(message)
        self.status = status


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, and why.

    The commands print it as one line and exit with status 1.
    """
