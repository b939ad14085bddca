"""The compiled functions of a run: sample, score, update; jitted with shardings over the mesh."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from gfn_jax import objectives
from gfn_jax.config.schema import Config
from gfn_jax.experiment.batches import Batch, Replayed, join
from gfn_jax.experiment.optimizer import at_step, make_optimizer, make_schedule
from gfn_jax.models.mesh import batch_size, model_layout, replicated, weight_shardings
from gfn_jax.models.packing import Packing, in_room, rooms
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.behaviour import Behaviour
from gfn_jax.policy.log_z import Head, log_z, new_head
from gfn_jax.policy.masks import Rules
from gfn_jax.policy.sampler import sample
from gfn_jax.policy.scorer import only_last_state, score
from gfn_jax.rewards.protocol import Components, Reward
from gfn_jax.rewards.tempering import Temperature
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.rows import BATCH_AXES, Rows
from gfn_jax.types import Prompts, Trajectories

Parameters = dict[str, Weights | Head]
"""`adapter` and `log_z`: what is trained, or their gradient."""


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

    @property
    def parameters(self) -> Parameters:
        """What is trained, as the optimiser has it."""
        return {"adapter": self.adapter, "log_z": self.log_z}


@struct.dataclass
class Rewarded:
    """What a loss needs: prompts and, prompt-major, their trajectories with log R; an absent row takes no part."""

    prompts: Prompts
    trajectories: Trajectories
    log_r_NxT: jax.Array
    is_absent_N: jax.Array


@struct.dataclass
class Losses:
    """The prompts' losses, and of each row g where it stops and whether it is bad: such a row took no part."""

    g_N: jax.Array
    is_bad_N: jax.Array
    loss_B: jax.Array


