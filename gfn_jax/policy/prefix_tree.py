"""The exact distribution of a policy over all that it can write, where that is little enough to be listed.

Besides the axes of `types.py`: W words (what may stand in a continuation), Y strings of at most L of them, the
shortest first, and I inner strings: those of fewer than L, which may go on.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.packing import Packing
from gfn_jax.policy.masks import Rules, mask_logits
from gfn_jax.policy.read_out import CHUNK_ELEMENTS
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts, Trajectories, checked

MOST_STRINGS = 20_000


class PrefixTree:
    """All strings that the rules know: of words alone, not longer than the maximum length.

    Raises `UserError` where there are more than `MOST_STRINGS`.
    """

    def __init__(self, rules: Rules):
        self._rules = rules
        self._words_W = np.flatnonzero(rules.is_word_V)
        words, longest = len(self._words_W), rules.max_len
        count = sum(words**length for length in range(longest + 1))
        if count > MOST_STRINGS:
            raise UserError(
                f"{words} vocabulary items make {count} strings of up to sampling.max_len = {longest}: an exact "
                f"distribution lists {MOST_STRINGS} at most"
            )
        # Strings of L - 1 words have all inner strings as prefixes: each is read out of the first that begins with it.
        self._depth = max(longest - 1, 1)
        inner = [(length, number) for length in range(longest) for number in range(words**length)]
        self._length_I = np.array([length for length, _ in inner])
        self._row_I = np.array([number * words ** (self._depth - length) for length, number in inner])

    @property
    def strings(self) -> list[tuple[int, ...]]:
        """Every string as token ids."""
        lengths, words = range(self._rules.max_len + 1), self._words_W.tolist()
        return [string for length in lengths for string in itertools.product(words, repeat=length)]

    def trajectories(self, prompts: int) -> Trajectories:
        """Every string as a continuation of each of so many prompts (prompt-major), on the host."""
        strings = self.strings
        tokens_YxL = np.zeros((len(strings), self._rules.max_len), np.int32)
        for row, string in zip(tokens_YxL, strings, strict=True):
            row[: len(string)] = string
        lengths = np.array([len(string) for string in strings], np.int32)
        return Trajectories.given(jnp.tile(tokens_YxL, (prompts, 1)), jnp.tile(lengths, prompts)).rewarded_whole()

    @checked
    def log_probs(self, policy: LanguageModel, frozen: LanguageModel, prompts: Prompts) -> Float[Array, "B Y"]:
        """log π(y ⊤ | x) of every string y, under the masks that are sampled with; -inf where they forbid it."""
        batch, words, longest = prompts.length_B.shape[0], len(self._words_W), self._rules.max_len
        models = (policy, frozen) if self._rules.needs_frozen_logits else (policy,)
        hidden = tuple(self._inner_states(model, prompts) for model in models)

        def read_out(inner: tuple[jax.Array, ...]) -> jax.Array:
            step, *hidden_BxD = inner
            logits, *frozen_logits = [model.logits(hidden) for model, hidden in zip(models, hidden_BxD, strict=True)]
            masked = mask_logits(self._rules, logits, step, frozen_logits[0] if frozen_logits else None)
            return jax.nn.log_softmax(masked, axis=-1)[:, np.append(self._words_W, self._rules.terminator)]

        at_once = max(1, CHUNK_ELEMENTS // (batch * policy.architecture.padded_vocab_size))
        steps = jnp.asarray(self._length_I)
        log_next_IxBxW, log_end_IxB = jnp.split(jax.lax.map(read_out, (steps, *hidden), batch_size=at_once), [words], 2)
        log_next_BxIxW, log_end_BxI = jnp.moveaxis(log_next_IxBxW, 1, 0), log_end_IxB[..., 0].T
        # Length by length: what leads to a string, and then to its end or to the strings of one word more.
        log_prefix = jnp.zeros((batch, 1), log_end_BxI.dtype)
        ended, first = [], 0
        for length in range(longest):
            own = slice(first, first + words**length)
            ended.append(log_prefix + log_end_BxI[:, own])
            log_prefix = (log_prefix[:, :, None] + log_next_BxIxW[:, own]).reshape(batch, -1)
            first = own.stop
        return jnp.concatenate([*ended, log_prefix], axis=1)  # at the maximum length the stop is forced

    def _inner_states(self, model: LanguageModel, prompts: Prompts) -> jax.Array:
        """The hidden states [I, B, D] behind every inner string, from one teacher-forced pass."""
        rows = np.array(list(itertools.product(self._words_W, repeat=self._depth)), np.int32)
        tokens_BxSxL = jnp.broadcast_to(jnp.asarray(rows), (prompts.length_B.shape[0], *rows.shape))
        packing = Packing.whole(prompts, len(rows), self._depth, model.layout.shards)
        hidden_BxSxTxD = packing.apart(model.states(prompts, tokens_BxSxL, packing))
        return jnp.moveaxis(hidden_BxSxTxD[:, self._row_I, self._length_I], 1, 0)
