"""A step's batch: what the policy drew for it and, in a fixed share of the rows, what it remembers."""

import jax
import jax.numpy as jnp
from flax import struct

from gfn_jax.rewards.protocol import Components
from gfn_jax.types import Trajectories


@struct.dataclass
class Replayed:
    """Remembered trajectories with their components, prompt-major; `is_absent_N` marks rows that hold nothing."""

    trajectories: Trajectories
    components: Components
    is_absent_N: jax.Array


@struct.dataclass
class Batch:
    """Prompt-major rows, for each prompt the fresh ones first; an absent row takes no part in anything."""

    trajectories: Trajectories
    components: Components
    is_fresh_N: jax.Array
    is_absent_N: jax.Array


def join(trajectories: Trajectories, components: Components, replayed: Replayed | None, prompts: int) -> Batch:
    """Fresh and remembered rows as one batch."""
    rows = len(trajectories.length_N)
    yes, no = jnp.ones(rows, bool), jnp.zeros(rows, bool)
    fresh = Batch(trajectories, dict(components), yes, no)
    if replayed is None:
        return fresh
    is_fresh_N = jnp.zeros(len(replayed.trajectories.length_N), bool)
    again = Batch(replayed.trajectories, dict(replayed.components), is_fresh_N, replayed.is_absent_N)

    def beside(new, old):
        """[prompts * some, ..] and [prompts * others, ..] -> [prompts * (some + others), ..]"""
        by_prompt = [x.reshape(prompts, -1, *x.shape[1:]) for x in (new, old)]
        return jnp.concatenate(by_prompt, 1).reshape(-1, *new.shape[1:])

    return jax.tree.map(beside, fresh, again)
