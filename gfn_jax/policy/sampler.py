"""Sampling continuations: prompts are encoded once, then one loop decodes all of their samples.

Behaviour settings change what is sampled, never the log-probabilities that are reported.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from gfn_jax.models.gpt2 import GPT2, KeyValues
from gfn_jax.policy.masks import Rules, mask_logits
from gfn_jax.types import Prompts, Scores, Trajectories, checked


@struct.dataclass
class Behaviour:
    """How samples are drawn from the policy: on-policy unless told otherwise.

    With probability `temperature_prob` a whole batch is sampled at a temperature drawn uniformly
    from [`temperature_low`, `temperature_high`], else at 1. `top_k` = 0 and `top_p` = 1 are off.
    """

    temperature_low: float = struct.field(pytree_node=False, default=1.0)
    temperature_high: float = struct.field(pytree_node=False, default=1.0)
    temperature_prob: float = struct.field(pytree_node=False, default=0.0)
    top_k: int = struct.field(pytree_node=False, default=0)
    top_p: float = struct.field(pytree_node=False, default=1.0)


ON_POLICY = Behaviour()


@struct.dataclass
class _Decoding:
    """The loop's state before the token number `step` of every continuation is drawn."""

    step: Int[Array, ""]
    hidden_NxD: Float[Array, "N D"]
    frozen_hidden_NxD: Float[Array, "N D"] | None
    cache: KeyValues
    frozen_cache: KeyValues | None
    is_running_N: jax.Array
    trajectories: Trajectories
    scores: Scores


def draw_temperature(behaviour: Behaviour, key: Key[Array, ""]) -> jax.Array:
    """This batch's behaviour temperature."""
    whether, which = jax.random.split(key)
    tempered = jax.random.uniform(which, (), jnp.float32, behaviour.temperature_low, behaviour.temperature_high)
    return jnp.where(jax.random.uniform(whether) < behaviour.temperature_prob, tempered, 1.0)


@checked
def behaviour_logits(
    behaviour: Behaviour, logits: Float[Array, "N V"], temperature: Float[Array, ""]
) -> Float[Array, "N V"]:
    """The masked logits tempered, then cut to the `top_k` likeliest and to the `top_p` nucleus.

    The nucleus is the smallest set of likeliest items whose probabilities sum to `top_p` or more.
    """
    logits = logits / temperature.astype(logits.dtype)
    if behaviour.top_k:
        logits = _likeliest(logits, lambda is_in_NxV: is_in_NxV.sum(-1) >= behaviour.top_k)
    if behaviour.top_p < 1:
        p = jax.nn.softmax(logits, axis=-1)
        logits = _likeliest(logits, lambda is_in_NxV: jnp.where(is_in_NxV, p, 0).sum(-1) >= behaviour.top_p)
    return logits


