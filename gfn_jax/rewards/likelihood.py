"""The frozen model's likelihood of a continuation, as a reward at every prefix.

For every terminable prefix y of a continuation:

    log R = likelihood_weight * log p_frozen(y ⊤ | prompt)

before tempering.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.parts import Weights
from gfn_jax.policy.scorer import frozen_log_probs
from gfn_jax.rewards.protocol import Call, Components, Reward, RewardContext
from gfn_jax.types import Prompts, Trajectories, checked


@checked
def log_likelihood(
    frozen: LanguageModel, prompts: Prompts, trajectories: Trajectories, terminator: int
) -> Float[Array, "N T"]:
    """log p_frozen(y_1 .. y_t ⊤ | prompt) for every prefix t that a trajectory reaches.

    What stands behind a trajectory's stop is never scored.
    """
    log_p_NxL, log_pterm_NxT = frozen_log_probs(frozen, prompts, trajectories, terminator)
    return jnp.pad(jnp.cumsum(log_p_NxL, axis=1), [(0, 0), (1, 0)]) + log_pterm_NxT


def make_log_likelihood(context: RewardContext) -> Callable[..., jax.Array]:
    """`log_likelihood` compiled, as a function of the frozen weights, prompts and trajectories."""

    def compute(frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> jax.Array:
        return log_likelihood(context.structure.frozen(frozen), prompts, trajectories, context.terminator)

    return jax.jit(compute, out_shardings=context.rows.sharding)


class LikelihoodReward(Reward):
    """The reward above; nothing but the frozen model is asked."""

    gives_log_likelihood = True

    def __init__(self, context: RewardContext):
        self.granularity = context.settings.granularity
        self._weight = context.settings.likelihood_weight
        self._log_likelihood = make_log_likelihood(context)

    def components(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Components:
        return {"log_likelihood": self._log_likelihood(frozen, prompts, trajectories)}

    def to_compile(self, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Sequence[Call]:
        return [Call(self._log_likelihood, (frozen, prompts, trajectories))]

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        return self._weight * components["log_likelihood"]
