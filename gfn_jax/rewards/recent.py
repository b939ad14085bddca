"""A cache that is bounded by the memory that it takes."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_RECORD_BYTES = 200  # of the cache's own, for an entry


class Recent(Generic[Key, Value]):
    """Values by their keys, within so many megabytes; those that were last asked for longest ago go first.

    Keys and values count as large as they are alone, with all that they hold. Several threads may use it.
    """

    def __init__(self, megabytes: float):
        self._limit, self._bytes = 1e6 * megabytes, 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """The values of those keys that have one here."""
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
            for key in found:
                self._values.move_to_end(key)
        return found

    def keep(self, values: Mapping[Key, Value]) -> None:
        with self._lock:
            for key, value in values.items():
                if key in self._values:
                    self._bytes -= _bytes_of(key, self._values.pop(key))
                self._values[key] = value
                self._bytes += _bytes_of(key, value)
            while self._bytes > self._limit:
                self._bytes -= _bytes_of(*self._values.popitem(last=False))


def _bytes_of(key: Any, value: Any) -> int:
    return _RECORD_BYTES + _size(key) + _size(value)


def _size(value: Any) -> int:
    return sys.getsizeof(value) + (sum(map(_size, value)) if isinstance(value, tuple | list) else 0)
