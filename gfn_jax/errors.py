"""The error that a user can mend."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right.

    The commands print it as one line and exit with status 2.
    """
