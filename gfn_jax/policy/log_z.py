"""A learned log Z(x): linear in the frozen model's hidden state at the prompt's end, so that it generalises."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.types import Prompts, checked

Head = dict[str, jax.Array]


def new_head(width: int, dtype: jnp.dtype) -> Head:
    """A head that says 0 for every prompt."""
    return {"weight": jnp.zeros(width, dtype), "bias": jnp.zeros((), dtype)}


@checked
def log_z(head: Head, frozen: LanguageModel, prompts: Prompts) -> Float[Array, " B"]:
    """The head's log Z of every prompt."""
    hidden_BxD = jax.lax.stop_gradient(frozen.encode(prompts, room=prompts.tokens_BxP.size)[1].last_hidden_BxD)
    features_BxD = hidden_BxD.astype(head["weight"].dtype) / math.sqrt(hidden_BxD.shape[1])
    return features_BxD @ head["weight"] + head["bias"]
