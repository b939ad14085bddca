"""Continuations, drawn by any method or given, with what policy and reward say of each."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.evaluation.methods import Method, make_draw
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.mesh import batch_size
from gfn_jax.models.parts import Weights
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.text.prompts import pad_to_bucket
from gfn_jax.types import Prompts, Trajectories

_ROWS = 8
"""Given texts are scored in multiples of so many, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A continuation, and what is said of it.

    remarks     of the reward, for a person to read beside it
    log_pf      log π(y ⊤ | x) under the trained policy at temperature 1, whatever drew it; -inf outside its support
    log_r       log R as the end of training has it
    components  the terms of log R
    """

    text: str
    remarks: Mapping[str, Any]
    log_pf: float
    log_r: float
    components: Mapping[str, float]


class Samples:
    """Says what continuations of a policy's prompts are worth; for a single process."""

    def __init__(self, experiment: Experiment, adapter: Weights):
        self._experiment, self._adapter = experiment, adapter
        structure, rules = experiment.structure, experiment.rules

        @jax.jit
        def worth(adapter: Weights, frozen: Weights, prompts, trajectories: Trajectories, components: Components):
            scores = score(*structure.policy_and_frozen(adapter, frozen), rules, prompts, trajectories)

            def at_end(values_NxT: jax.Array) -> jax.Array:
                return jnp.take_along_axis(values_NxT, trajectories.length_N[:, None], axis=1)[:, 0]

            log_pf_N = scores.log_pf_NxL.sum(1) + at_end(scores.log_pterm_NxT)
            return log_pf_N, at_end(experiment.final_log_r(components)), jax.tree.map(at_end, components)

        self._draw, self._worth = make_draw(structure, rules), worth

    def drawn(
        self, examples: Sequence[Any], method: Method, seed: int, checked: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Any, list[Sample]]]:
        """Every example with its continuations, likeliest first; with fewer where there are no more.

        `checked` is called once the first are drawn, and before the reward is asked about any.
        """
        experiment = self._experiment
        ways = batch_size(experiment.mesh)
        size = min(experiment.config.eval.prompts_per_batch, -(-len(examples) // ways) * ways)
        for number, start in enumerate(range(0, len(examples), size)):
            own = examples[start : start + size]
            padded = list(itertools.islice(itertools.cycle(own), size))
            prompts, key = self._encode(padded), key_for(seed, Purpose.SAMPLING, number)
            weights = self._adapter, experiment.frozen
            trajectories, is_there_N = self._draw(method.draw, *weights, prompts, key, method.arguments)
            if number == 0:
                checked()
            is_asked_N = np.asarray(is_there_N)
            is_asked_N = is_asked_N & (np.arange(len(is_asked_N)) < len(is_asked_N) // size * len(own))
            found = self._said(padded, prompts, trajectories, is_asked_N)
            for example, samples in zip(own, found, strict=False):
                yield example, sorted(samples, key=lambda sample: -sample.log_pf)

    def given(self, example: Any, texts: Sequence[str]) -> list[Sample]:
        """The same of continuations from elsewhere, in their order, with or without the terminator's text.

        Raises `UserError` where one is longer than the policy can write, or goes on after a terminator.
        """
        experiment = self._experiment
        experiment.check_prompts([example], in_buckets=False)
        tokens = [experiment.continuation(text) for text in texts]
        length = experiment.config.sampling.max_len
        for text, own in zip(texts, tokens, strict=True):
            if len(own) > length:
                raise UserError(f"{text[:60]!r} has {len(own)} tokens, and sampling.max_len is {length}")
        rows = -(-len(texts) // _ROWS) * _ROWS
        copies = batch_size(experiment.mesh)
        tokens_SxL, length_S = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
        for row, own in enumerate(tokens):
            tokens_SxL[row, : len(own)], length_S[row] = own, len(own)
        of_all = Trajectories.given(jnp.tile(tokens_SxL, (copies, 1)), jnp.tile(length_S, copies)).rewarded_whole()
        examples = [example] * copies
        is_asked_N = np.arange(copies * rows) < len(texts)  # of the first copy alone
        return self._said(examples, self._encode(examples), experiment.rows.place(of_all), is_asked_N)[0]

    def _said(
        self, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories, is_asked_N: np.ndarray
    ) -> list[list[Sample]]:
        """What is said of each example's continuations, but for those that are not asked about."""
        experiment = self._experiment
        components = dict(experiment.reward.components(experiment.frozen, examples, prompts, trajectories))
        worth = self._worth(self._adapter, experiment.frozen, prompts, trajectories, components)
        log_pf, log_r, terms = jax.device_get(worth)
        texts = experiment.texts(trajectories)
        count = len(texts) // len(examples)
        rows = np.flatnonzero(is_asked_N).tolist()
        remarks = experiment.reward.explain(
            experiment.frozen, [examples[row // count] for row in rows], [texts[row] for row in rows]
        )
        found: list[list[Sample]] = [[] for _ in examples]
        for row, remark in zip(rows, remarks, strict=True):
            own = {name: float(values[row]) for name, values in terms.items()}
            found[row // count].append(Sample(texts[row], remark, float(log_pf[row]), float(log_r[row]), own))
        return found

    def _encode(self, examples: Sequence[Any]) -> Prompts:
        """Prompts in one of the run's buckets or, those that are longer, in all the room that the model has."""
        experiment = self._experiment
        config = experiment.config
        rows = experiment.tokenizer.encode_prompts([experiment.task.prompt(example) for example in examples])
        room = experiment.structure.architecture.context - config.sampling.max_len
        prompts = pad_to_bucket(rows, (*config.data.prompt_buckets, room), max(map(len, rows)))
        return experiment.rows.place(prompts)
