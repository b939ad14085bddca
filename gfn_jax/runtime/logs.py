"""What libraries log that a user has no use for."""

from logging import LogRecord
from pathlib import Path

from absl import logging


def leave_out_orbax() -> None:
    """Keeps what Orbax logs off the terminal; may be called more than once."""
    for place in (logging.get_absl_handler(), logging.get_absl_logger()):  # a notebook has another handler
        place.addFilter(_is_not_of_orbax)


def _is_not_of_orbax(record: LogRecord) -> bool:
    """Orbax, and asyncio for it, tell at length what they do, and with tracebacks what fails, which is raised too."""
    return not {"orbax", "asyncio"} & set(Path(record.pathname).parts)
