"""Models for workers that fail in every way a worker can; their memory is a file."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

from gfn_jax.runtime.errors import UserError


class OddError(Exception):
    """Cannot be sent from process to process: what unpickles it calls it with one argument."""

    def __init__(self, first, second):
        super().__init__(first + second)


class Faulty:
    """Doubles numbers, but not before it has failed `failures` times."""

    def __init__(self, log: str, failures: int):
        self._log, self._failures = Path(log), failures

    def _is_to_fail(self) -> bool:
        tries = len(self._log.read_text()) if self._log.exists() else 0
        self._log.write_text("x" * (tries + 1))
        return tries < self._failures

    def killed(self, numbers):
        if self._is_to_fail():
            os.kill(os.getpid(), signal.SIGKILL)
        return [2 * number for number in numbers]

    def hung(self, numbers):
        if self._is_to_fail():
            time.sleep(600)
        return [2 * number for number in numbers]

    def raising(self, numbers):
        if self._is_to_fail():
            raise ZeroDivisionError("a fault of the model's")
        return [2 * number for number in numbers]

    def odd(self, numbers):
        if self._is_to_fail():
            raise OddError("two", "arguments")
        return [2 * number for number in numbers]

    def process_id(self, _):
        return os.getpid()

    def refusing(self, numbers):
        raise UserError(f"what is one to do with {numbers}?")

    def modules_with(self, name):
        """What is imported where `name` is."""
        importlib.import_module(name)
        return sorted(sys.modules)
