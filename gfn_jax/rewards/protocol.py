"""What a reward must offer to be trained on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import jax

from gfn_jax.models.parts import Weights
from gfn_jax.types import Prompts, Trajectories

Components = Mapping[str, jax.Array]
"""The untempered terms of log R by name, each [N, T]: the value of stopping at each state."""


class Reward(Protocol):
    """log R in two steps: its components, which may cost a lot, and their combination, which is pure.

    granularity  "prefix" where every reached state has its own log R, "terminal" where only the last has
    """

    @property
    def granularity(self) -> Literal["prefix", "terminal"]: ...

    def components(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Components:
        """The components of every reached state of every trajectory."""
        ...

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        """log R [N, T] before tempering, at an optimiser step; traced."""
        ...
