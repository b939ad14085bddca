"""Compiling ahead of the first step: what training will call, for every length that prompts are padded to."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from gfn_jax.experiment.experiment import Experiment
from gfn_jax.experiment.step_calls import StepCalls
from gfn_jax.experiment.train_step import TrainState
from gfn_jax.rewards.protocol import Call, Components


class WarmUp:
    """Compiles side by side, in threads, while the caller does other work; a context.

    JAX keeps what is compiled for given shapes, and the first steps find it.
    """

    def __init__(self, experiment: Experiment, state: TrainState, examples: Sequence[Any]):
        """Starts at once, on all but the updates; `examples` are those that are trained on, whose lengths matter."""
        self._lengths = experiment.buckets(examples)
        self._calls = StepCalls(
            experiment.config,
            experiment.functions,
            experiment.reward,
            state,
            experiment.frozen,
            experiment.rows.sharding,
            experiment.common_beginning,
        )
        self._started = time.perf_counter()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._compiling: list[Future[float]] = []
        self._of_rewards: Future[list[Future[float]]] | None = None
        self.add(self._calls_before_rewards())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, calls: Iterable[Call]) -> None:
        """Starts on others' functions."""
        self._compiling += [self._pool.submit(compile_ahead, call) for call in calls]

    def of_rewards(self, like: Callable[[], Components], others: Callable[[Mapping[str, Any]], Iterable[Call]]) -> None:
        """Starts on the updates, and on what `others` call, given the dtypes of a reward's components.

        Calling `like` waits for components of any batch, named and typed as a step's.
        """
        self._of_rewards = self._pool.submit(self._compile_of_rewards, like, others)

    def wait(self) -> str:
        """Waits until all is compiled, and says how much it was and how long it took, beside what the caller did."""
        compiling = self._compiling + (self._of_rewards.result() if self._of_rewards else [])
        ended = max(each.result() for each in compiling)
        return f"compiled {len(compiling)} functions in {ended - self._started:.1f} s"

    def _calls_before_rewards(self) -> Iterator[Call]:
        for length in self._lengths:
            yield self._calls.sample(length)
            yield from self._calls.rewards(length)

    def _compile_of_rewards(
        self, like: Callable[[], Components], others: Callable[[Mapping[str, Any]], Iterable[Call]]
    ) -> list[Future[float]]:
        types = {name: values.dtype for name, values in like().items()}
        calls = [*(self._calls.update(length, types) for length in self._lengths), *others(types)]
        return [self._pool.submit(compile_ahead, call) for call in calls]


def compile_ahead(call: Call) -> float:
    """Compiles what the call would; JAX keeps it for the call itself. The time (`perf_counter`) when it is done."""
    call.function.lower(*call.arguments).compile()
    return time.perf_counter()
