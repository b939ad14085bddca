"""A linear layer with a low-rank adapter (Hu et al. 2022, "LoRA")."""

import functools
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
    products take operands in the activations' dtype, accumulate and add up in at least float32. Where that loses
    no precision and there are rows enough, x (W + (alpha / R) A B) is computed instead, which is less work. W
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
        self.contracted, self.outputs = len(inputs), outputs
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
        if self.lora_a is None and self.lora_b is not None:
            return self.of_columns(jnp.tensordot(x, self.columns, self.contracted))
        y = self._product(x)
        return y if self.bias is None else y + trailing(self.bias[...], y.ndim)

    def _product(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel
        if self.lora_a is None or self.lora_b is None:
            return kernel(x) if isinstance(kernel, QuantizedKernel) else jnp.tensordot(x, kernel[...], self.contracted)
        a, b = self.lora_a[...], self.lora_b[...]
        if isinstance(kernel, QuantizedKernel):
            return (kernel(x) + self.scale * _low_rank(x, a, b)).astype(x.dtype)
        kernel = kernel[...]
        if _is_as_wide(kernel, a) and _is_less_work_merged(x, a, b):
            return _merged(x, kernel, a, b, self.scale)
        return (jnp.tensordot(x, kernel, self.contracted) + self.scale * _low_rank(x, a, b)).astype(x.dtype)

    @property
    def columns(self) -> jax.Array:
        """What a layer that was set for decoding multiplies its inputs by, [*inputs, columns]: W, or [W A]."""
        assert isinstance(self.kernel, nnx.Param)
        assert self.lora_a is None
        return self.kernel[...].reshape(*self.kernel[...].shape[: self.contracted], -1)

    def of_columns(self, product: jax.Array) -> jax.Array:
        """What the layer makes of a product [.., columns] with its `columns`."""
        y = product
        if self.lora_b is not None:
            b = self.lora_b[...]
            y, low = jnp.split(product, [product.shape[-1] - b.shape[0]], axis=-1)
            change = jnp.tensordot(low, b, 1, preferred_element_type=jnp.promote_types(low.dtype, jnp.float32))
            # XLA drops a scale of 1 that it knows, and has a GPU's product add y up, which is copied for that.
            scale = jax.lax.optimization_barrier(jnp.asarray(self.scale, change.dtype))
            y = (y.reshape(change.shape) + scale * change).astype(product.dtype)
        y = y.reshape(*product.shape[:-1], *self.outputs)
        return y if self.bias is None else y + trailing(self.bias[...], y.ndim)

    def set_for_decoding(self, *, beside: bool, rounded: bool) -> None:
        """Adds the adapter to the frozen weights or, where these are the narrower ones, rounds A and B to their dtype.

        In narrower weights an adapter is rounded off, which is done only where it may be `rounded`. A and B themselves
        are multiplied in the activations' dtype in any case: here they are so once, and not at every token. Those that
        stand `beside` W are one matrix with it, [W A], so that x W and x A are one product.
        """
        if self.lora_a is None or self.lora_b is None or isinstance(self.kernel, QuantizedKernel):
            return
        kernel, a, b = self.kernel[...], self.lora_a[...], self.lora_b[...]
        if rounded or _is_as_wide(kernel, a):
            self.kernel = nnx.Param((kernel + self.scale * jnp.tensordot(a, b, 1)).astype(kernel.dtype))
            self.lora_a = self.lora_b = None
        else:
            a, b = a.astype(kernel.dtype), b.astype(kernel.dtype)
            self.lora_a, self.lora_b = None if beside else nnx.LoRAParam(a), nnx.LoRAParam(b)
            if beside:
                self.kernel = nnx.Param(jnp.concatenate([kernel.reshape(*a.shape[:-1], -1), a], -1))


def _is_as_wide(kernel: jax.Array, a: jax.Array) -> bool:
    """Whether a frozen kernel holds what an adapter adds to it as precisely as the adapter itself."""
    return jnp.promote_types(kernel.dtype, a.dtype) == kernel.dtype


def _is_less_work_merged(x: jax.Array, a: jax.Array, b: jax.Array) -> bool:
    """Whether all rows of `x` together are worth computing A B."""
    rank = b.shape[0]
    inputs, outputs = a.size // rank, b.size // rank
    return x.size // inputs * (inputs + outputs) > inputs * outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _merged(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """x (W + scale A B), whose W gets no gradient."""
    return _merged_forward(x, kernel, a, b, scale)[0]


def _merged_forward(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float):
    return jnp.tensordot(x, kernel + scale * jnp.tensordot(a, b, 1), a.ndim - 1), (x, kernel, a, b)


def _merged_backward(scale: float, kept, ct: jax.Array):
    # A B is computed again, or those of all layers were kept for this.
    x, kernel, a, b = kept
    merged = kernel + scale * jnp.tensordot(a, b, 1)
    low = scale * jnp.tensordot(x, a, a.ndim - 1)
    _, ct_a, ct_b = _of_factors(x, low, b, ct)
    outputs = b.ndim - 1
    ct_x = jnp.tensordot(ct, merged, (tuple(range(-outputs, 0)), tuple(range(-outputs, 0))))
    return ct_x, None, scale * ct_a, ct_b


_merged.defvjp(_merged_forward, _merged_backward)


@jax.custom_vjp
def _low_rank(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """(x A) B in at least float32, over the last axes of `x` that `a` has before its rank."""
    return _low_rank_forward(x, a, b)[0]


def _low_rank_forward(x: jax.Array, a: jax.Array, b: jax.Array):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    low = jnp.tensordot(x, a.astype(x.dtype), a.ndim - 1, preferred_element_type=wide).astype(x.dtype)
    return jnp.tensordot(low, b.astype(x.dtype), 1, preferred_element_type=wide), (x, low, a, b)


def _low_rank_backward(kept, ct: jax.Array):
    x, low, a, b = kept
    ct_low, ct_a, ct_b = _of_factors(x, low, b, ct.astype(x.dtype))
    ct_x = jnp.tensordot(ct_low, a.astype(x.dtype), (ct_low.ndim - 1, a.ndim - 1), preferred_element_type=a.dtype)
    return ct_x.astype(x.dtype), ct_a, ct_b


_low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def _of_factors(x: jax.Array, low: jax.Array, b: jax.Array, ct: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of low B, where low is x A, by `low` in the activations' dtype, and by A and B in B's.

    As by differentiation, but in those of A and B the narrow operand comes first: it alone is transposed.
    """
    rows, outputs = tuple(range(low.ndim - 1)), tuple(range(1, b.ndim))
    ct_outputs = tuple(range(len(rows), ct.ndim))
    ct_low = jnp.tensordot(ct, b.astype(x.dtype), (ct_outputs, outputs), preferred_element_type=b.dtype).astype(x.dtype)
    ct_b = jnp.tensordot(low, ct, (rows, rows), preferred_element_type=b.dtype)
    ct_a = jnp.tensordot(ct_low, x, (rows, rows), preferred_element_type=b.dtype)
    return ct_low, jnp.moveaxis(ct_a, 0, -1), ct_b
