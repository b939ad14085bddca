"""One transformer layer: its parts as the architecture lists them; a subclass says what it computes with them."""

import abc
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from gfn_jax.models.architecture import Architecture, Linear
from gfn_jax.models.layout import Layout
from gfn_jax.models.lora import LoRALinear
from gfn_jax.models.rotary import Rotation
from gfn_jax.types import LoRAConfig

Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
"""Queries [.., G, M, K], keys and values [.., G, K] to what they attend to [.., G, M, K]; and what is kept of them."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Block(nnx.Module):
    """Subclasses name the parts that they compute with: a part "mlp.up_proj" is the attribute `mlp_up_proj`.

    together  layers that read the same input, each group by the names of its parts
    """

    together: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def __init__(
        self,
        architecture: Architecture,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        quantize: str,
        layout: Layout,
        rngs: nnx.Rngs,
    ):
        adapted = architecture.adapted_layers(lora.targets) if lora else ()
        for part in architecture.parts:
            made = part.build(dtype) if not isinstance(part, Linear) else None
            if isinstance(part, Linear):
                made = LoRALinear(
                    [axis.size for axis in part.inputs],
                    [axis.size for axis in part.outputs],
                    has_bias=part.has_bias,
                    lora=lora if part.name in adapted else None,
                    dtype=dtype,
                    quantize=quantize,
                    kernel_std=part.std,
                    rngs=rngs,
                )
            setattr(self, part.module, made)
        self.architecture, self.spread = architecture, layout.spread

    def of_same(self, x: jax.Array, group: tuple[str, ...]) -> list[jax.Array]:
        """What the layers of a group of `together` make of their input, in one product where decoding is told so."""
        layers: list[LoRALinear] = [getattr(self, name) for name in group]
        columns = getattr(self, _columns_of(group), None)
        if columns is None:
            return [layer(x) for layer in layers]
        widths = [layer.columns.shape[-1] for layer in layers]
        product = jnp.tensordot(x, columns[...], layers[0].contracted)
        parts = jnp.split(product, list(itertools.accumulate(widths))[:-1], axis=-1)
        return [layer.of_columns(part) for layer, part in zip(layers, parts, strict=True)]

    def set_for_decoding(self, layout: Layout) -> None:
        """Does once what would else be done at every token: `LoRALinear.set_for_decoding`, and of groups one matrix."""
        for part in self.architecture.parts:
            if isinstance(part, Linear):
                # With its outputs in parts, and A whole, the two make no one matrix. With its inputs in parts both
                # products are sums over devices, and these meet once.
                is_one = not layout.split_axes.intersection(axis.name for axis in part.outputs)
                getattr(self, part.module).set_for_decoding(
                    beside=layout.has_few_kernels and is_one, rounded=layout.rounds_adapter
                )
        if layout.has_few_kernels and not layout.split_axes:
            # A compiler would find these groups too, and put their weights together at every token.
            for group in self.together:
                columns = [getattr(self, name).columns for name in group]
                setattr(self, _columns_of(group), nnx.Param(jnp.concatenate(columns, -1)))

    @abc.abstractmethod
    def __call__(self, hidden: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        """What the layer makes of hidden states [.., D], and what `attend` keeps; `rotation` is of their positions."""


def _columns_of(group: tuple[str, ...]) -> str:
    return f"columns_of_{group[0]}"
