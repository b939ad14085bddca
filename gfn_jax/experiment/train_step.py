"""The compiled functions of a run: sample, score, update; jitted with shardings over the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from gfn_jax import objectives
from gfn_jax.config.schema import Config
from gfn_jax.experiment.batches import Replayed, join
from gfn_jax.experiment.optimizer import make_optimizer, make_schedule
from gfn_jax.models.mesh import batch_size, model_layout, replicated, weight_shardings
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.log_z import Head, log_z, new_head
from gfn_jax.policy.masks import Rules
from gfn_jax.policy.sampler import Behaviour, sample
from gfn_jax.policy.scorer import only_last_state, score
from gfn_jax.rewards.protocol import Components, Reward
from gfn_jax.rewards.tempering import Temperature
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.rows import BATCH_AXES, Rows
from gfn_jax.types import Prompts, Trajectories


@struct.dataclass
class TrainState:
    """All that an update changes; `log_z` is empty but for objective `tb`.

    step     optimiser steps, as all schedules count
    updates  those of them that changed anything
    """

    step: jax.Array
    updates: jax.Array
    adapter: Weights
    log_z: Head
    optimizer: optax.OptState


class StepFunctions:
    """The functions of one run, compiled over one mesh.

    Prompts and, prompt-major, their trajectories are split over processes and `data`; frozen weights as
    `weight_shardings` says; the adapter and the optimiser are on every device.
    """

    def __init__(self, config: Config, structure: ModelStructure, reward: Reward, rules: Rules, mesh: Mesh):
        self._structure, self._reward, self._rules = structure, reward, rules
        self._train, self._objective = config.train, config.objective
        self._loss = (objectives.OBJECTIVES | objectives.CONTROLS)[config.objective.name]
        self._learns_log_z = config.objective.name == "tb"
        self._samples_per_prompt = config.sampling.samples_per_prompt
        self._fresh_per_prompt = config.fresh_per_prompt
        self._behaviour = Behaviour(
            config.sampling.temperature_low,
            config.sampling.temperature_high,
            config.sampling.temperature_prob,
            config.sampling.top_k,
            config.sampling.top_p if config.sampling.top_p < 1 else None,
        )
        self._temperature = Temperature(
            config.reward.temperature_start, config.reward.temperature_end, config.reward.temperature_horizon
        )
        self._schedule = make_schedule(config.train)
        self._optimizer = make_optimizer(config.train, config.objective.log_z_learning_rate)
        self._seed = config.seed

        self._max_len = config.sampling.max_len
        weights = weight_shardings(mesh, structure, fsdp=config.mesh.fsdp)
        self._shards = batch_size(mesh)
        self._microbatches = config.train.prompts_per_step // config.train.microbatch_prompts
        self._structure_of_shard = structure.with_layout(model_layout(mesh, fsdp=config.mesh.fsdp, of_shard=True))
        self._everywhere = everywhere = replicated(mesh)
        self._rows = rows = Rows(mesh).sharding
        self.init = jax.jit(self._init, out_shardings=everywhere)
        self.no_trajectories = jax.jit(self._no_trajectories, out_shardings=rows)
        self.sample = jax.jit(self._sample, in_shardings=(everywhere, weights, rows, everywhere), out_shardings=rows)
        self.update = jax.jit(
            self._update,
            in_shardings=(everywhere, weights, rows, rows, rows, rows),
            out_shardings=everywhere,
            donate_argnums=0,
        )

    def _init(self, adapter: Weights) -> TrainState:
        dtype = jax.tree.leaves(adapter)[0].dtype
        log_z = new_head(self._structure.architecture.width, dtype) if self._learns_log_z else {}
        optimizer = self._optimizer.init({"adapter": adapter, "log_z": log_z})
        return TrainState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), adapter, log_z, optimizer)

    def _no_trajectories(self) -> tuple[Trajectories, ...]:
        """One empty batch for each step that the pipeline is ahead."""
        rows = self._train.prompts_per_step * self._fresh_per_prompt
        tokens_NxL = jnp.zeros((rows, self._max_len), jnp.int32)
        empty = Trajectories.given(tokens_NxL, jnp.zeros(rows, jnp.int32))
        return (empty,) * self._train.pipeline_depth

    def _sample(self, adapter: Weights, frozen: Weights, prompts: Prompts, step: jax.Array) -> Trajectories:
        """Trajectories of the behaviour policy for an optimiser step; the step is the only randomness."""
        trajectories, _ = sample(
            *self._structure.policy_and_frozen(adapter, frozen),
            self._rules,
            prompts,
            key_for(self._seed, Purpose.TRAINING, step),
            samples_per_prompt=self._fresh_per_prompt,
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
        replayed: Replayed | None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimiser step: the objective's gradient, accumulated over microbatches of prompts.

        A row with a log R that is not finite, or without a terminable state, takes no part; the
        metric `is_bad_N` marks it. Where the loss or its gradient is not finite all the same, or no
        row is left, nothing but the step counter changes; the metric `skipped` is 1 then. The first
        update of `tb` changes nothing but the bias of log Z: it starts at the batch's mean g.
        Rewards and trajectories in the metrics are of the fresh rows alone.
        """
        batch = join(trajectories, components, replayed, self._train.prompts_per_step)
        trajectories, components = batch.trajectories, batch.components
        temperature = self._temperature.at(state.step)
        log_r_NxT = self._reward.combine(components, state.step) / temperature
        per_prompt = self._samples_per_prompt

        def loss(parameters, part):
            prompts, trajectories, log_r_NxT, is_absent_N = part
            policy, frozen_model = self._structure_of_shard.policy_and_frozen(parameters["adapter"], frozen)
            scores = score(policy, frozen_model, self._rules, prompts, trajectories)
            if self._reward.granularity == "terminal":
                scores = only_last_state(scores, trajectories)
            g_NxT, is_terminable_NxT, is_bad_N = without_bad_rows(
                objectives.log_ratio(scores, log_r_NxT), scores.is_terminable_NxT, is_absent_N
            )
            g_N = objectives.at_last_state(g_NxT, is_terminable_NxT)
            log_z_B = jnp.zeros_like(g_N[::per_prompt])
            if self._learns_log_z:
                log_z_B = log_z(parameters["log_z"], frozen_model, prompts)
            loss_B = self._loss(
                g_NxT,
                jnp.where(is_terminable_NxT, log_r_NxT, 0),
                is_terminable_NxT,
                log_z_B,
                samples_per_prompt=per_prompt,
                subtb_lambda=self._objective.subtb_lambda,
            )
            return loss_B.sum(), {"loss_B": loss_B, "g_N": g_N, "is_bad_N": is_bad_N}

        def accumulate(gradients, part):
            more, values = gradients_of(parameters, part)
            return jax.tree.map(jnp.add, gradients, more), values

        # Every device adds up the gradient of its own prompts; they meet once, when all microbatches are done.
        gradients_of = jax.vmap(jax.grad(loss, has_aux=True), in_axes=(None, 0), spmd_axis_name=BATCH_AXES)
        parameters = {"adapter": state.adapter, "log_z": state.log_z}
        parts = jax.tree.map(self._in_microbatches, (prompts, trajectories, log_r_NxT, batch.is_absent_N))
        zeros = jax.tree.map(lambda x: jnp.zeros((self._shards, *x.shape), x.dtype), parameters)
        gradients, values = jax.lax.scan(accumulate, jax.lax.with_sharding_constraint(zeros, self._rows), parts)
        values = jax.tree.map(self._in_one, values)
        gradient = jax.tree.map(lambda parts: parts.sum(0) / self._train.prompts_per_step, gradients)
        # Made whole here, before the optimiser: not its several results after it.
        gradient = jax.lax.with_sharding_constraint(gradient, self._everywhere)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, parameters)
        updated: Any = optax.apply_updates(parameters, updates)
        is_good_N = ~(values["is_bad_N"] | batch.is_absent_N)
        is_first = (state.updates == 0) & self._learns_log_z
        loss_value, grad_norm = values["loss_B"].mean(), optax.tree.norm(gradient["adapter"])
        is_update = jnp.isfinite(loss_value) & jnp.isfinite(optax.tree.norm(gradient)) & is_good_N.any()
        before = (parameters["adapter"], parameters["log_z"], state.optimizer)
        after = (updated["adapter"], updated["log_z"], optimizer)
        moves = is_update & ~is_first
        adapter, log_z_head, optimizer = jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, before)
        if self._learns_log_z:
            start = jnp.where(is_update & is_first, _mean(values["g_N"], is_good_N), 0)
            log_z_head = log_z_head | {"bias": log_z_head["bias"] + start}
        state = TrainState(state.step + 1, state.updates + is_update, adapter, log_z_head, optimizer)

        stop_N = trajectories.length_N[:, None]
        at_stop = {name: jnp.take_along_axis(terms, stop_N, 1)[:, 0] for name, terms in components.items()}
        at_stop["log_r"] = jnp.take_along_axis(log_r_NxT, stop_N, 1)[:, 0]
        is_shown_N = is_good_N & batch.is_fresh_N
        metrics = {
            "loss": loss_value,
            "log_ratio_var": within_prompt_variance(values["g_N"], is_shown_N, per_prompt),
            "length": _mean(trajectories.length_N.astype(log_r_NxT.dtype), batch.is_fresh_N),
            "grad_norm": grad_norm,
            "learning_rate": self._schedule(state.step - 1),
            "temperature": temperature,
            "skipped": (~is_update).astype(log_r_NxT.dtype),
            "is_bad_N": values["is_bad_N"],
            **{name: _mean(values_N, is_shown_N) for name, values_N in at_stop.items()},
        }
        return state, metrics

    def _in_microbatches(self, x: jax.Array) -> jax.Array:
        """[rows, ..] -> [microbatches, shards, rows of a shard, ..], every device keeping its own prompts' rows."""
        apart = x.reshape(self._shards, self._microbatches, -1, *x.shape[1:])
        return jnp.moveaxis(apart, 1, 0)

    def _in_one(self, x: jax.Array) -> jax.Array:
        """The inverse of `_in_microbatches`: [microbatches, shards, rows of a shard] -> [rows]."""
        return jnp.moveaxis(x, 0, 1).reshape(-1)


