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
    if not isinstance(sys.unraisablehook, _WithoutLateWriters):
        sys.unraisablehook = _WithoutLateWriters(sys.unraisablehook)


def _is_not_of_orbax(record: LogRecord) -> bool:
    """Orbax, and asyncio for it, tell at length what they do, and with tracebacks what fails, which is raised too."""
    return not {"orbax", "asyncio"} & set(Path(record.pathname).parts)


class _WithoutLateWriters:
    """The hook for what nobody can catch, but for arrays that are written when the save they belong to has failed.

    Each finds that nobody waits for it any more, in a thread of its own; why the save failed is raised.
    """

    def __init__(self, inner: Callable[["sys.UnraisableHookArgs"], object]):
        self._inner = inner

    def __call__(self, unraisable: "sys.UnraisableHookArgs") -> None:
        is_late = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        if not is_late or threading.current_thread() is threading.main_thread():
            self._inner(unraisable)
