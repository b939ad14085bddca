"""Whether what is done is said, and where."""

from rich.console import Console

Progress = bool | Console
"""Whether progress is printed, and where: nowhere, on the standard output, or on a console of one's own."""


def console_for(progress: Progress) -> Console:
    return progress if isinstance(progress, Console) else Console(quiet=not progress)


def has_bars(console: Console) -> bool:
    """Whether bars are shown: in a terminal. On a quiet console one would keep back what others print meanwhile."""
    return console.is_terminal and not console.quiet
