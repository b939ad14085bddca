"""One transformer layer: its parts as the architecture lists them; a subclass says what it computes with them."""

import abc
from collections.abc import Callable
from typing import Any

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
    """Subclasses name the parts that they compute with: a part "mlp.up_proj" is the attribute `mlp_up_proj`."""

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

    @abc.abstractmethod
    def __call__(self, hidden: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        """What the layer makes of hidden states [.., D], and what `attend` keeps; `rotation` is of their positions."""
