"""The errors that end a command with one line."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right.

    The commands print it as one line and exit with status 2.
    """


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, and why.

    The commands print it as one line and exit with status 1.
    """
