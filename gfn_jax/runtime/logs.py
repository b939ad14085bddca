"""What libraries log that a user has no use for."""

import sys
import threading
from collections.abc import Callable
from logging import LogRecord
from pathlib import Path

from absl import logging


def leave_out_orbax() -> None:
    """Keeps what Orbax logs off the terminal; may be called more than once."""
    for place in (logging.get_absl_handler(), logging.get_absl_logger()):  # a notebook has another handler
        place.addFilter(_is_not_of_orbax)
    if not isinstance(sys.unraisablehook, _WithoutGivenUp):
        sys.unraisablehook = _WithoutGivenUp(sys.unraisablehook)


def _is_not_of_orbax(record: LogRecord) -> bool:
    """Orbax, and asyncio for it, tell at length what they do, and with tracebacks what fails, which is raised too."""
    return not {"orbax", "asyncio"} & set(Path(record.pathname).parts)


class _WithoutGivenUp:
    """The hook for what nobody can catch, but for arrays whose save or restore has failed at another array.

    Each that is being written finds that nobody waits for it any more, in a thread of its own; each that is being read
    is closed, and says so by another exception. Why the save or the restore failed is raised.
    """

    def __init__(self, inner: Callable[["sys.UnraisableHookArgs"], object]):
        self._inner = inner

    def __call__(self, unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        is_writer = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        is_writer = is_writer and threading.current_thread() is not threading.main_thread()
        is_reader = error is not None and isinstance(error.__cause__, GeneratorExit)
        if not (is_writer or is_reader):
            self._inner(unraisable)
