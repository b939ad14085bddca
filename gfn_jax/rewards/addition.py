"""Rewards that add something to another one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gfn_jax.models.parts import Weights
from gfn_jax.rewards.protocol import Call, Reward
from gfn_jax.types import Prompts, Trajectories


class Addition(Reward):
    """What is added to an `inner` reward; all that is not overridden is the inner one's, which it takes over."""

    def __init__(self, inner: Reward):
        self.inner, self.granularity = inner, inner.granularity
        self.gives_log_likelihood = inner.gives_log_likelihood

    def request_check(self, examples: Sequence[Any]) -> Callable[[], None]:
        checked = self.inner.request_check(examples)

        def wait() -> None:
            checked()
            self.check(examples)

        return wait

    def to_compile(self, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Sequence[Call]:
        return self.inner.to_compile(frozen, prompts, trajectories)

    def explain(self, frozen: Weights, examples: Sequence[Any], texts: Sequence[str]) -> list[dict[str, Any]]:
        return self.inner.explain(frozen, examples, texts)

    def judges(self) -> Mapping[str, str]:
        return self.inner.judges()

    def close(self) -> None:
        self.inner.close()