def without_bad_rows(
    g_NxT: jax.Array, is_terminable_NxT: jax.Array, is_absent_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """g and its mask without absent and bad rows, and which are bad.

    These have no terminable state, or a g that is not finite.
    """
    is_finite_N = jnp.isfinite(g_NxT).all(axis=1)  # g is 0 where a state is not terminable
    is_bad_N = ~(is_finite_N & is_terminable_NxT.any(axis=1)) & ~is_absent_N
    is_kept_NxT = is_terminable_NxT & ~(is_bad_N | is_absent_N)[:, None]
    return jnp.where(is_kept_NxT, g_NxT, 0), is_kept_NxT, is_bad_N


def within_prompt_variance(g_N: jax.Array, is_good_N: jax.Array, samples_per_prompt: int) -> jax.Array:
    """The unbiased variance of g over each prompt's good samples, averaged over prompts: 0 for a perfect sampler.

    Prompts with fewer than two good samples have none; NaN where there is no other.
    """
    by_prompt = (-1, samples_per_prompt)
    g, is_good = g_N.reshape(by_prompt), is_good_N.reshape(by_prompt).astype(g_N.dtype)
    count = is_good.sum(1, keepdims=True)
    mean = (is_good * g).sum(1, keepdims=True) / jnp.maximum(count, 1)
    variance_B = (is_good * jnp.square(g - mean)).sum(1) / jnp.maximum(count[:, 0] - 1, 1)
    return jnp.mean(variance_B, where=count[:, 0] > 1)


def _mean(values_N: jax.Array, is_good_N: jax.Array) -> jax.Array:
    return jnp.where(is_good_N, values_N, 0).sum() / jnp.maximum(is_good_N.sum(), 1)
