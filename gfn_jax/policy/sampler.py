"""Sampling continuations: prompts are encoded once, then one loop decodes all of their samples.

Behaviour settings change what is sampled, never the log-probabilities that are reported.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from gfn_jax.models.architecture import VOCABULARY_MULTIPLE
from gfn_jax.models.decoding import Cache, Decoder
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.policy.masks import Rules, mask_logits
from gfn_jax.types import Prompts, Scores, Trajectories, checked


@struct.dataclass
class Behaviour:
    """How samples are drawn from the policy: on-policy unless told otherwise.

    With probability `temperature_prob` a whole batch is sampled at a temperature drawn uniformly
    from [`temperature_low`, `temperature_high`], else at 1. `top_k` = 0 and no `top_p` are off.
    As an argument of a compiled function, temperatures and `top_p` may change without compiling again.
    """

    temperature_low: float | jax.Array = 1.0
    temperature_high: float | jax.Array = 1.0
    temperature_prob: float | jax.Array = 0.0
    top_k: int = struct.field(pytree_node=False, default=0)
    top_p: float | jax.Array | None = None


ON_POLICY = Behaviour()


@struct.dataclass
class _Decoding:
    """The loop's state before the token number `step` of every continuation is drawn."""

    step: Int[Array, ""]
    hidden_NxD: Float[Array, "N D"]
    frozen_hidden_NxD: Float[Array, "N D"] | None
    cache: Cache
    frozen_cache: Cache | None
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
    if behaviour.top_p is not None:
        p, top_p = jax.nn.softmax(logits, axis=-1), behaviour.top_p
        logits = _likeliest(logits, lambda is_in_NxV: jnp.where(is_in_NxV, p, 0).sum(-1) >= top_p)
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
def draw_items(key: Key[Array, ""], logits: Float[Array, "N V"]) -> Int[Array, " N"]:
    """One item of each row, in proportion to the exponentials of its logits; one of -inf is never drawn.

    By inversion, first of a group of neighbours, then within it: two random numbers for each row, where the
    Gumbel trick takes one for each item.
    """
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    # As many groups as the vocabulary's size is a multiple of: a vocabulary that is split over devices stays so.
    groups = weights.reshape(len(weights), math.gcd(weights.shape[1], VOCABULARY_MULTIPLE), -1)
    which, where = jax.random.uniform(key, (2, len(weights)), weights.dtype)
    group_N = _invert(which, groups.sum(-1))
    inside = jnp.take_along_axis(groups, group_N[:, None, None], axis=1)[:, 0]
    return (group_N * groups.shape[-1] + _invert(where, inside)).astype(jnp.int32)


def _invert(uniform_N: jax.Array, weights_NxI: jax.Array) -> jax.Array:
    """The first item up to which the weights sum to more than this share of them all."""
    sums = jnp.cumsum(weights_NxI, axis=1)
    is_behind = (sums > uniform_N[:, None] * sums[:, -1:]) & (weights_NxI > 0)
    # Rounded sums may not grow everywhere: where no item is behind, it is the likeliest.
    return jnp.where(is_behind.any(1), is_behind.argmax(1), weights_NxI.argmax(1))


def _written(
    state: _Decoding,
    tokens_N: jax.Array,
    goes_on_N: jax.Array,
    may_stop_N: jax.Array,
    log_pf_N: jax.Array,
    log_pterm_N: jax.Array,
) -> tuple[Trajectories, Scores]:
    """What was drawn and scored so far, and this step's."""
    drawn, scores, step = state.trajectories, state.scores, state.step
    at = jnp.minimum(step, drawn.tokens_NxL.shape[1] - 1)  # at the maximum length every row stops: nothing to write

    def with_column(whole: jax.Array, column: jax.Array) -> jax.Array:
        return whole.at[:, at].set(jnp.where(goes_on_N, column, whole[:, at]))

    is_terminable_NxT = drawn.is_terminable_NxT.at[:, step].set(may_stop_N)
    return (
        Trajectories(with_column(drawn.tokens_NxL, tokens_N), drawn.length_N + goes_on_N, is_terminable_NxT),
        Scores(
            with_column(scores.log_pf_NxL, log_pf_N),
            scores.log_pterm_NxT.at[:, step].set(jnp.where(may_stop_N, log_pterm_N, 0)),
            is_terminable_NxT,
        ),
    )


@checked
def sample(
    policy: LanguageModel,
    frozen: LanguageModel,
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

    decoder = Decoder(policy, prompts, per_prompt, length)
    frozen_decoder = None
    if rules.needs_frozen_logits and frozen is not policy:
        frozen_decoder = Decoder(frozen, prompts, per_prompt, length)

    def advance(decoder: Decoder, tokens_N: jax.Array, step: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        hidden, cache = decoder.advance(tokens_N.reshape(batch, per_prompt), step, cache)
        return hidden.reshape(rows, -1), cache

    def choose(state: _Decoding):
        """Draws every row's next token and writes down the log-probabilities at this state."""
        logits = policy.logits(state.hidden_NxD)
        frozen_logits = logits if state.frozen_hidden_NxD is None else frozen.logits(state.frozen_hidden_NxD)
        logits = mask_logits(rules, logits, state.step, frozen_logits)
        log_total_N = jax.nn.logsumexp(logits, axis=-1)
        draw_key = jax.random.fold_in(token_key, state.step)
        tokens = draw_items(draw_key, behaviour_logits(behaviour, logits, temperature))
        log_pterm_N = logits[:, rules.terminator] - log_total_N
        goes_on = state.is_running_N & (tokens != rules.terminator)
        may_stop = state.is_running_N & (log_pterm_N > -jnp.inf)
        tokens = jnp.where(goes_on, tokens, 0)
        log_pf_N = logits[jnp.arange(rows), tokens] - log_total_N
        return tokens, goes_on, *_written(state, tokens, goes_on, may_stop, log_pf_N, log_pterm_N)

    def body(state: _Decoding) -> _Decoding:
        tokens, goes_on, trajectories, scores = choose(state)
        hidden, cache = advance(decoder, tokens, state.step, state.cache)
        frozen_hidden = frozen_cache = None
        if frozen_decoder is not None and state.frozen_cache is not None:
            frozen_hidden, frozen_cache = advance(frozen_decoder, tokens, state.step, state.frozen_cache)
        return _Decoding(state.step + 1, hidden, frozen_hidden, cache, frozen_cache, goes_on, trajectories, scores)

    hidden = decoder.first_hidden_BxSxD.reshape(rows, -1)
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    nowhere_NxT = jnp.zeros((rows, length + 1), bool)
    first = _Decoding(
        step=jnp.zeros((), jnp.int32),
        hidden_NxD=hidden,
        frozen_hidden_NxD=None if frozen_decoder is None else frozen_decoder.first_hidden_BxSxD.reshape(rows, -1),
        cache=decoder.empty_cache,
        frozen_cache=None if frozen_decoder is None else frozen_decoder.empty_cache,
        is_running_N=jnp.ones(rows, bool),
        trajectories=Trajectories(jnp.zeros((rows, length), jnp.int32), jnp.zeros(rows, jnp.int32), nowhere_NxT),
        scores=Scores(jnp.zeros((rows, length), wide), jnp.zeros((rows, length + 1), wide), nowhere_NxT),
    )
    last = jax.lax.while_loop(lambda state: (state.step < length) & state.is_running_N.any(), body, first)
    # Rows still running stand at the maximum length, where the stop is forced.
    _, _, trajectories, scores = choose(last)
    return trajectories, scores
