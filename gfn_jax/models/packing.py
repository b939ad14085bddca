"""Prompts and continuations without their padding: one behind the other, in one row for many prompts.

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
import numpy as np
from jaxtyping import Array, Int

from gfn_jax.models.layout import Layout
from gfn_jax.types import Prompts

WORTH_PACKING = {"cpu": 2e10, "accelerator": 1e13}
"""FLOPs of the layers' products from which on a pass is compiled for rows of several lengths."""

SHORTER = {"cpu": (0.2, 0.3, 0.45, 0.67), "accelerator": (0.2, 0.45)}
"""For rows of these shares of all places, too, it is compiled then; for accelerators that takes longer."""

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
    """How B prompts' tokens [B, Q] behind their beginning, and those of S continuations of each [B, S, L], lie in rows.

    There are W rows of X places, each of B / W neighbouring prompts, one for each device that prompts are split over.
    A row has the tokens of its continuations, then those of its prompts, in their order: all their places, or, where
    there is less room, no padding but behind them. J texts are in a row, which has I places if it is whole.

    shape  B, Q, S and L
    rows   W
    moves  from whole rows into those of less room, and back; None where rows are whole
    """

    shape: tuple[int, int, int, int]
    rows: int
    moves: tuple[_Moves, _Moves] | None = None

    @classmethod
    def whole(cls, prompts: Prompts, samples: int, longest: int, shards: int = 1) -> "Packing":
        batch, length = prompts.tokens_BxP.shape
        return cls((batch, length - len(prompts.beginning), samples, longest), math.gcd(batch, shards))

    @classmethod
    def of(cls, prompts: Prompts, length: Int[Array, "B S"], longest: int, room: int, shards: int = 1) -> "Packing":
        """Rows of `room` places, which must be as many as `room_for` says, or all.

        With less some tokens would be lost, and others read as theirs. A row is whole where it has room for all.
        """
        whole = cls.whole(prompts, length.shape[1], longest, shards)
        if room >= whole.places:
            return whole
        length_WxJ = jnp.concatenate(whole._of_rows(prompts, length), 1)
        end_WxJ = jnp.cumsum(length_WxJ, axis=1)
        start_WxJ, last = end_WxJ - length_WxJ, length_WxJ.shape[1] - 1
        # Where each text begins in a whole row.
        batch, queries, samples, _ = whole.shape
        widths = [longest] * (batch // whole.rows * samples) + [queries] * (batch // whole.rows)
        begins_J = np.cumsum([0, *widths[:-1]])
        text_I = np.repeat(np.arange(len(widths)), widths)
        step_I = np.arange(len(text_I)) - begins_J[text_I]
        is_token = jnp.asarray(step_I)[None, :] < length_WxJ[:, text_I]
        back = _Moves(start_WxJ[:, text_I] + step_I[None, :], is_token)
        # The text whose token is at a place: the first that ends behind it.
        which_WxX = jax.vmap(lambda end_J: jnp.searchsorted(end_J, jnp.arange(room), side="right"))(end_WxJ)
        found = jnp.minimum(which_WxX, last)
        step_WxX = jnp.arange(room)[None, :] - jnp.take_along_axis(start_WxJ, found, axis=1)
        there = _Moves(jnp.asarray(begins_J)[found] + step_WxX, which_WxX <= last)
        return dataclasses.replace(whole, moves=(there, back))

    def _of_rows(self, prompts: Prompts, length_BxS: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The lengths [W, texts] of a row's continuations, and those of its prompts, behind the beginning."""
        of_prompts = prompts.length_B - len(prompts.beginning)
        return length_BxS.reshape(self.rows, -1), of_prompts.reshape(self.rows, -1)

    def room_for(self, prompts: Prompts, length: Int[Array, "B S"]) -> Int[Array, ""]:
        """The places that rows need for such texts: those of the row with most tokens.

        Continuations' places are the first of a row but for `least` of them, which are taken to be of prompts however
        short these are: so the read-out knows of fewer places.
        """
        own, of_prompts = self._of_rows(prompts, length)
        return (own.sum(1) + jnp.maximum(of_prompts.sum(1), self.least)).max()

    @property
    def places(self) -> int:
        """Of a row with all padding."""
        return self._prompt_places + self._own_places

    @property
    def _own_places(self) -> int:
        """Those of continuations in such a row."""
        batch, _, samples, longest = self.shape
        return batch // self.rows * samples * longest

    @property
    def _prompt_places(self) -> int:
        batch, queries, _, _ = self.shape
        return batch // self.rows * queries

    @property
    def least(self) -> int:
        """Places of a row that none of its continuations is in, where it is not whole."""
        return self._prompt_places // 2 if self._own_places else 0

    @property
    def _most_own(self) -> int:
        """Places of a row that continuations may be in: the first ones."""
        if self.moves is None:
            return self._own_places
        return min(self._own_places, self.moves[0].source.shape[1] - self.least)

    def pack(self, of_prompts: jax.Array, of_tokens: jax.Array) -> jax.Array:
        """[B, Q, ..] and [B, S, L, ..] -> [W, X, ..]"""
        tokens = of_tokens.reshape(self.rows, self._own_places, *of_tokens.shape[3:])
        x = jnp.concatenate([tokens, of_prompts.reshape(self.rows, -1, *of_prompts.shape[2:])], 1)
        return x if self.moves is None else _moved(x, *self.moves)

    def unpack(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[W, X, ..] -> [B, Q, ..] and [B, S, L, ..]; the inverse, and the transpose.

        Where no token is, there is 0, or of whole rows what their padding came to.
        """
        x = x if self.moves is None else _moved(x, *reversed(self.moves))
        batch, queries, samples, longest = self.shape
        of_tokens, of_prompts = jnp.split(x, [self._own_places], axis=1)
        tokens = of_tokens.reshape(batch, samples, longest, *x.shape[2:])
        return of_prompts.reshape(batch, queries, *x.shape[2:]), tokens

    def together(self, x: jax.Array) -> jax.Array:
        """What is of states, [B, S, T, ..] -> [W, U, ..]: those behind the prompts alone, then those behind tokens."""
        first, behind = (part.reshape(self.rows, -1, *x.shape[3:]) for part in (x[:, :, 0], x[:, :, 1:]))
        moves = self._of_states
        return jnp.concatenate([first, behind if moves is None else _moved(behind, *moves)], 1)

    def states(self, of_prompts_last: jax.Array, x: jax.Array) -> jax.Array:
        """Of states as `together` has them, from what prompts end with [B, ..] and from rows [W, X, ..]."""
        batch, _, samples, _ = self.shape
        first = jnp.broadcast_to(of_prompts_last[:, None], (batch, samples, *of_prompts_last.shape[1:]))
        return jnp.concatenate([first.reshape(self.rows, -1, *x.shape[2:]), x[:, : self._most_own]], 1)

    def apart(self, x: jax.Array) -> jax.Array:
        """The inverse of `together`, at states that no continuation reaches as `unpack` is at padding."""
        batch, _, samples, longest = self.shape
        first, behind = jnp.split(x, [batch // self.rows * samples], axis=1)
        if (moves := self._of_states) is not None:
            behind = _moved(behind, *reversed(moves))
        whole = behind.reshape(batch, samples, longest, *x.shape[2:])
        return jnp.concatenate([first.reshape(batch, samples, 1, *x.shape[2:]), whole], 2)

    @property
    def _of_states(self) -> tuple[_Moves, _Moves] | None:
        """How continuations' tokens get into their part of a row, which they have alone or share, and out of it."""
        if self.moves is None:
            return None
        (source, is_filled), back = self.moves
        own, most = self._own_places, self._most_own
        there = _Moves(source[:, :most], is_filled[:, :most] & (source[:, :most] < own))
        return there, _Moves(back.source[:, :own], back.is_filled[:, :own])


def rooms(layer_weights: int, layout: Layout, whole: Packing) -> tuple[int, ...]:
    """For how long rows a pass is compiled: for whole ones.

    And for shorter ones, where a device's products with the layers' weights are many enough for that to be noticed.
    """
    kind, places = "accelerator" if layout.has_few_kernels else "cpu", whole.places
    if 2 * layer_weights * places < WORTH_PACKING[kind]:
        return (places,)
    shorter = {8 * math.ceil(share * places / 8) for share in SHORTER[kind]}
    return (*sorted(room for room in shorter if whole.least < room < places), places)


def in_room(compute: Callable[[int], T], rooms: Sequence[int], needed: jax.Array) -> T:
    """`compute(room)` with the least of the rooms, which ascend, that is as large as needed."""
    if len(rooms) == 1:
        return compute(rooms[0])
    which = sum((needed > room).astype(jnp.int32) for room in rooms[:-1])
    return jax.lax.switch(which, [functools.partial(compute, room) for room in rooms])
