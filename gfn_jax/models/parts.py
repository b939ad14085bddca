"""A model in the parts that compiled functions take: its structure, its adapter, its frozen weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gfn_jax.models.architecture import Architecture
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.layout import WHEREVER, Layout
from gfn_jax.types import LoRAConfig

Weights = dict[str, Any]
"""Nested dicts of arrays."""


class ModelStructure:
    """What is static about a policy and its frozen model: how to put them together from weights.

    The two share the frozen weights, of which there is one copy; the adapter is the policy's alone.
    """

    def __init__(
        self,
        architecture: Architecture,
        lora: LoRAConfig,
        *,
        dtype: jnp.dtype,
        quantize: str = "",
        remat: bool,
        layout: Layout = WHEREVER,
    ):
        how = {"dtype": dtype, "quantize": quantize, "remat": remat}
        self._arguments, self._layout = {"architecture": architecture, "lora": lora, **how}, layout

        def build(key: jax.Array, lora: LoRAConfig | None) -> LanguageModel:
            return LanguageModel(architecture, lora, **how, layout=layout, rngs=nnx.Rngs(params=key))

        self.architecture, self.lora, self.dtype, self.quantize = architecture, lora, dtype, quantize
        self._new_policy = lambda key: build(key, lora)
        self._new_frozen = lambda key: build(key, None)
        self._policy_graph, adapter, _ = nnx.split(
            nnx.eval_shape(self._new_policy, jax.random.key(0)), nnx.LoRAParam, ...
        )
        self._frozen_graph, state = nnx.split(nnx.eval_shape(self._new_frozen, jax.random.key(0)))
        self.abstract_adapter: Weights = nnx.to_pure_dict(adapter)
        self.abstract_frozen: Weights = nnx.to_pure_dict(state)

    def with_layout(self, layout: Layout) -> "ModelStructure":
        """The same model, computed on other devices or otherwise spread over them; this one where it is so already."""
        return self if layout == self._layout else ModelStructure(**self._arguments, layout=layout)

    def policy(self, adapter: Weights, frozen: Weights) -> LanguageModel:
        return nnx.merge(self._policy_graph, adapter, frozen)

    def frozen(self, frozen: Weights) -> LanguageModel:
        return nnx.merge(self._frozen_graph, frozen)

    def policy_and_frozen(self, adapter: Weights, frozen: Weights) -> tuple[LanguageModel, LanguageModel]:
        return self.policy(adapter, frozen), self.frozen(frozen)

    def random_adapter(self, key: jax.Array) -> Weights:
        """A fresh adapter, with which the policy is the frozen model."""
        return nnx.to_pure_dict(nnx.state(self._new_policy(key), nnx.LoRAParam))

    def random_frozen(self, key: jax.Array) -> Weights:
        return nnx.to_pure_dict(nnx.state(self._new_frozen(key)))
