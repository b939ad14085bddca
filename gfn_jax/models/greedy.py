"""Greedy decoding of a language model as it is: the likeliest token at every step."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from gfn_jax.models.decoding import Cache, Decoder
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.types import Prompts, checked, trailing


@struct.dataclass
class Decoded:
    """Continuations padded on the right with token 0.

    `length_B` counts the tokens, the one that ends a continuation included; `log_p_B` is the model's
    log-probability of them all, over its full vocabulary.
    """

    tokens_BxL: Int[Array, "B L"]
    length_B: Int[Array, " B"]
    log_p_B: Float[Array, " B"]


@struct.dataclass
class _Decoding:
    step: Int[Array, ""]
    hidden_BxD: Float[Array, "B D"]
    cache: Cache
    is_running_B: Bool[Array, " B"]
    decoded: Decoded


@checked
def decode_greedily(
    model: LanguageModel,
    prompts: Prompts,
    ends_V: Bool[Array, " V"],
    *,
    min_new_tokens: int,
    max_new_tokens: int,
) -> Decoded:
    """Continues every prompt until an item of `ends_V`, which none may take before `min_new_tokens`."""
    batch = prompts.length_B.shape[0]
    decoder = Decoder(model, prompts, 1, max_new_tokens)

    def choose(state: _Decoding) -> tuple[jax.Array, _Decoding]:
        logits_BxV = model.logits(state.hidden_BxD)
        is_early = state.step < min_new_tokens
        tokens = jnp.where(trailing(ends_V, 2) & is_early, -jnp.inf, logits_BxV).argmax(-1).astype(jnp.int32)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits_BxV, axis=-1), tokens[:, None], 1)[:, 0]
        running, decoded = state.is_running_B, state.decoded
        tokens = jnp.where(running, tokens, 0)
        decoded = Decoded(
            decoded.tokens_BxL.at[:, state.step].set(tokens),
            decoded.length_B + running,
            decoded.log_p_B + jnp.where(running, log_p, 0),
        )
        goes_on = running & ~ends_V[tokens]
        return tokens, _Decoding(state.step, state.hidden_BxD, state.cache, goes_on, decoded)

    def body(state: _Decoding) -> _Decoding:
        tokens, chosen = choose(state)
        hidden, cache = decoder.advance(tokens[:, None], state.step, state.cache)
        return _Decoding(state.step + 1, hidden[:, 0], cache, chosen.is_running_B, chosen.decoded)

    wide = jnp.promote_types(decoder.first_hidden_BxSxD.dtype, jnp.float32)
    first = _Decoding(
        step=jnp.zeros((), jnp.int32),
        hidden_BxD=decoder.first_hidden_BxSxD[:, 0],
        cache=decoder.empty_cache,
        is_running_B=jnp.ones(batch, bool),
        decoded=Decoded(
            jnp.zeros((batch, max_new_tokens), jnp.int32), jnp.zeros(batch, jnp.int32), jnp.zeros(batch, wide)
        ),
    )
    last_step = max_new_tokens - 1
    state = jax.lax.while_loop(lambda state: (state.step < last_step) & state.is_running_B.any(), body, first)
    return choose(state)[1].decoded
