"""Any reward, and a term of its own for how much of a sentence a continuation is.

    log R = inner log R + weight * log P(label | y ⊤)

before tempering, by a text classifier that is shown the continuation alone; without one the form decides: 0 in
place of log P where `is_sentence` holds, and else -1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gfn_jax.models.parts import Weights
from gfn_jax.rewards.addition import Addition
from gfn_jax.rewards.judging import CLASSIFIER, Judgements, JudgePool
from gfn_jax.rewards.protocol import Components, Reward, RewardContext
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.text.sentences import is_sentence
from gfn_jax.types import Prompts, Trajectories

_KEYS = ("reward.sentences.name_or_path", "reward.sentences.label")


def with_sentences(reward: Reward, context: RewardContext) -> Reward:
    """The reward, with the term where the configuration gives it a weight."""
    return SentenceReward(reward, context) if context.settings.sentences.weight else reward


class SentenceReward(Addition):
    """The reward above; it judges no text twice while its cache lasts."""

    def __init__(self, inner: Reward, context: RewardContext):
        super().__init__(inner)
        config = context.settings.sentences
        self._context, self._weight = context, config.weight
        self._pool, self._judge = None, _judge_form
        if config.name_or_path:
            self._pool = JudgePool(CLASSIFIER, config, _KEYS[0], label=config.label, keys=_KEYS)
            cache_mb = context.settings.cache_mb
            self._judge = Judgements[str](self._pool, "log_probabilities", config.batch_size, cache_mb).request

    def request(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Callable[[], Components]:
        texts = state_texts(self._context, trajectories, self.granularity)
        judged = self._judge(texts.texts)  # before the inner reward, whose own work need not wait for this
        inner = self.inner.request(frozen, examples, prompts, trajectories)

        def components() -> Components:
            found = inner()
            with self._context.stopwatch.measure("judging"):
                log_p = judged()
            return {**found, "log_sentence": texts.spread(log_p)}

        return components

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        inner = {name: values for name, values in components.items() if name != "log_sentence"}
        return self.inner.combine(inner, step) + self._weight * components["log_sentence"]

    def request_check(self, examples: Sequence[Any]) -> Callable[[], None]:
        judged = self._judge(["A model that cannot judge this sentence says why before the first step."])
        checked = super().request_check(examples)

        def wait() -> None:
            checked()
            judged()

        return wait

    def judges(self) -> Mapping[str, str]:
        own = {f"model of {_KEYS[0]}": self._pool.sha256} if self._pool else {}
        return {**super().judges(), **own}

    def close(self) -> None:
        if self._pool:
            self._pool.close()
        super().close()


def _judge_form(texts: Sequence[str]) -> Callable[[], list[float]]:
    return lambda: [0.0 if is_sentence(text) else -1.0 for text in texts]
