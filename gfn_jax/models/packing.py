"""Continuations without their padding: one behind the other, in one row for many prompts.

Layers work on each position alone, but for attention; on a packed row they do as much work as there are tokens. What
attention needs is taken apart and put together again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

WORTH_PACKING = 2e10
"""FLOPs of the layers' products from which on a pass is compiled for several amounts of tokens."""

T = TypeVar("T")


class _Moves(NamedTuple):
    """Where, in its group, what each place gets comes from; a place that gets nothing is 0."""

    source: jax.Array
    is_filled: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """[groups, places there were, ..] -> [groups, places, ..]"""
        moved = jax.vmap(lambda own, source: own.at[source].get(mode="clip"))(x, self.source)
        return jnp.where(self.is_filled.reshape(*self.is_filled.shape, *[1] * (x.ndim - 2)), moved, 0)


@jax.custom_vjp
def _moved(x: jax.Array, there: _Moves, back: _Moves) -> jax.Array:
    """`there(x)`; `back` undoes it, and so is its transpose, where autodiff would add up what it scatters."""
    return there(x)


_moved.defvjp(lambda x, there, back: (there(x), back), lambda back, cotangent: (back(cotangent), None, None))


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the tokens [B, S, L] of B prompts' S continuations lie in rows [G, Q], each of B / G prompts.

    Groups are of neighbouring prompts. A row is whole, with all its continuations' places, or has the tokens alone,
    in their order, and then padding.
    """

    shape: tuple[int, int, int]
    groups: int
    there: _Moves | None = None
    back: _Moves | None = None

    @classmethod
    def whole(cls, shape: tuple[int, int, int], groups: int = 1) -> "Packing":
        return cls(shape, groups)

    @classmethod
    def of(cls, length: Int[Array, "B S"], longest: int, room: int, groups: int = 1) -> "Packing":
        """Rows of `room` positions, which hold a group's continuations of these lengths, or more: then it is whole."""
        batch, samples = length.shape
        shape, places = (batch, samples, longest), batch // groups * samples * longest
        if room >= places:
            return cls.whole(shape, groups)
        length_GxR = length.reshape(groups, -1)
        end_GxR = jnp.cumsum(length_GxR, axis=1)
        start_GxR, last = end_GxR - length_GxR, length_GxR.shape[1] - 1
        step, position = jnp.arange(longest)[None, None, :], jnp.arange(room)[None, :]
        place = (start_GxR[..., None] + step).reshape(groups, -1)
        is_token = (step < length_GxR[..., None]).reshape(groups, -1)
        row_GxQ = (position[..., None] >= end_GxR[:, None, :]).sum(-1)  # the one whose token is there
        start_GxQ = jnp.take_along_axis(start_GxR, jnp.minimum(row_GxQ, last), axis=1)
        source = row_GxQ * longest + position - start_GxQ
        return cls(shape, groups, _Moves(source, row_GxQ <= last), _Moves(place, is_token))

    def pack(self, x: jax.Array) -> jax.Array:
        """[B, S, L, ..] -> [G, Q, ..]"""
        x = x.reshape(self.groups, -1, *x.shape[3:])
        return x if self.there is None else _moved(x, self.there, self.back)

    def unpack(self, x: jax.Array) -> jax.Array:
        """[G, Q, ..] -> [B, S, L, ..], with 0 where no token is; the inverse, and the transpose, of `pack`."""
        x = x if self.there is None else _moved(x, self.back, self.there)
        return x.reshape(*self.shape, *x.shape[2:])

    def together(self, x: jax.Array) -> jax.Array:
        """What is of states, [B, S, T, ..] -> [G, M, ..]: those behind the prompts alone, then those of `pack`."""
        first = x[:, :, 0].reshape(self.groups, -1, *x.shape[3:])
        return jnp.concatenate([first, self.pack(x[:, :, 1:])], 1)

    def apart(self, x: jax.Array) -> jax.Array:
        """The inverse of `together`, with 0 at states that no continuation reaches."""
        batch, samples, _ = self.shape
        first, behind = jnp.split(x, [batch // self.groups * samples], axis=1)
        return jnp.concatenate([first.reshape(batch, samples, 1, *x.shape[2:]), self.unpack(behind)], 2)


def rooms(layer_weights: int, places: int) -> tuple[int, ...]:
    """For how many tokens a pass over so many places is compiled: for all that there may be.

    And for a half and a quarter, where the products with the layers' weights are many enough for that to be noticed.
    """
    if 2 * layer_weights * places < WORTH_PACKING:
        return (places,)
    return (*(-(-places // parts // 8) * 8 for parts in (4, 2)), places)


def in_room(compute: Callable[[int], T], rooms: Sequence[int], tokens: jax.Array) -> T:
    """`compute(room)` with the least of the rooms, which ascend, that so many tokens fit into."""
    if len(rooms) == 1:
        return compute(rooms[0])
    which = sum((tokens > room).astype(jnp.int32) for room in rooms[:-1])
    return jax.lax.switch(which, [functools.partial(compute, room) for room in rooms])
