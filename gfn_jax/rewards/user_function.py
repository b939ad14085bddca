"""A user's own function of prompts and texts, found by its name, called, and its answer checked. Free of jax.

    def reward(prompts: list[str], texts: list[str]) -> list[float]

gives a term of log R for each text, in nats, or several as a dict of such lists.
"""

import hashlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.imports import named_object

Function = Callable[[list[str], list[str]], Any]
Terms = tuple[tuple[str, float], ...] | None
"""A text's terms by name, or None where the function failed on it."""

KEY = "reward.function.name"


def name_of(function: Function) -> str:
    """What a configuration calls the function: "module:function"; raises `UserError` where it is none."""
    if not (callable(function) and hasattr(function, "__qualname__")):
        raise UserError(f"reward must be a function, as def makes one: it is {function!r}")
    return f"{function.__module__}:{function.__qualname__}"


def find_function(name: str) -> Function:
    """The function that is called "module:function"; raises `UserError` where there is none."""
    module, colon, attribute = name.partition(":")
    if not colon or "<" in attribute:
        raise UserError(f'{KEY}: {name!r} does not name a function as "module:function", at the top of its module')
    if module == "__main__" and not hasattr(sys.modules["__main__"], attribute):
        raise UserError(
            f"{KEY}: {name!r} was defined in a notebook or a script, which cannot be imported: give the function "
            "itself (`gfn_jax.open_run(..., reward=...)`), or move it to a module"
        )
    function = named_object(name, KEY)
    if not callable(function):
        raise UserError(f"{KEY}: {name!r} is not a function")
    return function


def content_sha256(function: Function) -> str:
    """Of the function's own text, or its code where there is no text; what it calls does not count."""
    try:
        content = inspect.getsource(function).encode()
    except (OSError, TypeError):
        code: Any = getattr(function, "__code__", None)
        content = repr((code.co_code, code.co_consts) if code else function).encode()
    return hashlib.sha256(content).hexdigest()


class UserFunction:
    """Calls the function, and says of every text what it gave."""

    def __init__(self, name: str, function: Function | None = None):
        self._function = function or find_function(name)
        self._name = name.partition(":")[2].rpartition(".")[2]
        self._has_told: set[str] = set()

    def terms(self, pairs: Sequence[tuple[str, str]]) -> list[Terms]:
        """The terms of each (prompt, text).

        A text that the function raises on has None, and the first such traceback is logged. Raises `UserError`
        where what it returns are not numbers, one for each text.
        """
        fault = ""
        try:
            answer = self._function([prompt for prompt, _ in pairs], [text for _, text in pairs])
        except Exception:
            answer, fault = {}, traceback.format_exc().strip()
        if fault and len(pairs) > 1:  # those that it can do are not lost with those that it cannot
            return [terms for pair in pairs for terms in self.terms([pair])]
        if fault:
            self._tell("raised on %r, which is left out:\n%s", pairs[0], fault)
            return [None]
        named = answer if isinstance(answer, Mapping) else {self._name: answer}
        columns = {str(name): self._numbers(values, len(pairs)) for name, values in named.items()}
        for place, pair in enumerate(pairs):
            if not all(math.isfinite(values[place]) for values in columns.values()):
                self._tell(
                    "returned %s for %r: texts without a finite reward are left out, and nothing is learned of them; "
                    "of what should hardly be written give a low one, such as -20",
                    ", ".join(f"{values[place]:g}" for values in columns.values()),
                    pair,
                )
        return [tuple((name, values[place]) for name, values in columns.items()) for place in range(len(pairs))]

    def _tell(self, what: str, *values: Any) -> None:
        """Warns, once of each kind."""
        if what not in self._has_told:
            logging.warning(f"%s {what}", self._name, *values)
            self._has_told.add(what)

    def _numbers(self, values: Any, count: int) -> list[float]:
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise UserError(f"{KEY}: {self._name} must return a number for each text: {error}") from error
        if len(numbers) != count:
            raise UserError(f"{KEY}: {self._name} returned {len(numbers)} numbers for {count} texts")
        return numbers
