"""Any reward, and what a user's own function says of the texts.

    log R = inner log R + sum over terms of weight * term(prompt, y ⊤)

before tempering. The inner reward is the task's: the frozen model's likelihood, for one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gfn_jax.models.parts import Weights
from gfn_jax.rewards.addition import Addition
from gfn_jax.rewards.judging import Judgements
from gfn_jax.rewards.protocol import Components, Reward, RewardContext
from gfn_jax.rewards.side_process import WorkerPool
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.rewards.user_function import KEY, Terms, UserFunction, content_sha256, find_function
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts, Trajectories


def with_function(reward: Reward, context: RewardContext) -> Reward:
    """The reward, with the terms of the function that the configuration names, or that the context has."""
    return FunctionReward(reward, context) if context.settings.function.name else reward


class FunctionReward(Addition):
    """The reward above; no pair of prompt and text is asked about twice while the cache lasts."""

    def __init__(self, inner: Reward, context: RewardContext):
        super().__init__(inner)
        config = context.settings.function
        self._context, self._weights = context, config.weights
        if config.granularity == "terminal":
            self.granularity = "terminal"
        self._function = context.function or find_function(config.name)
        if config.workers:
            limits = {"workers": config.workers, "timeout_s": config.timeout_s, "attempts": config.attempts}
            self._pool = WorkerPool("gfn_jax.rewards.user_function:UserFunction", {"name": config.name}, **limits)
        else:
            self._pool = _Here(UserFunction(config.name, self._function))
        self._judge = Judgements[tuple[str, str]](self._pool, "terms", config.batch_size, context.settings.cache_mb)
        self._names: tuple[str, ...] = ()

    def request(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Callable[[], Components]:
        states = state_texts(self._context, trajectories, self.granularity)
        per_prompt = states.shape[0] // len(examples)
        of_examples = [self._context.prompt(example) for example in examples]
        asked = [(of_examples[row // per_prompt], text) for row, text in zip(states.rows_M, states.texts, strict=True)]
        judged = self._judge.request(asked)
        inner = self.inner.request(frozen, examples, prompts, trajectories)

        def components() -> Components:
            found = inner()
            with self._context.stopwatch.measure("judging"):
                terms: list[Terms] = judged()
            self._check_names(terms, found)
            columns = {name: [_value(each, name) for each in terms] for name in self._names}
            return {**found, **{name: states.spread(values) for name, values in columns.items()}}

        return components

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        own = components.keys() & set(self._names)
        log_r = self.inner.combine({name: components[name] for name in components if name not in own}, step)
        for name in self._names:
            log_r = log_r + self._weights.get(name, 1.0) * components[name]
        return log_r

    def judges(self) -> Mapping[str, str]:
        return {**super().judges(), f"function of {KEY}": content_sha256(self._function)}

    def close(self) -> None:
        self._pool.close()
        super().close()

    def _check_names(self, terms: Sequence[Terms], inner: Components) -> None:
        """Learns the terms' names from the first batch; raises `UserError` where a later one has others."""
        for each in terms:
            names = tuple(name for name, _ in each) if each is not None else self._names
            if names == self._names:
                continue
            if self._names:
                raise UserError(
                    f"{KEY}: the function returned the terms {', '.join(names)}, and before {', '.join(self._names)}"
                )
            if both := sorted(inner.keys() & set(names)):
                raise UserError(f"{KEY}: the task's own reward has a term {both[0]!r} too: give yours another name")
            if strange := sorted(self._weights.keys() - set(names)):
                raise UserError(
                    f"reward.function.weights: the function returns no term {strange[0]!r}; "
                    f"it returns {', '.join(names)}"
                )
            self._names = names
        if not self._names and terms:
            raise UserError(f"{KEY}: the function raised on every text of the first batch; its traceback stands above")


class _Here:
    """The function in this process, called when its answer is waited for."""

    def __init__(self, function: UserFunction):
        self._function = function

    def submit(self, method: str, argument: Any) -> "_Waiting":
        return _Waiting(getattr(self._function, method), argument)

    def close(self) -> None:
        """Nothing was started."""


class _Waiting:
    def __init__(self, call: Callable[[Any], Any], argument: Any):
        self._call, self._argument = call, argument
        self._answer: list[Any] = []

    def result(self) -> Any:
        if not self._answer:
            self._answer.append(self._call(self._argument))
        return self._answer[0]


def _value(terms: Terms, name: str) -> float:
    return float("nan") if terms is None else dict(terms)[name]
