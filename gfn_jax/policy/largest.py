"""The largest of many numbers, and where they are."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfn_jax.types import checked

_SELECTED = 16
"""As many as XLA has a kernel for GPUs to select; for more it sorts all numbers."""
_SORTED = 16
"""Of so many times k numbers all are sorted."""


@checked
def largest(x: Float[Array, "B N"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """`jax.lax.top_k` of rows, largest first and of equal ones the first; of many numbers only parts are sorted.

    The numbers are split into parts. What lies outside of the k parts with the largest maxima comes behind k numbers,
    those maxima, and so is not among the k largest: first these parts are found, then the largest within them. To sort
    two million numbers is a program that the compiler for NVIDIA's GPUs does not finish in 20 GB.
    """
    batch, size = x.shape
    if k <= _SELECTED or size <= _SORTED * k:
        values, found = jax.lax.top_k(x, k)
        return values, found
    part = math.isqrt(size // k)
    parts = -(-size // part)
    padded = jnp.pad(x, ((0, 0), (0, parts * part - size)), constant_values=-jnp.inf)
    split = padded.reshape(batch, parts, part)
    _, chosen = largest(split.max(-1), k)
    chosen = jnp.sort(chosen, -1)  # so that of equal numbers the first comes first
    within = jnp.take_along_axis(split, chosen[..., None], 1).reshape(batch, -1)
    values, found = largest(within, k)
    return values, jnp.take_along_axis(chosen, found // part, 1) * part + found % part
