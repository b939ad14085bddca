"""What a training step calls, and with which shapes: to compile it before there is anything to call it with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gfn_jax.config.schema import Config
from gfn_jax.experiment.batches import Replayed
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.rewards.protocol import Call, Components, Reward
from gfn_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True)
class StepCalls:
    """The calls of a step whose prompts are padded to one length.

    `state` and `frozen` are a training state and frozen weights, or their shapes; `rows` is how a batch lies, and
    `beginning` what all prompts begin with.
    """

    config: Config
    functions: StepFunctions
    reward: Reward
    state: Any
    frozen: Any
    rows: jax.sharding.Sharding
    beginning: tuple[int, ...] = ()

    def sample(self, length: int) -> Call:
        return Call(self.functions.sample, (self.state.adapter, self.frozen, self._prompts(length), 0))

    def rewards(self, length: int) -> list[Call]:
        trajectories = self._trajectories(self.config.fresh_per_prompt)
        return list(self.reward.to_compile(self.frozen, self._prompts(length), trajectories))

    def update(self, length: int, types: Mapping[str, Any]) -> Call:
        """`types` are the dtypes of the reward's components by name."""
        fresh, again = self.config.fresh_per_prompt, self.config.replayed_per_prompt
        replayed = None
        if again:
            is_absent_N = self._shape(again, dtype=jnp.bool)
            replayed = Replayed(self._trajectories(again), self._components(again, types), is_absent_N)
        rewarded = self._trajectories(fresh), self._components(fresh, types), replayed
        return Call(self.functions.update, (self.state, self.frozen, self._prompts(length), *rewarded))

    def _prompts(self, length: int) -> Prompts:
        return Prompts.shapes(self.config.train.prompts_per_step, length, self.rows, self.beginning)

    def _trajectories(self, per_prompt: int) -> Trajectories:
        rows = self.config.train.prompts_per_step * per_prompt
        return Trajectories.shapes(rows, self.config.sampling.max_len, self.rows)

    def _components(self, per_prompt: int, types: Mapping[str, Any]) -> Components:
        states = self.config.sampling.max_len + 1
        return {name: self._shape(per_prompt, states, dtype=dtype) for name, dtype in types.items()}

    def _shape(self, per_prompt: int, *sizes: int, dtype: Any) -> Any:
        rows = self.config.train.prompts_per_step * per_prompt
        return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=self.rows)
