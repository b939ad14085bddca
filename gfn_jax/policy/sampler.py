"""Sampling continuations: prompts are encoded once, then one loop decodes all of their samples.

Samples that have ended cost what others do, as long as they are in the batch. Where that is noticed, the loop goes on
with three eighths of each prompt's samples as soon as no prompt has more that have not ended.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from gfn_jax.models.decoding import Cache, Decoder
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.policy.behaviour import ON_POLICY, Behaviour, behaviour_logits, draw_items, draw_temperature
from gfn_jax.policy.masks import Rules, mask_logits
from gfn_jax.types import Prompts, Scores, Trajectories, checked

WORTH_NARROWING = 1e9
"""FLOPs of the layers' products for one token of all samples from which on the loop is compiled for fewer, too."""

T = TypeVar("T")


@struct.dataclass
class _Texts:
    """What was drawn so far, a row for each sample, those of a prompt one behind the other."""

    is_running_N: jax.Array
    trajectories: Trajectories
    scores: Scores


@struct.dataclass
class _Decoding:
    """The loop's state when `step` tokens of every continuation are drawn, the last of which no model has read.

    A prompt's Z slots hold the samples `sample_BxZ` of it; row by row they are N = B Z. Caches are the policy's, and
    behind it the frozen model's where its logits are needed, too.
    """

    step: Int[Array, ""]
    sample_BxZ: Int[Array, "B Z"]
    tokens_BxZ: Int[Array, "B Z"]
    caches: tuple[Cache, ...]
    texts: _Texts


def _of_slots(slots_BxY: jax.Array, rows: T) -> T:
    """Of arrays with a row for each slot, prompt by prompt, those of these slots."""

    def chosen(x: jax.Array) -> jax.Array:
        by_prompt = x.reshape(len(slots_BxY), -1, *x.shape[1:])
        slots = slots_BxY.reshape(*slots_BxY.shape, *[1] * (x.ndim - 1))
        return jnp.take_along_axis(by_prompt, slots, axis=1).reshape(-1, *x.shape[1:])

    return jax.tree.map(chosen, rows)


