"""SIGTERM and SIGINT as a wish to stop after the step that is running."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

_SAME_WISH_S = 1.0


class Interruption:
    """A context in which the first signal is noted, and a later one acts as it would anywhere.

    Not one within a second of the first: a wish may come twice, from a terminal and from a launcher.
    A signal that is ignored, as under nohup, stays so.
    """

    def __init__(self) -> None:
        self.requested = ""
        """The name of the signal that came, if one did."""
        self._came = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._came > _SAME_WISH_S:
            self._restore()
            signal.raise_signal(number)
        elif not self.requested:
            self.requested, self._came = signal.Signals(number).name, time.monotonic()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
