"""The policy as a model without adapters: its frozen weights with the low-rank updates added."""

import jax
import jax.numpy as jnp

from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.models.quantization import dequantize_stack


def merge(structure: ModelStructure, adapter: Weights, frozen: Weights, dtype: jnp.dtype) -> Weights:
    """The frozen weights in `dtype`, and in every adapted layer W + (alpha / R) A B, computed in at least float32.

    A quantised kernel counts as what it stands for. One stack of layers at a time is computed on the device and
    fetched to the host, so that the device holds no second model, but the host does.
    """
    lora = structure.lora
    wide = jnp.promote_types(dtype, jnp.float32)

    @jax.jit
    def merged(weight, factors):
        if isinstance(weight, dict):
            weight = dequantize_stack(weight, structure.quantize)
        weight = weight.astype(wide)
        if factors:
            update = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1, precision="highest"))(
                factors["lora_a"], factors["lora_b"]
            )
            weight += lora.alpha / lora.rank * update.astype(wide)
        return weight.astype(dtype)

    blocks = {
        name: {
            part: jax.device_get(merged(weight, adapter["blocks"].get(name) if part == "kernel" else None))
            for part, weight in parts.items()
        }
        for name, parts in frozen["blocks"].items()
    }
    rest = {name: weight for name, weight in frozen.items() if name != "blocks"}
    return jax.tree.map(lambda weight: jax.device_get(merged(weight, None)), rest) | {"blocks": blocks}
