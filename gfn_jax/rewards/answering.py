"""Answers of the frozen model to prompts: greedy, in batches of one size, cut at the first line break."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.config.schema import Answers
from gfn_jax.models.greedy import decode_greedily
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.rewards.protocol import Call
from gfn_jax.runtime.errors import UserError
from gfn_jax.text.prompts import begins_with, bucket_of, pad_to_bucket
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.types import Prompts

_MULTIPLE = 8  # that lengths are rounded up to


class Answer(NamedTuple):
    """`log_p` is log p_frozen of its `tokens` tokens, the one that ends it included."""

    text: str
    log_p: float
    tokens: int

    @property
    def log_p_per_token(self) -> float:
        return self.log_p / self.tokens


class Answerer:
    """Greedy answers by the frozen model, without adapter and without the policy's masks."""

    def __init__(
        self,
        config: Answers,
        structure: ModelStructure,
        tokenizer: Tokenizer,
        buckets: Sequence[int],
        rows: jax.sharding.Sharding,
        beginning: Sequence[int],
        room: int,
    ):
        """`rows` is how a batch lies on the mesh; prompts are padded to `room` tokens, or longer ones to a bucket.

        A batch's prompts that begin with the tokens of `beginning` go through the model from there on alone.
        """
        self._tokenizer, self._batch_size, self._rows = tokenizer, config.batch_size, rows
        self._beginning = tuple(beginning)
        longest = structure.architecture.context - config.max_new_tokens
        if longest < room:
            raise UserError(
                f"reward.answers.max_new_tokens = {config.max_new_tokens} leaves {longest} tokens of the model's "
                f"context to an answer's prompt, which may need {room}: the template and sampling.max_len"
            )
        self._usual = min(room + -room % _MULTIPLE, longest)
        rarer = {bucket for bucket in (2 * self._usual, *buckets) if self._usual < bucket < longest}
        self._buckets = sorted({self._usual, *rarer, longest})
        ends_V = np.zeros(structure.architecture.padded_vocab_size, bool)
        for index, item in enumerate(tokenizer.items):
            ends_V[index] = index in tokenizer.special_ids or b"\n" in item

        @jax.jit
        def decode(frozen: Weights, prompts: Prompts):
            return decode_greedily(
                structure.frozen(frozen),
                prompts,
                jnp.asarray(ends_V),
                min_new_tokens=config.min_new_tokens,
                max_new_tokens=config.max_new_tokens,
            )

        self._decode = decode

    def answer(self, frozen: Weights, prompts: Sequence[str]) -> list[Answer]:
        """One answer to each prompt; of one that is longer than the context, which only noise is, the end counts."""
        encoded = [ids[-self._buckets[-1] :] for ids in self._tokenizer.encode_prompts(prompts)]
        members: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for index, ids in enumerate(encoded):
            beginning = self._beginning if begins_with(ids, self._beginning) else ()
            members.setdefault((bucket_of(len(ids), self._buckets), beginning), []).append(index)
        waiting = []
        for (bucket, beginning), indices in sorted(members.items()):
            for first in range(0, len(indices), self._batch_size):
                chosen = indices[first : first + self._batch_size]
                filled = chosen + chosen[-1:] * (self._batch_size - len(chosen))
                batch = pad_to_bucket([encoded[index] for index in filled], [bucket], bucket, beginning)
                waiting.append((chosen, self._decode(frozen, jax.device_put(batch, self._rows))))
        answers: dict[int, Answer] = {}
        for chosen, decoded in waiting:
            decoded = jax.device_get(decoded)
            rows = [row[:length].tolist() for row, length in zip(decoded.tokens_BxL, decoded.length_B, strict=True)]
            texts = self._tokenizer.decode_batch(rows)
            for place, index in enumerate(chosen):
                text = texts[place].partition("\n")[0].strip()
                answers[index] = Answer(text, float(decoded.log_p_B[place]), len(rows[place]))
        return [answers[index] for index in range(len(prompts))]

    def to_compile(self, frozen: Weights) -> list[Call]:
        """What `answer` will call."""
        prompts = Prompts.shapes(self._batch_size, self._usual, self._rows, self._beginning)
        return [Call(self._decode, (frozen, prompts))]
