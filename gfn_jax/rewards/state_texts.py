"""The texts that a trajectory's states stand for, and back from values of texts to values of states."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.types import Trajectories


@dataclasses.dataclass(frozen=True)
class StateTexts:
    """M texts, each with the trajectory (row) and the state that it belongs to.

    A text is the continuation up to its state and the terminator, without white space around it.
    """

    rows_M: np.ndarray
    states_M: np.ndarray
    texts: list[str]
    shape: tuple[int, int]

    def spread(self, values: Sequence[float]) -> jax.Array:
        """Values of the M texts as [N, T], 0 at the other states."""
        spread = np.zeros(self.shape, jnp.zeros(()).dtype)
        spread[self.rows_M, self.states_M] = values
        return jnp.asarray(spread)


def state_texts(
    tokenizer: Tokenizer, terminator: int, trajectories: Trajectories, granularity: Literal["prefix", "terminal"]
) -> StateTexts:
    """The texts of all states that have a reward: the terminable ones, or with "terminal" only the last of them."""
    tokens, lengths, is_needed = (
        np.array(x) for x in (trajectories.tokens_NxL, trajectories.length_N, trajectories.is_terminable_NxT)
    )
    if granularity == "terminal":
        is_needed &= np.arange(is_needed.shape[1]) == lengths[:, None]
    rows, states = np.nonzero(is_needed)
    ids = [[*tokens[row, :state].tolist(), terminator] for row, state in zip(rows, states, strict=True)]
    return StateTexts(rows, states, [text.strip() for text in tokenizer.decode_batch(ids)], is_needed.shape)
