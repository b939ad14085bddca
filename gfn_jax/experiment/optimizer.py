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


def make_optimizer(config: Train, log_z_learning_rate: float) -> optax.GradientTransformation:
    """Clipped AdamW for the adapter, and Adam with the same schedule on its own scale for log Z."""
    schedule = make_schedule(config)
    log_z_scale = log_z_learning_rate / config.learning_rate
    return optax.partition(
        {
            "adapter": optax.chain(
                optax.clip_by_global_norm(config.max_grad_norm),
                optax.adamw(schedule, config.adam_b1, config.adam_b2, weight_decay=config.weight_decay),
            ),
            "log_z": optax.adam(lambda step: log_z_scale * schedule(step), config.adam_b1, config.adam_b2),
        },
        {"adapter": "adapter", "log_z": "log_z"},
    )


def at_step(state: optax.OptState, step: jax.Array) -> optax.OptState:
    """An optimiser's state whose schedules are at a step (from 0), however many steps have changed anything."""

    def is_of_schedule(path: tuple[Any, ...], value: Any) -> bool:
        return path[-1].tuple_name == optax.ScaleByScheduleState.__name__

    return optax.tree.set(state, is_of_schedule, count=step)
