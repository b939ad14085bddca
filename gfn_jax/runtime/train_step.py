"""The compiled functions of a run: sample, score, update; jitted with shardings over the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from gfn_jax import objectives
from gfn_jax.config import Config, Train
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.masks import Rules
from gfn_jax.policy.sampler import Behaviour, sample
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.protocol import Components, Reward
from gfn_jax.rewards.tempering import Temperature
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.mesh import by_prompt, replicated, weight_shardings
from gfn_jax.types import Prompts, Trajectories


@struct.dataclass
class TrainState:
    """All that an update changes; `step` counts optimiser steps."""

    step: jax.Array
    adapter: Weights
    optimizer: optax.OptState


def make_schedule(config: Train) -> optax.Schedule:
    """Linear warm-up from learning_rate / (warmup_steps + 1), never 0, then a cosine decay."""
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (config.warmup_steps + 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(config.steps, config.warmup_steps + 1),
        end_value=config.learning_rate * config.final_learning_rate,
    )


def make_optimizer(config: Train) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(make_schedule(config), config.adam_b1, config.adam_b2, weight_decay=config.weight_decay),
    )


class StepFunctions:
    """The functions of one run, compiled over one mesh.

    Prompts and, prompt-major, their trajectories are split over `data`; frozen weights over `model`;
    the adapter and the optimiser are on every device.
    """

    def __init__(self, config: Config, structure: ModelStructure, reward: Reward, rules: Rules, mesh: Mesh):
        self._structure, self._reward, self._rules = structure, reward, rules
        self._train, self._objective = config.train, config.objective
        self._samples_per_prompt = config.sampling.samples_per_prompt
        self._behaviour = Behaviour(
            config.sampling.temperature_low,
            config.sampling.temperature_high,
            config.sampling.temperature_prob,
            config.sampling.top_k,
            config.sampling.top_p,
        )
        self._temperature = Temperature(
            config.reward.temperature_start, config.reward.temperature_end, config.reward.temperature_horizon
        )
        self._schedule, self._optimizer = make_schedule(config.train), make_optimizer(config.train)
        self._seed = config.seed

        everywhere, rows, weights = replicated(mesh), by_prompt(mesh), weight_shardings(mesh, structure.abstract_frozen)
        self.init = jax.jit(self._init, out_shardings=everywhere)
        self.sample = jax.jit(self._sample, in_shardings=(everywhere, weights, rows, everywhere), out_shardings=rows)
        self.update = jax.jit(
            self._update,
            in_shardings=(everywhere, weights, rows, rows, rows),
            out_shardings=everywhere,
            donate_argnums=0,
        )

    def _init(self, adapter: Weights) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), adapter, self._optimizer.init(adapter))

    def _sample(self, adapter: Weights, frozen: Weights, prompts: Prompts, step: jax.Array) -> Trajectories:
        """Trajectories of the behaviour policy for an optimiser step; the step is the only randomness."""
        trajectories, _ = sample(
            self._structure.policy(adapter, frozen),
            self._structure.frozen(frozen),
            self._rules,
            prompts,
            key_for(self._seed, Purpose.TRAINING, step),
            samples_per_prompt=self._samples_per_prompt,
            behaviour=self._behaviour,
        )
        return trajectories

    def _update(
        self,
        state: TrainState,
        frozen: Weights,
        prompts: Prompts,
        trajectories: Trajectories,
        components: Components,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimiser step: the objective's gradient, accumulated over microbatches of prompts."""
        temperature = self._temperature.at(state.step)
        log_r_NxT = self._reward.combine(components, state.step) / temperature

        def loss(adapter, part):
            prompts, trajectories, log_r_NxT = part
            policy, frozen_model = self._structure.policy(adapter, frozen), self._structure.frozen(frozen)
            scores = score(policy, frozen_model, self._rules, prompts, trajectories)
            loss_B = objectives.subtb(
                scores,
                log_r_NxT,
                samples_per_prompt=self._samples_per_prompt,
                subtb_lambda=self._objective.subtb_lambda,
            )
            g_N = objectives.at_last_state(objectives.log_ratio(scores, log_r_NxT), scores.is_terminable_NxT)
            return loss_B.sum(), {"loss_B": loss_B, "g_N": g_N}

        def accumulate(gradient, part):
            more, values = jax.grad(loss, has_aux=True)(state.adapter, part)
            return jax.tree.map(jnp.add, gradient, more), values

        parts = jax.tree.map(self._in_microbatches, (prompts, trajectories, log_r_NxT))
        zeros = jax.tree.map(jnp.zeros_like, state.adapter)
        gradient, values = jax.lax.scan(accumulate, zeros, parts)
        gradient = jax.tree.map(lambda total: total / self._train.prompts_per_step, gradient)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.adapter)
        adapter: Any = optax.apply_updates(state.adapter, updates)

        stop_N = trajectories.length_N[:, None]
        at_stop = {name: jnp.take_along_axis(terms, stop_N, 1).mean() for name, terms in components.items()}
        metrics = {
            "loss": values["loss_B"].mean(),
            "log_r": jnp.take_along_axis(log_r_NxT, stop_N, 1).mean(),
            "log_ratio_var": within_prompt_variance(values["g_N"], self._samples_per_prompt).mean(),
            "length": trajectories.length_N.mean(dtype=log_r_NxT.dtype),
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": self._schedule(state.step),
            "temperature": temperature,
            **at_stop,
        }
        return TrainState(state.step + 1, adapter, optimizer), metrics

    def _in_microbatches(self, x: jax.Array) -> jax.Array:
        """[rows, ..] -> [microbatches, rows of one, ..], every device keeping its own prompts' rows."""
        batch, micro = self._train.prompts_per_step, self._train.microbatch_prompts
        rows_per_prompt = x.shape[0] // batch
        apart = x.reshape(micro, batch // micro, rows_per_prompt, *x.shape[1:])
        return jnp.moveaxis(apart, 1, 0).reshape(batch // micro, micro * rows_per_prompt, *x.shape[1:])


def within_prompt_variance(g_N: jax.Array, samples_per_prompt: int) -> jax.Array:
    """The unbiased variance [B] of g over each prompt's samples: 0 for a perfect sampler."""
    return jnp.var(g_N.reshape(-1, samples_per_prompt), axis=1, ddof=min(1, samples_per_prompt - 1))
