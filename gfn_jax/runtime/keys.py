"""Random keys: one independent stream for each purpose, all from the run's seed."""

import enum

import jax


class Purpose(enum.IntEnum):
    ADAPTER = 0
    FROZEN_WEIGHTS = 1
    TRAINING = 2
    VALIDATION_POLICY = 3
    VALIDATION_FROZEN = 4
    SAMPLING = 5
    REFERENCE = 6
    REPLAY = 7
    EVALUATION = 8


def key_for(seed: int, purpose: Purpose, index: int | jax.Array = 0) -> jax.Array:
    """The key of a purpose's `index`-th draw: an optimiser step, a batch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)