def _likeliest(logits: jax.Array, is_enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The logits [N, V] of the fewest likeliest items that are enough, ties included; -inf for the others.

    The least of these logits is found by bisection over all numbers of their type: unlike sorting, that
    leaves a vocabulary that is split over devices where it is.
    """
    bits = jnp.finfo(logits.dtype).bits
    pattern = jax.lax.bitcast_convert_type(logits + 0.0, f"int{bits}")  # there is one zero
    order = jnp.where(pattern < 0, pattern ^ jnp.iinfo(pattern.dtype).max, pattern)  # as the numbers are ordered

    def halve(_, edges):
        low, high = edges  # from the one on there is enough, from the other on there is not
        middle = (low & high) + ((low ^ high) >> 1)
        enough = is_enough(order >= middle[:, None])
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, bits, halve, (order.min(-1), order.max(-1) + 1))
    return jnp.where(order >= low[:, None], logits, -jnp.inf)


@checked
def sample(
    policy: GPT2,
    frozen: GPT2,
    rules: Rules,
    prompts: Prompts,
    key: Key[Array, ""],
    *,
    samples_per_prompt: int,
    behaviour: Behaviour = ON_POLICY,
) -> tuple[Trajectories, Scores]:
    """Draws `samples_per_prompt` continuations of each prompt, and their log-probabilities.

    The loop ends when every continuation has. Random numbers depend on the key and a row's place
    in the batch alone. To sample the frozen model under the same masks, pass it as the policy too.
    """
    batch, per_prompt, length = prompts.length_B.shape[0], samples_per_prompt, rules.max_len
    rows = batch * per_prompt
    temperature_key, token_key = jax.random.split(key)
    temperature = draw_temperature(behaviour, temperature_key)
    row_numbers = jnp.arange(rows)

    def start(model):
        _, prompt = model.encode(prompts)
        hidden = jnp.repeat(prompt.last_hidden_BxD, per_prompt, axis=0)
        return prompt, hidden, model.empty_cache(batch, per_prompt, length)

    def advance(model, tokens_N, step, prompt, cache):
        hidden, cache = model.decode(tokens_N.reshape(batch, per_prompt), step, prompt, cache)
        return hidden.reshape(rows, -1), cache

    prompt, hidden, cache = start(policy)
    frozen_prompt = frozen_hidden = frozen_cache = None
    if rules.needs_frozen_logits and frozen is not policy:
        frozen_prompt, frozen_hidden, frozen_cache = start(frozen)

    def choose(state: _Decoding):
        """Draws every row's next token and writes down the log-probabilities at this state."""
        logits = policy.logits(state.hidden_NxD)
        frozen_logits = logits if state.frozen_hidden_NxD is None else frozen.logits(state.frozen_hidden_NxD)
        logits = mask_logits(rules, logits, state.step, frozen_logits)
        log_p = jax.nn.log_softmax(logits, axis=-1)
        draw_key = jax.random.fold_in(token_key, state.step)
        tokens = jax.random.categorical(draw_key, behaviour_logits(behaviour, logits, temperature)).astype(jnp.int32)
        goes_on = state.is_running_N & (tokens != rules.terminator)
        may_stop = state.is_running_N & (log_p[:, rules.terminator] > -jnp.inf)
        tokens = jnp.where(goes_on, tokens, 0)
        at = jnp.minimum(state.step, length - 1)  # at the maximum length every row stops: nothing to write
        kept = jnp.where(goes_on, tokens, state.trajectories.tokens_NxL[:, at])
        kept_log_pf = jnp.where(goes_on, log_p[row_numbers, tokens], state.scores.log_pf_NxL[:, at])
        trajectories = Trajectories(
            state.trajectories.tokens_NxL.at[:, at].set(kept),
            state.trajectories.length_N + goes_on,
            state.trajectories.is_terminable_NxT.at[:, state.step].set(may_stop),
        )
        scores = Scores(
            state.scores.log_pf_NxL.at[:, at].set(kept_log_pf),
            state.scores.log_pterm_NxT.at[:, state.step].set(jnp.where(may_stop, log_p[:, rules.terminator], 0)),
            trajectories.is_terminable_NxT,
        )
        return tokens, goes_on, trajectories, scores

    def body(state: _Decoding) -> _Decoding:
        tokens, goes_on, trajectories, scores = choose(state)
        hidden, cache = advance(policy, tokens, state.step, prompt, state.cache)
        frozen_hidden, frozen_cache = None, None
        if frozen_prompt is not None:
            frozen_hidden, frozen_cache = advance(frozen, tokens, state.step, frozen_prompt, state.frozen_cache)
        return _Decoding(state.step + 1, hidden, frozen_hidden, cache, frozen_cache, goes_on, trajectories, scores)

    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    nowhere_NxT = jnp.zeros((rows, length + 1), bool)
    first = _Decoding(
        step=jnp.zeros((), jnp.int32),
        hidden_NxD=hidden,
        frozen_hidden_NxD=frozen_hidden,
        cache=cache,
        frozen_cache=frozen_cache,
        is_running_N=jnp.ones(rows, bool),
        trajectories=Trajectories(jnp.zeros((rows, length), jnp.int32), jnp.zeros(rows, jnp.int32), nowhere_NxT),
        scores=Scores(jnp.zeros((rows, length), wide), jnp.zeros((rows, length + 1), wide), nowhere_NxT),
    )
    last = jax.lax.while_loop(lambda state: (state.step < length) & state.is_running_N.any(), body, first)
    # Rows still running stand at the maximum length, where the stop is forced.
    _, _, trajectories, scores = choose(last)
    return trajectories, scores
