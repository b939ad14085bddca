"""The reward's temperature: log R = (components combined) / temperature(step)."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Temperature:
    """Linear from `start` to `end` over `horizon` optimiser steps, then constant; horizon 0 is `end` at once."""

    start: float = struct.field(pytree_node=False)
    end: float = struct.field(pytree_node=False)
    horizon: int = struct.field(pytree_node=False)

    def at(self, step: jax.Array) -> jax.Array:
        progress = jnp.clip(step / max(self.horizon, 1), 0, 1) if self.horizon else jnp.ones(())
        return self.start + (self.end - self.start) * progress
