"""A linear layer with a low-rank adapter (Hu et al. 2022, "LoRA")."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gfn_jax.models.quantization import QuantizedKernel
from gfn_jax.types import LoRAConfig, trailing


class LoRALinear(nnx.Module):
    """y = x W + b + (alpha / R) (x A) B, over any number of input and output axes.

    W has shape [*inputs, *outputs], A [*inputs, R], B [R, *outputs]. B starts at zero, so that the
    adapted layer equals the frozen one. A and B are `nnx.LoRAParam`s of at least float32; their
    products take operands in the activations' dtype, accumulate and add up in at least float32. W
    and b are `nnx.Param`s, W of few bits with a `quantize`. Without a `lora` the layer has no adapter, and it may
    have no b.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        has_bias: bool,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        quantize: str,
        kernel_std: float,
        rngs: nnx.Rngs,
    ):
        inputs, outputs = tuple(inputs), tuple(outputs)
        self.contracted = len(inputs)
        kernel = kernel_std * jax.random.normal(rngs.params(), inputs + outputs, dtype)
        self.kernel = QuantizedKernel(kernel, self.contracted, quantize) if quantize else nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if has_bias else None
        self.scale = lora.alpha / lora.rank if lora else 0.0
        if lora is None:
            self.lora_a = self.lora_b = None
        else:
            adapter_dtype = jnp.promote_types(dtype, jnp.float32)
            bound = 1 / math.sqrt(math.prod(inputs))
            self.lora_a = nnx.LoRAParam(
                jax.random.uniform(rngs.params(), (*inputs, lora.rank), adapter_dtype, -bound, bound)
            )
            self.lora_b = nnx.LoRAParam(jnp.zeros((lora.rank, *outputs), adapter_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to the last axes of `x`."""
        kernel = self.kernel
        y = kernel(x) if isinstance(kernel, QuantizedKernel) else jnp.tensordot(x, kernel[...], self.contracted)
        if self.bias is not None:
            y += trailing(self.bias[...], y.ndim)
        if self.lora_a is not None and self.lora_b is not None:
            update = _low_rank(x, self.lora_a[...], self.lora_b[...])
            y = (y + self.scale * update).astype(x.dtype)
        return y

    def merge_adapter(self) -> None:
        """Adds the adapter to the frozen weights, unless these are the narrower ones: it would be rounded off."""
        if self.lora_a is None or self.lora_b is None or isinstance(self.kernel, QuantizedKernel):
            return
        kernel, a, b = self.kernel[...], self.lora_a[...], self.lora_b[...]
        if jnp.promote_types(kernel.dtype, a.dtype) == kernel.dtype:
            self.kernel = nnx.Param(kernel + self.scale * jnp.tensordot(a, b, 1))
            self.lora_a = self.lora_b = None


@jax.custom_vjp
def _low_rank(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """(x A) B in the adapter's dtype, over the last axes of `x` that `a` has before its rank."""
    return _low_rank_forward(x, a, b)[0]


def _low_rank_forward(x: jax.Array, a: jax.Array, b: jax.Array):
    low = jnp.tensordot(x, a.astype(x.dtype), a.ndim - 1, preferred_element_type=a.dtype).astype(x.dtype)
    return jnp.tensordot(low, b.astype(x.dtype), 1, preferred_element_type=b.dtype), (x, low, a, b)


def _low_rank_backward(kept, ct: jax.Array):
    # As by differentiation, but in the factors' gradients the narrow operand comes first: it alone is transposed.
    x, low, a, b = kept
    ct = ct.astype(x.dtype)
    rows = tuple(range(low.ndim - 1))
    outputs = tuple(range(1, b.ndim))
    ct_low = jnp.tensordot(
        ct, b.astype(x.dtype), (tuple(range(len(rows), ct.ndim)), outputs), preferred_element_type=b.dtype
    )
    ct_b = jnp.tensordot(low, ct, (rows, rows), preferred_element_type=b.dtype)
    ct_low = ct_low.astype(x.dtype)
    ct_a = jnp.tensordot(ct_low, x, (rows, rows), preferred_element_type=a.dtype)
    ct_x = jnp.tensordot(ct_low, a.astype(x.dtype), (ct_low.ndim - 1, a.ndim - 1), preferred_element_type=a.dtype)
    return ct_x.astype(x.dtype), jnp.moveaxis(ct_a, 0, -1), ct_b


_low_rank.defvjp(_low_rank_forward, _low_rank_backward)
