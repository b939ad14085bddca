"""Our adapters under the names and in the shapes of the PEFT library's adapter files, and back."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gfn_jax.models.gpt2 import LAYER_NAMES
from gfn_jax.models.parts import Weights


def to_peft(adapter: Weights) -> dict[str, np.ndarray]:
    """Every layer's `lora_A.weight` [R, inputs] and `lora_B.weight` [outputs, R], as PEFT stores them for GPT-2."""
    return {
        _tensor_name(layer, name, factor): np.ascontiguousarray(_flat(factor, np.asarray(stack[layer])).T)
        for name, factor, stack in _stacks(adapter)
        for layer in range(stack.shape[0])
    }


def from_peft(tensors: Mapping[str, np.ndarray], like: Weights) -> Weights:
    """The adapter that these tensors are, shaped as `like`; raises `KeyError` where one is missing."""
    adapter: Weights = {"blocks": {module: {} for module in like["blocks"]}}
    for name, factor, stack in _stacks(like):
        layers = [np.asarray(tensors[_tensor_name(layer, name, factor)]).T for layer in range(stack.shape[0])]
        adapter["blocks"][_module(name)][factor] = np.stack(layers).reshape(stack.shape)
    return adapter


def _stacks(adapter: Weights) -> Iterator[tuple[str, str, Any]]:
    """Layer name, factor ("lora_a" or "lora_b"), and that factor of all layers."""
    for name in LAYER_NAMES:
        for factor, stack in adapter["blocks"].get(_module(name), {}).items():
            yield name, factor, stack


def _module(name: str) -> str:
    return name.replace(".", "_")


def _tensor_name(layer: int, name: str, factor: str) -> str:
    return f"base_model.model.transformer.h.{layer}.{name}.{factor[:-1]}{factor[-1].upper()}.weight"


def _flat(factor: str, values: np.ndarray) -> np.ndarray:
    """A, [*inputs, R], or B, [R, *outputs], with two axes."""
    rows = math.prod(values.shape[:-1]) if factor == "lora_a" else values.shape[0]
    return values.reshape(rows, -1)
