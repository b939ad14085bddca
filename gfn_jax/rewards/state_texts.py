"""The texts that a trajectory's states stand for, and back from values of texts to values of states."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.types import Trajectories


@dataclasses.dataclass(frozen=True)
class StateTexts:
    """M texts of this process's rows, each with the row and the state that it belongs to, and if the row ends there.

    A text is the continuation up to its state and the terminator, without white space around it.
    """

    rows_M: np.ndarray
    states_M: np.ndarray
    is_last_M: np.ndarray
    texts: list[str]
    shape: tuple[int, int]
    place: Callable[[np.ndarray], jax.Array]

    def spread(self, values: Sequence[float]) -> jax.Array:
        """Values of the M texts, and those of the other processes' texts, as [N, T]; 0 at the other states."""
        spread = np.zeros(self.shape, jnp.zeros(()).dtype)
        spread[self.rows_M, self.states_M] = values
        return self.place(spread)


def state_texts(
    context: RewardContext, trajectories: Trajectories, granularity: Literal["prefix", "terminal"]
) -> StateTexts:
    """The texts of all states that have a reward: the terminable ones, or with "terminal" only the last of them."""
    own = context.rows.fetch(trajectories)
    tokens, lengths, is_needed = own.tokens_NxL, own.length_N, np.array(own.is_terminable_NxT)
    if granularity == "terminal":
        is_needed &= np.arange(is_needed.shape[1]) == lengths[:, None]
    rows, states = np.nonzero(is_needed)
    ids = [[*tokens[row, :state].tolist(), context.terminator] for row, state in zip(rows, states, strict=True)]
    texts = [text.strip() for text in context.tokenizer.decode_batch(ids)]
    return StateTexts(rows, states, states == lengths[rows], texts, is_needed.shape, context.rows.place)
