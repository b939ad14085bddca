"""Continuations without their padding: one behind the other, in one row for many prompts.

Layers work on each position alone, but for attention; on a packed row they do as much work as there are tokens. What
attention needs is taken apart and put together again.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from gfn_jax.models.layout import Layout

WORTH_PACKING = {"cpu": 2e10, "accelerator": 1e13}
"""FLOPs of the layers' products from which on a pass is compiled for several amounts of tokens."""

T = TypeVar("T")


class _Moves(NamedTuple):
    """Where, in its row, what each place gets comes from; a place that gets nothing is 0."""

    source: jax.Array
    is_filled: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """[rows, places there were, ..] -> [rows, places, ..]"""
        moved = jax.vmap(lambda own, source: own.at[source].get(mode="clip"))(x, self.source)
        return jnp.where(self.is_filled.reshape(*self.is_filled.shape, *[1] * (x.ndim - 2)), moved, 0)


@jax.custom_vjp
def _moved(x: jax.Array, there: _Moves, back: _Moves) -> jax.Array:
    """`there(x)`; `back` undoes it, and so is its transpose, where autodiff would add up what it scatters."""
    return there(x)


_moved.defvjp(lambda x, there, back: (there(x), back), lambda back, cotangent: (back(cotangent), None, None))


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the tokens [B, S, L] of B prompts' S continuations lie in W rows of X places, each of B / W prompts.

    Rows are of neighbouring prompts, one for each device that prompts are split over. A row is whole, with all its
    continuations' places, or has the tokens alone, in their order, and then padding.
    """

    shape: tuple[int, int, int]
    rows: int
    there: _Moves | None = None
    back: _Moves | None = None

    @classmethod
    def whole(cls, shape: tuple[int, int, int], shards: int = 1) -> "Packing":
        return cls(shape, math.gcd(shape[0], shards))

    @classmethod
    def of(cls, length: Int[Array, "B S"], longest: int, room: int, shards: int = 1) -> "Packing":
        """Rows of `room` places, which must be enough for each row's continuations of these lengths.

        What is behind them would be lost, and read as something else. A row is whole where it has room for all.
        """
        batch, samples = length.shape
        whole = cls.whole((batch, samples, longest), shards)
        if room >= length.size // whole.rows * longest:
            return whole
        length_WxR = length.reshape(whole.rows, -1)
        end_WxR = jnp.cumsum(length_WxR, axis=1)
        start_WxR, last = end_WxR - length_WxR, length_WxR.shape[1] - 1
        step, place = jnp.arange(longest)[None, None, :], jnp.arange(room)
        places = (start_WxR[..., None] + step).reshape(whole.rows, -1)
        is_token = (step < length_WxR[..., None]).reshape(whole.rows, -1)
        # The continuation whose token is at a place: the first that ends behind it.
        which_WxX = jax.vmap(lambda end_R: jnp.searchsorted(end_R, place, side="right"))(end_WxR)
        start_WxX = jnp.take_along_axis(start_WxR, jnp.minimum(which_WxX, last), axis=1)
        source = which_WxX * longest + place[None, :] - start_WxX
        return dataclasses.replace(whole, there=_Moves(source, which_WxX <= last), back=_Moves(places, is_token))

    def pack(self, x: jax.Array) -> jax.Array:
        """[B, S, L, ..] -> [W, X, ..]"""
        x = x.reshape(self.rows, -1, *x.shape[3:])
        return x if self.there is None else _moved(x, self.there, self.back)

    def unpack(self, x: jax.Array) -> jax.Array:
        """[W, X, ..] -> [B, S, L, ..], with 0 where no token is; the inverse, and the transpose, of `pack`."""
        x = x if self.there is None else _moved(x, self.back, self.there)
        return x.reshape(*self.shape, *x.shape[2:])

    def together(self, x: jax.Array) -> jax.Array:
        """What is of states, [B, S, T, ..] -> [W, U, ..]: those behind the prompts alone, then those of `pack`."""
        first = x[:, :, 0].reshape(self.rows, -1, *x.shape[3:])
        return jnp.concatenate([first, self.pack(x[:, :, 1:])], 1)

    def apart(self, x: jax.Array) -> jax.Array:
        """The inverse of `together`, with 0 at states that no continuation reaches."""
        batch, samples, _ = self.shape
        first, behind = jnp.split(x, [batch // self.rows * samples], axis=1)
        return jnp.concatenate([first.reshape(batch, samples, 1, *x.shape[2:]), self.unpack(behind)], 2)


def rooms(layer_weights: int, layout: Layout, places: int) -> tuple[int, ...]:
    """For how many tokens a pass over rows of so many places is compiled: for all that there may be.

    And for a half and a quarter, where the products with the layers' weights are many enough for that to be noticed.
    """
    if 2 * layer_weights * places * layout.shards < WORTH_PACKING["accelerator" if layout.has_few_kernels else "cpu"]:
        return (places,)
    parts = {min(-(-places // parts // 8) * 8, places) for parts in (4, 2)}
    return tuple(sorted(parts | {places}))


def in_room(compute: Callable[[int], T], rooms: Sequence[int], tokens: jax.Array) -> T:
    """`compute(room)` with the least of the rooms, which ascend, that so many tokens fit into."""
    if len(rooms) == 1:
        return compute(rooms[0])
    which = sum((tokens > room).astype(jnp.int32) for room in rooms[:-1])
    return jax.lax.switch(which, [functools.partial(compute, room) for room in rooms])
