"""Beam search and diverse beam search (Vijayakumar et al. 2018) under the policy's masks.

A continuation's score is the sum of its tokens' log-probabilities, ⊤ included, under the masked model: there is
no length penalty. In diverse beam search the beams are split into groups that choose one after the other, and a
token costs the groups behind `diversity_penalty` for each beam of this step that chose it before them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from gfn_jax.models.decoding import Cache, Decoder
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.policy.largest import largest
from gfn_jax.policy.masks import Rules, mask_logits
from gfn_jax.types import Prompts, checked, trailing


@struct.dataclass
class Found:
    """The best continuations of every prompt, best first: tokens padded on the right with 0, and what they score.

    `log_p_BxS` is less penalties, and -inf where the masks leave a prompt fewer continuations than were asked for.
    """

    tokens_BxSxL: Int[Array, "B S L"]
    length_BxS: Int[Array, "B S"]
    log_p_BxS: Float[Array, "B S"]


@struct.dataclass
class _Search:
    """The loop's state before token number `step`: the beams that go on, and each group's best that have ended."""

    step: Int[Array, ""]
    hidden_BxSxD: Float[Array, "B S D"]
    cache: Cache
    tokens_BxSxL: Int[Array, "B S L"]
    log_p_BxS: Float[Array, "B S"]
    ended: Found


@checked
def beam_search(
    model: LanguageModel, rules: Rules, prompts: Prompts, *, beams: int, groups: int = 1, diversity_penalty: float = 0.0
) -> Found:
    """The ended continuations that `beams` beams find for every prompt, as many as there are beams.

    A prompt's search ends where no beam that goes on scores above the worst of the ended. Support masks are
    relative to `model` itself. Raises `ValueError` where the groups do not divide the beams.
    """
    if beams % groups:
        raise ValueError(f"{groups} groups do not divide {beams} beams")
    width, length = beams // groups, rules.max_len
    decoder = Decoder(model, prompts, beams, length)
    select = largest if model.layout.has_few_kernels else jax.lax.top_k  # which on a CPU sorts nothing
    batch = prompts.length_B.shape[0]

    def choose(search: _Search, group: slice, scored: jax.Array, is_open_B: jax.Array):
        """Of a group's beams with their next tokens, scored [B, width, V]: the best that go on, and all ended ones."""
        log_p, index = select(scored.reshape(batch, -1), 2 * width)  # so many that enough of them go on
        beam, token = index // scored.shape[-1], (index % scored.shape[-1]).astype(jnp.int32)
        histories = jnp.take_along_axis(search.tokens_BxSxL[:, group], beam[..., None], 1)
        is_end = token == rules.terminator
        # Only the likeliest `width` may end: those behind them are there in case that these all do.
        may_end = is_end & (jnp.arange(2 * width) < width)[None, :] & is_open_B[:, None]
        new = Found(histories, jnp.full_like(token, search.step), jnp.where(may_end, log_p, -jnp.inf))
        ended = _merge(jax.tree.map(lambda x: x[:, group], search.ended), new)
        log_p, chosen = jax.lax.top_k(jnp.where(is_end, -jnp.inf, log_p), width)
        beam, token = (jnp.take_along_axis(x, chosen, 1) for x in (beam, token))
        return log_p, beam, token, ended

    def expand(search: _Search) -> tuple[_Search, jax.Array, jax.Array]:
        """One more token, or the end, for the beams of all groups; which beams went on, and by which tokens."""
        logits = model.logits(search.hidden_BxSxD)
        log_p_BxSxV = jax.nn.log_softmax(mask_logits(rules, logits, search.step, logits), axis=-1)
        vocabulary = log_p_BxSxV.shape[-1]
        uses_BxV = jnp.zeros((batch, vocabulary), log_p_BxSxV.dtype)
        parts = []
        is_open_BxG = _is_open(search, width)
        for number, first in enumerate(range(0, beams, width)):
            group, is_open_B = slice(first, first + width), is_open_BxG[:, number]
            scored = log_p_BxSxV[:, group] - diversity_penalty * uses_BxV[:, None] + search.log_p_BxS[:, group, None]
            log_p, beam, token, ended = choose(search, group, scored, is_open_B)
            parts.append((log_p, beam + first, token, ended))
            uses = jax.nn.one_hot(token, vocabulary, dtype=uses_BxV.dtype).sum(1)
            uses_BxV += jnp.where(is_open_B[:, None], uses, 0)
        log_p, beam, token, ended = jax.tree.map(lambda *of_groups: jnp.concatenate(of_groups, 1), *parts)
        at = jnp.minimum(search.step, length - 1)  # at the maximum length all beams end: nothing to write
        histories = jnp.take_along_axis(search.tokens_BxSxL, beam[..., None], 1)
        histories = histories.at[:, :, at].set(jnp.where(search.step < length, token, histories[:, :, at]))
        return dataclasses.replace(search, tokens_BxSxL=histories, log_p_BxS=log_p, ended=ended), beam, token

    def body(search: _Search) -> _Search:
        search, beam, token = expand(search)
        hidden, cache = decoder.advance(token, search.step, decoder.reordered(search.cache, beam))
        return dataclasses.replace(search, step=search.step + 1, hidden_BxSxD=hidden, cache=cache)

    hidden = decoder.first_hidden_BxSxD
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    is_first = jnp.arange(beams) % width == 0  # of its group: the others would be the same continuation
    nothing = jnp.full((batch, beams), -jnp.inf, wide)
    tokens = jnp.zeros((batch, beams, length), jnp.int32)
    first = _Search(
        step=jnp.zeros((), jnp.int32),
        hidden_BxSxD=hidden,
        cache=decoder.empty_cache,
        tokens_BxSxL=tokens,
        log_p_BxS=jnp.where(trailing(is_first, 2), jnp.zeros_like(nothing), nothing),
        ended=Found(tokens, jnp.zeros((batch, beams), jnp.int32), nothing),
    )

    def may_improve(search: _Search) -> jax.Array:
        return (search.step < length) & _is_open(search, width).any()

    last = jax.lax.while_loop(may_improve, body, first)
    # Beams still running stand at the maximum length, where the end is forced; of others none can improve any more.
    return _sorted(expand(last)[0].ended, beams)


def _is_open(search: _Search, width: int) -> jax.Array:
    """Whether a beam that goes on scores above the worst of its group's ended ones, [B, groups]."""
    batch = search.log_p_BxS.shape[0]
    running, ended = (log_p.reshape(batch, -1, width) for log_p in (search.log_p_BxS, search.ended.log_p_BxS))
    return running.max(-1) > ended.min(-1)


def _merge(ended: Found, new: Found) -> Found:
    """The best of both, as many as there were."""
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), ended, new)
    return _sorted(both, ended.log_p_BxS.shape[1])


def _sorted(found: Found, count: int) -> Found:
    """The best `count`, best first."""
    best = jnp.argsort(-found.log_p_BxS, axis=1, stable=True)[:, :count]
    return jax.tree.map(lambda x: jnp.take_along_axis(x, best.reshape(*best.shape, *(1,) * (x.ndim - 2)), 1), found)
