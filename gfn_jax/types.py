"""The axis letters, and the frozen structs that everything passes on.

    B  prompts in a step            P  prompt tokens, padded to a bucket
    S  samples for each prompt      L  most tokens in a continuation
    N  trajectories, B x S,         T  states of a trajectory, L + 1: the empty continuation,
       prompt-major                    then one for each token
    V  vocabulary (padded)          D  width
    H  heads                        K  head width
    R  LoRA rank
    W  rows of packed trajectories, X  places for tokens in one,
       one for each device         U  for states, S more for each prompt
    Z  samples of a prompt that are    Y  those that go on when others have ended
       decoded at once

An array's name ends in its axes: `log_pf_NxL`. ⊤ is the terminator token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from flax import struct
from jaxtyping import Array, Bool, Float, Int, jaxtyped

checked = jaxtyped(typechecker=beartype)
"""Decorates public boundaries: a wrong shape or dtype is refused while tracing, at no cost later."""


def trailing(x: jax.Array, ndim: int) -> jax.Array:
    """`x` as the last of `ndim` axes, for broadcasting that is asked for and not implied."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


@struct.dataclass
class Prompts:
    """Token rows padded on the right; what stands behind a row's length is never read.

    All rows begin with the tokens of `beginning`, and each has more: models encode these once for all rows.
    """

    tokens_BxP: Int[Array, "B P"]
    length_B: Int[Array, " B"]
    beginning: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def is_token_BxP(self) -> jax.Array:  # noqa: N802 (its axes)
        """What is no padding."""
        return jnp.arange(self.tokens_BxP.shape[1])[None, :] < self.length_B[:, None]

    def visible_from(self, positions_BxQ: jax.Array, window: int | None) -> jax.Array:
        """Which prompt tokens queries behind the prompt see, [B, Q, P]; without a window one row for all queries.

        A query sees itself and the `window` - 1 positions before it.
        """
        if window is None:
            return self.is_token_BxP[:, None, :]
        is_near = positions_BxQ[:, :, None] - jnp.arange(self.tokens_BxP.shape[1])[None, None, :] < window
        return self.is_token_BxP[:, None, :] & is_near

    @classmethod
    def shapes(cls, batch: int, length: int, sharding: jax.sharding.Sharding, beginning: tuple[int, ...] = ()) -> Any:
        """Prompts without values, to compile for."""
        lengths: Any = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding)
        tokens: Any = lengths.update(shape=(batch, length))
        return cls(tokens, lengths, beginning)


@struct.dataclass
class Trajectories:
    """Continuations without their terminator, padded on the right with token 0.

    `length_N` counts the tokens before ⊤, so a trajectory visits the states 0 to `length_N` and
    stops at the last of them. `is_terminable_NxT` marks the visited states where it might have
    stopped: these alone have a reward.
    """

    tokens_NxL: Int[Array, "N L"]
    length_N: Int[Array, " N"]
    is_terminable_NxT: Bool[Array, "N T"]

    @classmethod
    def shapes(cls, rows: int, length: int, sharding: jax.sharding.Sharding) -> Any:
        """Trajectories without values, to compile for."""
        lengths: Any = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=sharding)
        tokens, mask = lengths.update(shape=(rows, length)), lengths.update(shape=(rows, length + 1), dtype=jnp.bool)
        return cls(tokens, lengths, mask)

    @classmethod
    def given(cls, tokens_NxL: jax.Array, length_N: jax.Array) -> "Trajectories":
        """Continuations from elsewhere, terminable wherever the policy's masks will allow it."""
        states = jnp.arange(tokens_NxL.shape[1] + 1)
        return cls(tokens_NxL, length_N, states[None, :] <= length_N[:, None])

    def rewarded_whole(self) -> "Trajectories":
        """The same, with a reward where they end and nowhere before."""
        states = jnp.arange(self.tokens_NxL.shape[1] + 1)
        return Trajectories(self.tokens_NxL, self.length_N, states[None, :] == self.length_N[:, None])


@struct.dataclass
class Scores:
    """The policy's log-probabilities along trajectories; 0 at states that are not reached.

    log_pf_NxL[t]       = log π(y_{t+1} | s_t)
    log_pterm_NxT[t]    = log π(⊤ | s_t), exactly 0 at the maximum length
    is_terminable_NxT[t]  the trajectory got to s_t and may stop there
    """

    log_pf_NxL: Float[Array, "N L"]
    log_pterm_NxT: Float[Array, "N T"]
    is_terminable_NxT: Bool[Array, "N T"]

    @classmethod
    def shapes(cls, rows: int, length: int, dtype: jnp.dtype, sharding: jax.sharding.Sharding) -> Any:
        """Scores without values, of a model that computes in a dtype, to compile for."""
        wide = jnp.promote_types(dtype, jnp.float32)
        tokens: Any = jax.ShapeDtypeStruct((rows, length), wide, sharding=sharding)
        states = tokens.update(shape=(rows, length + 1))
        return cls(tokens, states, states.update(dtype=jnp.bool))


@struct.dataclass
class LoRAConfig:
    """Rank, alpha (the update is scaled by alpha / rank) and the names of the adapted layers."""

    rank: int = struct.field(pytree_node=False)
    alpha: float = struct.field(pytree_node=False)
    targets: tuple[str, ...] = struct.field(pytree_node=False)
