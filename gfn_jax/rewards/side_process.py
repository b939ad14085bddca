"""A pool of worker processes for models that are not of JAX; survives the death or the hanging of a worker.

Workers are new processes and import only what they are told to build: neither jax here, nor torch there. Those that
need no GPU are forked from one process that has imported it before them, as PyTorch alone takes seconds.
"""

import importlib
import multiprocessing
import multiprocessing.forkserver
import signal
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NamedTuple

from absl import logging
from pebble import ProcessExpired, ProcessPool

from gfn_jax.runtime.errors import TrainingError, UserError

_PRELOADED = "gfn_jax.rewards.ahead"
_CAN_FORK = sys.platform == "linux"
"""Elsewhere libraries that PyTorch stands on may not survive it."""

_model: tuple[Any, Any] | None = None  # a worker's own: what it was built from, and what was built


class _Raised(NamedTuple):
    """What a worker's model raised, as text: not every exception survives the way between processes."""

    trace: str


def _call(factory: str, settings: Mapping[str, Any], method: str, argument: Any) -> Any:
    """Runs in a worker: builds `factory(**settings)` once, then calls a method of it."""
    global _model
    recipe = (factory, dict(settings))
    try:
        if _model is None or _model[0] != recipe:
            module, _, name = factory.partition(":")
            _model = (recipe, getattr(importlib.import_module(module), name)(**settings))
        return getattr(_model[1], method)(argument)
    except UserError:
        raise
    except Exception:
        return _Raised(traceback.format_exc())


def _ignore_interrupts() -> None:
    """Runs in a worker: Ctrl-C in a terminal is for the main process, which may have a step to finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def import_ahead() -> None:
    """Begins to import what judges stand on, in the process that workers are forked from, which ends with this one."""
    if _CAN_FORK:
        multiprocessing.set_forkserver_preload([_PRELOADED])
        multiprocessing.forkserver.ensure_running()


class Job:
    """One call on its way; `result` waits for it, and has it done again where its worker failed."""

    def __init__(self, pool: "WorkerPool", method: str, argument: Any):
        self._pool, self._call = pool, (method, argument)
        self._future = pool.schedule(*self._call)

    def result(self) -> Any:
        """What the method returned.

        A `UserError` of the worker's is raised as it is; `TrainingError`, with the worker's own
        traceback, where every attempt failed.
        """
        pool = self._pool
        for attempt in range(1, pool.attempts + 1):
            try:
                result = self._future.result()
            except UserError:
                raise
            except Exception as error:  # of the pool's: the worker died, hung, or broke the pool
                fault = pool.explain(error)
            else:
                if not isinstance(result, _Raised):
                    return result
                fault = f"it raised what follows\n{result.trace.strip()}"
            pool.failures += 1
            if attempt < pool.attempts:
                logging.warning("a worker of %s failed (%s); its batch is done again", pool.factory, fault)
                self._future = pool.schedule(*self._call)
        raise TrainingError(f"a worker of {pool.factory} failed {pool.attempts} times; the last time {fault}")


class WorkerPool:
    """`workers` processes, each of which builds `factory(**settings)` ("module:name") when it is first called.

    timeout_s  seconds after which a call counts as hung; the first one of a worker includes building
    attempts   how often a call is tried before its failure is final
    is_forked  whether workers begin as copies of a process that has imported what judges stand on (`ahead.py`), which a
               GPU's driver does not survive; without, each imports it
    failures   how many attempts failed so far
    """

    def __init__(
        self,
        factory: str,
        settings: Mapping[str, Any],
        *,
        workers: int,
        timeout_s: float,
        attempts: int,
        is_forked: bool = False,
    ):
        self.factory, self.timeout_s, self.attempts, self.failures = factory, timeout_s, attempts, 0
        self._settings, self._workers = settings, workers
        self._method = "forkserver" if is_forked and _CAN_FORK else "spawn"
        self._pool = self._new_pool()

    def settings(self) -> Mapping[str, Any]:
        """What a worker builds its model from."""
        return self._settings

    def submit(self, method: str, argument: Any) -> Job:
        return Job(self, method, argument)

    def schedule(self, method: str, argument: Any) -> Any:
        """The future of a single attempt, in a new pool where the old one is broken."""
        arguments = (self.factory, self.settings(), method, argument)
        if self._method == "forkserver":
            import_ahead()
        try:
            if not self._pool.active:  # all workers died while they had nothing to do
                self.close()
                self._pool = self._new_pool()
            return self._pool.schedule(_call, args=arguments, timeout=self.timeout_s)
        except RuntimeError as error:  # no worker could be started
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def explain(self, error: Exception) -> str:
        """How an attempt failed that the worker itself could not tell of."""
        if isinstance(error, FutureTimeoutError):
            return f"it gave no answer within {self.timeout_s:g} s"
        if isinstance(error, ProcessExpired):
            return f"it died with exit code {error.exitcode}"
        return f"the pool broke: {error!r}"

    def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        self._pool.stop()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        context: Any = multiprocessing.get_context(self._method)
        return ProcessPool(max_workers=self._workers, initializer=_ignore_interrupts, context=context)
