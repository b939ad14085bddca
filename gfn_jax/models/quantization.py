"""Frozen kernels in fewer bits, by qwix: 8-bit integers, or the 4-bit NormalFloats of QLoRA (Dettmers et al. 2023).

Of a group of weights with a scale of their own, whose largest magnitude is M, none changes by more than
`ERROR_BOUNDS[method]` M, and where activations are bfloat16 by the rounding to it, 2^-9 M, on top:

    int8  a group is what one output reads; M / 255, half a step of M / 127.5
    nf4   a group is up to 64 of these weights; 0.152 M, half the widest gap between two of the 16 values

Computation stays in the activations' dtype: a kernel is put together again where, and each time that, it is
used. Embeddings, norms and biases are not quantised.
"""

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

ERROR_BOUNDS = {"int8": 1 / 255, "nf4": 0.152}
LARGEST_TILE = 64
_QTYPES = {"int8": jnp.int8, "nf4": "nf4"}


class QuantizedKernel(nnx.Module):
    """A kernel [*inputs, *outputs], of which the first `contracted` axes are inputs."""

    def __init__(self, kernel: jax.Array, contracted: int, method: str):
        parts = quantize(kernel, contracted, method)
        self.qvalue, self.scale = nnx.Param(parts["qvalue"]), nnx.Param(parts["scale"])
        self.contracted, self.method = contracted, method

    def __call__(self, x: jax.Array) -> jax.Array:
        """The product of the last axes of `x` with the kernel."""

        def product(x: jax.Array, qvalue: jax.Array, scale: jax.Array) -> jax.Array:
            return jnp.tensordot(x, _dequantized(qvalue, scale, self.method).astype(x.dtype), self.contracted)

        # The backward pass puts the kernel together once more, or all layers' whole kernels were kept for it.
        return jax.checkpoint(product)(x, self.qvalue[...], self.scale[...])


def quantize(kernel: jax.Array, contracted: int, method: str) -> dict[str, jax.Array]:
    """The values in few bits, shaped as the kernel, and their scales, of at least float32."""
    axes, last_input = range(kernel.ndim), contracted - 1
    if method == "nf4":
        tiles = {last_input: _tile(kernel.shape[last_input])}
        channels = [axis for axis in axes if axis != last_input]
    else:
        tiles, channels = {}, list(axes[contracted:])
    scale_dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    quantized = qwix.quantize(
        kernel, _QTYPES[method], channelwise_axes=channels, tiled_axes=tiles, scale_dtype=scale_dtype
    )
    return {"qvalue": quantized.qvalue, "scale": quantized.scale}


def quantize_stack(kernels: jax.Array, contracted: int, method: str) -> dict[str, jax.Array]:
    """`quantize` for the kernels [layers, *inputs, *outputs] of all layers, one after the other."""
    return jax.lax.map(lambda kernel: quantize(kernel, contracted, method), kernels)


def dequantize_stack(parts: dict[str, jax.Array], method: str) -> jax.Array:
    """The kernels [layers, *inputs, *outputs] that these parts stand for."""
    return jax.vmap(lambda qvalue, scale: _dequantized(qvalue, scale, method))(parts["qvalue"], parts["scale"])


def _dequantized(qvalue: jax.Array, scale: jax.Array, method: str) -> jax.Array:
    return qwix.dequantize(qwix.QArray(qvalue, scale, qtype=_QTYPES[method]))


def _tile(size: int) -> int:
    """The largest divisor up to `LARGEST_TILE`."""
    return max(tile for tile in range(1, LARGEST_TILE + 1) if size % tile == 0)
