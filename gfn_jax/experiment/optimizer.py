"""The optimiser and its learning rate."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gfn_jax.config.schema import Train


def make_schedule(config: Train) -> optax.Schedule:
    """Linear warm-up from learning_rate / (warmup_steps + 1), never 0, then a cosine decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (config.warmup_steps + 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(config.decay_steps, config.warmup_steps + 1),
        end_value=config.learning_rate * config.final_learning_rate,
    )
    return lambda step: schedule(jnp.asarray(step, float))  # in float64 where there is one: optax goes by the step's


def make_optimizer(config: Train, log_z_learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """Clipped AdamW for the adapter, and Adam with the same schedule on its own scale for log Z.

    Its `update` is told the `step` (from 0) that the schedule is at: the optimiser's own count stands still where a
    step changes nothing.
    """
    schedule = make_schedule(config)
    log_z_scale = log_z_learning_rate / config.learning_rate
    adam = optax.scale_by_adam(config.adam_b1, config.adam_b2)
    return optax.partition(
        {
            "adapter": optax.chain(
                optax.clip_by_global_norm(config.max_grad_norm),
                adam,
                optax.add_decayed_weights(config.weight_decay),
                _at_rate(schedule),
            ),
            "log_z": optax.chain(adam, _at_rate(lambda step: log_z_scale * schedule(step))),
        },
        {"adapter": "adapter", "log_z": "log_z"},
    )


def _at_rate(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Goes down by the rate of the step that it is told."""

    def init(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        rate_now = jnp.asarray(rate(told["step"]))
        return jax.tree.map(lambda change: -rate_now.astype(change.dtype) * change, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
