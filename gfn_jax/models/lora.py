"""A linear layer with a low-rank adapter (Hu et al. 2022, "LoRA")."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gfn_jax.types import LoRAConfig, trailing


class LoRALinear(nnx.Module):
    """y = x W + b + (alpha / R) (x A) B, over any number of input and output axes.

    W has shape [*inputs, *outputs], A [*inputs, R], B [R, *outputs]. B starts at zero, so that the
    adapted layer equals the frozen one. A and B are `nnx.LoRAParam`s of at least float32; their
    products take operands in the activations' dtype, accumulate and add up in at least float32. W
    and b are `nnx.Param`s. Without a `lora` the layer has no adapter.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        kernel_std: float,
        rngs: nnx.Rngs,
    ):
        inputs, outputs = tuple(inputs), tuple(outputs)
        self.contracted = len(inputs)
        self.kernel = nnx.Param(kernel_std * jax.random.normal(rngs.params(), inputs + outputs, dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, dtype))
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
        y = jnp.tensordot(x, self.kernel[...], self.contracted)
        y += trailing(self.bias[...], y.ndim)
        if self.lora_a is not None and self.lora_b is not None:
            a, b = self.lora_a[...], self.lora_b[...]
            low_rank = jnp.tensordot(x, a.astype(x.dtype), self.contracted, preferred_element_type=a.dtype)
            update = jnp.tensordot(low_rank.astype(x.dtype), b.astype(x.dtype), 1, preferred_element_type=b.dtype)
            y = (y + self.scale * update).astype(x.dtype)
        return y
