"""Our adapters under the names and in the shapes of the PEFT library's adapter files."""

import math
from collections.abc import Mapping

import numpy as np

from gfn_jax.models.gpt2 import LAYER_NAMES
from gfn_jax.models.parts import Weights


def to_peft(adapter: Weights) -> dict[str, np.ndarray]:
    """Every layer's `lora_A.weight` [R, inputs] and `lora_B.weight` [outputs, R], as PEFT stores them for GPT-2."""
    tensors = {}
    for name in LAYER_NAMES:
        layers: Mapping = adapter["blocks"].get(name.replace(".", "_"), {})
        for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            for index, factor in enumerate(np.asarray(layers.get(ours, ()))):
                # A is [*inputs, R] and B [R, *outputs].
                rows = math.prod(factor.shape[:-1]) if ours == "lora_a" else factor.shape[0]
                tensors[f"base_model.model.transformer.h.{index}.{name}.{theirs}.weight"] = factor.reshape(rows, -1).T
    return tensors