def _widths(policy: LanguageModel, batch: int, samples: int) -> tuple[int, ...]:
    """How many of each prompt's samples the loop decodes at once, first and later.

    An accelerator's token takes as long as reading the weights does, however few the samples.
    """
    flops = 2 * policy.architecture.layer_weights * batch * samples
    if policy.layout.has_few_kernels or flops < WORTH_NARROWING:
        return (samples,)
    return tuple(sorted({samples, -(-samples * 3 // 8)}, reverse=True))


class _Loop:
    """Decodes the samples of a batch of prompts; `finished(first())` are all of them."""

    def __init__(
        self,
        policy: LanguageModel,
        frozen: LanguageModel,
        rules: Rules,
        prompts: Prompts,
        samples: int,
        behaviour: Behaviour,
        key: jax.Array,
    ):
        temperature_key, self._token_key = jax.random.split(key)
        self._temperature = draw_temperature(behaviour, temperature_key)
        self._rules, self._behaviour = rules, behaviour
        self._batch, self._samples = prompts.length_B.shape[0], samples
        is_apart = rules.needs_frozen_logits and frozen is not policy
        self._models = (policy, frozen) if is_apart else (policy,)
        self._decoders = [Decoder(model, prompts, samples, rules.max_len) for model in self._models]

    def first(self) -> _Decoding:
        """The state with every text's first token."""
        batch, samples, length = self._batch, self._samples, self._rules.max_len
        hidden = [decoder.first_hidden_BxSxD for decoder in self._decoders]
        wide = jnp.promote_types(hidden[0].dtype, jnp.float32)
        nowhere_NxT = jnp.zeros((batch * samples, length + 1), bool)
        tokens_NxL = jnp.zeros((batch * samples, length), jnp.int32)
        texts = _Texts(
            is_running_N=jnp.ones(batch * samples, bool),
            trajectories=Trajectories(tokens_NxL, tokens_NxL[:, 0], nowhere_NxT),
            scores=Scores(tokens_NxL.astype(wide), jnp.zeros(nowhere_NxT.shape, wide), nowhere_NxT),
        )
        step, sample_BxS = jnp.zeros((), jnp.int32), jnp.broadcast_to(jnp.arange(samples), (batch, samples))
        tokens_BxS, texts = self._drawn(step, sample_BxS, hidden, texts)
        caches = tuple(decoder.empty_cache for decoder in self._decoders)
        return _Decoding(step + 1, sample_BxS, tokens_BxS, caches, texts)

    def finished(self, state: _Decoding, widths: tuple[int, ...]) -> _Texts:
        """The texts as they are when all have ended, or are at the maximum length.

        `widths` falls from the slots that a prompt has now to those that it has at last.
        """
        fewer = widths[1] if len(widths) > 1 else 0

        def goes_on(state: _Decoding) -> jax.Array:
            running_B = state.texts.is_running_N.reshape(self._batch, -1).sum(1)
            return (state.step < self._rules.max_len) & (running_B.max() > fewer)

        state = jax.lax.while_loop(goes_on, self._longer, state)
        if not fewer:
            return state.texts
        # Those that still run come first; as many as there are slots for, but at the maximum length.
        order_BxZ = jnp.argsort(~state.texts.is_running_N.reshape(self._batch, -1), axis=1)
        rest = self.finished(self._narrowed(state, order_BxZ[:, :fewer]), widths[1:])
        slot_BxZ = jnp.argsort(order_BxZ, axis=1)
        went_on_N = (slot_BxZ < fewer).reshape(-1)

        def joined(later: jax.Array, now: jax.Array) -> jax.Array:
            return jnp.where(went_on_N.reshape(-1, *[1] * (now.ndim - 1)), later, now)

        return jax.tree.map(joined, _of_slots(jnp.minimum(slot_BxZ, fewer - 1), rest), state.texts)

    def _narrowed(self, state: _Decoding, slots_BxY: jax.Array) -> _Decoding:
        """Goes on with these slots of each prompt alone."""
        sample_BxY, tokens_BxY = (
            jnp.take_along_axis(x, slots_BxY, axis=1) for x in (state.sample_BxZ, state.tokens_BxZ)
        )
        caches = tuple(
            decoder.reordered(cache, slots_BxY) for decoder, cache in zip(self._decoders, state.caches, strict=True)
        )
        return _Decoding(state.step, sample_BxY, tokens_BxY, caches, _of_slots(slots_BxY, state.texts))

    def _longer(self, state: _Decoding) -> _Decoding:
        """Every text with one more token, or ended."""
        both = zip(self._decoders, state.caches, strict=True)
        read = [decoder.advance(state.tokens_BxZ, state.step - 1, cache) for decoder, cache in both]
        tokens_BxZ, texts = self._drawn(state.step, state.sample_BxZ, [hidden for hidden, _ in read], state.texts)
        caches = tuple(cache for _, cache in read)
        return _Decoding(state.step + 1, state.sample_BxZ, tokens_BxZ, caches, texts)

    def _drawn(
        self, step: jax.Array, sample_BxZ: jax.Array, hidden_BxZxD: Sequence[jax.Array], texts: _Texts
    ) -> tuple[jax.Array, _Texts]:
        """Each text's next token, 0 where it has ended, and the texts with it and with its log-probability.

        The models' hidden states are what it is read from.
        """
        rules = self._rules
        both = [
            model.logits(hidden.reshape(-1, hidden.shape[-1]))
            for model, hidden in zip(self._models, hidden_BxZxD, strict=True)
        ]
        logits = mask_logits(rules, both[0], step, both[-1])
        log_total_N = jax.nn.logsumexp(logits, axis=-1)
        draw_key = jax.random.fold_in(self._token_key, step)
        uniform = jax.random.uniform(draw_key, (2, self._batch * self._samples), logits.dtype)
        uniform = uniform.reshape(2, self._batch, self._samples)
        if sample_BxZ.shape[1] < self._samples:
            uniform = jnp.take_along_axis(uniform, sample_BxZ[None], axis=2)
        tokens = draw_items(uniform.reshape(2, -1), behaviour_logits(self._behaviour, logits, self._temperature))
        log_pterm_N = logits[:, rules.terminator] - log_total_N
        goes_on = texts.is_running_N & (tokens != rules.terminator)
        may_stop = texts.is_running_N & (log_pterm_N > -jnp.inf)
        tokens = jnp.where(goes_on, tokens, 0)
        log_pf_N = logits[jnp.arange(len(tokens)), tokens] - log_total_N
        texts = _written(texts, step, tokens, goes_on, may_stop, log_pf_N, log_pterm_N)
        return tokens.reshape(sample_BxZ.shape), texts


def _written(
    texts: _Texts,
    step: jax.Array,
    tokens_N: jax.Array,
    goes_on_N: jax.Array,
    may_stop_N: jax.Array,
    log_pf_N: jax.Array,
    log_pterm_N: jax.Array,
) -> _Texts:
    """What was drawn and scored so far, and this step's."""
    drawn, scores = texts.trajectories, texts.scores

    def with_column(whole: jax.Array, column: jax.Array) -> jax.Array:
        return whole.at[:, step].set(jnp.where(goes_on_N, column, whole[:, step]))

    is_terminable_NxT = drawn.is_terminable_NxT.at[:, step].set(may_stop_N)
    return _Texts(
        goes_on_N,
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

    The loop ends when every continuation has. Random numbers depend on the key, a row's place in the
    batch and the number of its rows alone. To sample the frozen model under the same masks, pass it as the policy too.
    """
    loop = _Loop(policy, frozen, rules, prompts, samples_per_prompt, behaviour, key)
    texts = loop.finished(loop.first(), _widths(policy, prompts.length_B.shape[0], samples_per_prompt))
    # Texts that still run are at the maximum length, where the stop is forced: its log-probability is 0.
    is_terminable_NxT = texts.trajectories.is_terminable_NxT.at[:, rules.max_len].set(texts.is_running_N)
    return (
        dataclasses.replace(texts.trajectories, is_terminable_NxT=is_terminable_NxT),
        dataclasses.replace(texts.scores, is_terminable_NxT=is_terminable_NxT),
    )