class StepFunctions:
    """The functions of one run, compiled over one mesh.

    Prompts and, prompt-major, their trajectories are split over processes and `data`; frozen weights as
    `weight_shardings` says; the adapter and the optimiser are on every device.

    microbatch  of how many of its prompts a device computes the gradient at once: as many as divide them, and at most
                `train.microbatch_prompts`
    """

    def __init__(self, config: Config, structure: ModelStructure, reward: Reward, rules: Rules, mesh: Mesh):
        self._structure, self._reward, self._rules = structure, reward, rules
        self._train = config.train
        self._samples_per_prompt = config.sampling.samples_per_prompt
        self._objective = functools.partial(
            (objectives.OBJECTIVES | objectives.CONTROLS)[config.objective.name],
            samples_per_prompt=self._samples_per_prompt,
            subtb_lambda=config.objective.subtb_lambda,
        )
        self._learns_log_z = config.objective.name == "tb"
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
        of_device = max(1, config.train.prompts_per_step // self._shards)
        self.microbatch = largest_divisor(of_device, config.train.microbatch_prompts)
        self._microbatches = of_device // self.microbatch
        self._layout_of_shard = model_layout(mesh, fsdp=config.mesh.fsdp, of_shard=True)
        self._structure_of_shard = structure.with_layout(self._layout_of_shard)
        is_off_policy = config.objective.name not in objectives.CONTROLS
        rounds_adapter = config.sampling.rounds_adapter and is_off_policy
        self._structure_to_draw = structure.with_layout(
            model_layout(mesh, fsdp=config.mesh.fsdp, rounds_adapter=rounds_adapter)
        )
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
            *self._structure_to_draw.policy_and_frozen(adapter, frozen),
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
        temperature = self._temperature.at(state.step)
        log_r_NxT = self._reward.combine(batch.components, state.step) / temperature
        whole = Rewarded(prompts, batch.trajectories, log_r_NxT, batch.is_absent_N)
        gradient, losses = self._gradient(state.parameters, frozen, whole)
        loss, is_good_N = losses.loss_B.mean(), ~(losses.is_bad_N | batch.is_absent_N)
        is_update = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient)) & is_good_N.any()
        state = self._next_state(state, gradient, is_update, _mean(losses.g_N, is_good_N))
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient["adapter"]),
            "learning_rate": self._schedule(state.step - 1),
            "temperature": temperature,
            "skipped": (~is_update).astype(log_r_NxT.dtype),
            "is_bad_N": losses.is_bad_N,
            **self._metrics_of_rows(batch, log_r_NxT, losses.g_N, is_good_N),
        }
        return state, metrics

    def _loss(self, parameters: Parameters, frozen: Weights, part: Rewarded, room: int) -> tuple[jax.Array, Losses]:
        """The objective, summed over prompts: this is what is differentiated by the parameters.

        `room` is that of the pass over its prompts and trajectories, at least `Packing.room_for`'s.
        """
        policy, frozen_model = self._structure_of_shard.policy_and_frozen(parameters["adapter"], frozen)
        scores = score(policy, frozen_model, self._rules, part.prompts, part.trajectories, room)
        if self._reward.granularity == "terminal":
            scores = only_last_state(scores, part.trajectories)
        g_NxT, is_terminable_NxT, is_bad_N = without_bad_rows(
            objectives.log_ratio(scores, part.log_r_NxT), scores.is_terminable_NxT, part.is_absent_N
        )
        g_N = objectives.at_last_state(g_NxT, is_terminable_NxT)
        log_z_B = jnp.zeros_like(g_N[:: self._samples_per_prompt])
        if self._learns_log_z:
            log_z_B = log_z(parameters["log_z"], frozen_model, part.prompts)
        log_r_NxT = jnp.where(is_terminable_NxT, part.log_r_NxT, 0)
        loss_B = self._objective(g_NxT, log_r_NxT, is_terminable_NxT, log_z_B)
        return loss_B.sum(), Losses(g_N, is_bad_N, loss_B)

    def _gradient(self, parameters: Parameters, frozen: Weights, whole: Rewarded) -> tuple[Parameters, Losses]:
        """The gradient of the mean of `_loss` over the batch's prompts, accumulated over microbatches.

        Every device adds up the gradient of its own prompts; they meet once, when all microbatches are done.
        """

        def of_shards(parts: Rewarded, room: int):
            of_shard = jax.grad(lambda parameters, part: self._loss(parameters, frozen, part, room), has_aux=True)
            return jax.vmap(of_shard, in_axes=(None, 0), spmd_axis_name=BATCH_AXES)(parameters, parts)

        def accumulate(gradients, given):
            parts, needed = given
            more, losses = in_room(functools.partial(of_shards, parts), choices, needed)
            return jax.tree.map(jnp.add, gradients, more), losses

        microbatches = jax.tree.map(self._in_microbatches, whole)
        prompts, length = microbatches.prompts, microbatches.trajectories.length_N
        packing = Packing.whole(jax.tree.map(lambda x: x[0, 0], prompts), self._samples_per_prompt, self._max_len)
        choices = rooms(self._structure.architecture.layer_weights, self._layout_of_shard, packing)
        of_shards_length = length.reshape(*length.shape[:2], -1, self._samples_per_prompt)
        needed = jax.vmap(jax.vmap(packing.room_for))(prompts, of_shards_length).max(1)  # of the shard that needs most
        needed = jax.lax.with_sharding_constraint(needed, self._everywhere)
        zeros = jax.tree.map(lambda x: jnp.zeros((self._shards, *x.shape), x.dtype), parameters)
        zeros = jax.lax.with_sharding_constraint(zeros, self._rows)
        gradients, losses = jax.lax.scan(accumulate, zeros, (microbatches, needed))
        losses = jax.tree.map(self._in_one, losses)
        gradient = jax.tree.map(lambda parts: parts.sum(0) / self._train.prompts_per_step, gradients)
        # Made whole here, before the optimiser: not its several results after it.
        return jax.lax.with_sharding_constraint(gradient, self._everywhere), losses

    def _next_state(
        self, state: TrainState, gradient: Parameters, is_update: jax.Array, mean_g: jax.Array
    ) -> TrainState:
        """The state after the optimiser's step; unless `is_update`, only the step counter changes."""
        before = at_step(state.optimizer, state.step)
        changes, optimizer = self._optimizer.update(gradient, before, state.parameters)
        changed: Any = optax.apply_updates(state.parameters, changes)
        is_first = (state.updates == 0) & self._learns_log_z
        moves = is_update & ~is_first
        parameters, optimizer = jax.tree.map(
            lambda new, old: jnp.where(moves, new, old), (changed, optimizer), (state.parameters, state.optimizer)
        )
        head = parameters["log_z"]
        if self._learns_log_z:  # begins at the first batch's mean g
            head = head | {"bias": head["bias"] + jnp.where(is_update & is_first, mean_g, 0)}
        return TrainState(state.step + 1, state.updates + is_update, parameters["adapter"], head, optimizer)

    def _metrics_of_rows(
        self, batch: Batch, log_r_NxT: jax.Array, g_N: jax.Array, is_good_N: jax.Array
    ) -> dict[str, jax.Array]:
        """What the fresh rows are like: means over the good ones where they stop, and the variance of their g.

        The length alone is of all that were drawn.
        """
        length_N, is_shown_N = batch.trajectories.length_N, is_good_N & batch.is_fresh_N

        def mean_at_stop(values_NxT):
            return _mean(jnp.take_along_axis(values_NxT, length_N[:, None], 1)[:, 0], is_shown_N)

        return {
            "log_ratio_var": within_prompt_variance(g_N, is_shown_N, self._samples_per_prompt),
            "length": _mean(length_N.astype(log_r_NxT.dtype), batch.is_fresh_N),
            **{name: mean_at_stop(values_NxT) for name, values_NxT in batch.components.items()},
            "log_r": mean_at_stop(log_r_NxT),
        }

    def _in_microbatches(self, x: jax.Array) -> jax.Array:
        """[rows, ..] -> [microbatches, shards, rows of a shard, ..], every device keeping its own prompts' rows."""
        apart = x.reshape(self._shards, self._microbatches, -1, *x.shape[1:])
        return jnp.moveaxis(apart, 1, 0)

    def _in_one(self, x: jax.Array) -> jax.Array:
        """The inverse of `_in_microbatches`: [microbatches, shards, rows of a shard] -> [rows]."""
        return jnp.moveaxis(x, 0, 1).reshape(-1)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is not above the limit."""
    return next(each for each in range(min(number, limit), 0, -1) if number % each == 0)


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
