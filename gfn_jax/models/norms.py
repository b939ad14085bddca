"""Normalisation over the last axis, computed in at least float32."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from gfn_jax.types import trailing


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1, then a scale and a bias (Ba et al. 2016)."""

    TENSORS: ClassVar = (("weight", "scale"), ("bias", "bias"))  # Hugging Face's name, and ours

    def __init__(self, width: int, epsilon: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        normed = (wide - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return normed.astype(x.dtype) * trailing(self.scale[...], x.ndim) + trailing(self.bias[...], x.ndim)


class RMSNorm(nnx.Module):
    """Root mean square 1, then a scale (Zhang and Sennrich 2019), which is the weight and an `offset`.

    With an offset the product is computed before it is rounded to the activations' dtype, without one after it:
    as the models that have the one and the other were trained.
    """

    TENSORS: ClassVar = (("weight", "scale"),)

    def __init__(self, width: int, epsilon: float, offset: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.full(width, 1 - offset, dtype))
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        scale = trailing(self.scale[...], x.ndim)
        if self.offset:
            return (normed * (self.offset + scale.astype(wide.dtype))).astype(x.dtype)
        return normed.astype(x.dtype) * scale
