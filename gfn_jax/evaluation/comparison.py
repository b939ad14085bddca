"""Methods of decoding side by side: the same prompts, number of samples, masks, scorer and reward for all.

The reward is at its end temperature, and of whole continuations alone.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.evaluation.decoding import Method
from gfn_jax.evaluation.diversity import distinct_n_grams, distinct_share, mean_edit_distance, self_bleu
from gfn_jax.evaluation.sentences import is_sentence
from gfn_jax.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.likelihood import log_likelihood
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True)
class Compared:
    """A method's figures for every prompt, and its continuations.

    log_likelihood    mean over a prompt's samples of log p_frozen(y ⊤ | prompt), unmasked; .._best: the highest
    log_r             mean tempered reward; .._best: the highest
    length            mean number of tokens before ⊤
    diversity         mean pairwise word edit distance
    distinct          share of different texts
    distinct_bigrams  different word pairs over all word pairs
    self_bleu         mean BLEU of a text against the others
    sentences         share of texts that `is_sentence` accepts
    log_ratio_var     unbiased variance of log R - log π over a prompt's samples; of exact samples of a model alone
    elbo              mean of the same

    To these come the figures of the task. `seconds` are for all prompts, without compiling.
    """

    name: str
    per_prompt: dict[str, np.ndarray]
    seconds: float
    texts: list[list[str]]


def compare(
    experiment: Experiment, adapter: Weights, examples: Sequence[Any], methods: Sequence[Method], samples: int
) -> Iterator[Compared]:
    """Every method's figures, one after the other; for a single process."""
    scorer = _Scorer(experiment, adapter, samples)
    batches = [
        _Batch(experiment, part, examples) for part in _parts(examples, experiment.config.eval.prompts_per_batch)
    ]
    for method in methods:
        yield scorer.measure(method, batches)


def _parts(examples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))


class _Batch:
    """Prompts, repeated to fill the batch; `real` of them are no repetition."""

    def __init__(self, experiment: Experiment, examples: Sequence[Any], like: Sequence[Any]):
        size = experiment.config.eval.prompts_per_batch
        self.examples = list(itertools.islice(itertools.cycle(examples), size))
        self.prompts, self.real = experiment.encode(self.examples, like), len(examples)


class _Scorer:
    """What is measured of continuations, whoever drew them."""

    def __init__(self, experiment: Experiment, adapter: Weights, samples: int):
        self._experiment, self._adapter, self._samples = experiment, adapter, samples
        structure, rules = experiment.structure, experiment.rules

        @jax.jit
        def worth(frozen: Weights, prompts: Prompts, trajectories: Trajectories, components: Components):
            likelihood_NxT = log_likelihood(structure.frozen(frozen), prompts, trajectories, rules.terminator)
            both = likelihood_NxT, experiment.final_log_r(components)
            return [jnp.take_along_axis(values, trajectories.length_N[:, None], 1)[:, 0] for values in both]

        @functools.partial(jax.jit, static_argnums=0)
        def log_ratio(of: str, adapter: Weights, frozen: Weights, prompts, trajectories, components: Components):
            policy, model = structure.policy_and_frozen(adapter, frozen)
            scores = score(policy if of == "policy" else model, model, rules, prompts, trajectories)
            return experiment.at_stop(scores, components)[0]

        @functools.partial(jax.jit, static_argnums=0)
        def draw(draw_by, adapter: Weights, frozen: Weights, prompts: Prompts, key: jax.Array, settings: Any):
            models = structure.policy_and_frozen(adapter, frozen)
            trajectories, is_there_N = draw_by(*models, rules, prompts, key, settings)
            return _whole_alone(trajectories), is_there_N

        self._draw, self._worth, self._log_ratio = draw, worth, log_ratio

    def measure(self, method: Method, batches: Sequence[_Batch]) -> Compared:
        experiment = self._experiment

        def draw(batch: _Batch, key: jax.Array) -> tuple[Trajectories, jax.Array]:
            weights = self._adapter, experiment.frozen
            return jax.block_until_ready(self._draw(method.draw, *weights, batch.prompts, key, method.settings))

        keys = [key_for(experiment.config.seed, Purpose.EVALUATION, number) for number in range(len(batches))]
        draw(batches[0], keys[0])  # compiles
        figures: dict[str, list[np.ndarray]] = {}
        texts: list[list[str]] = []
        seconds = 0.0
        for batch, key in zip(batches, keys, strict=True):
            started = time.perf_counter()
            trajectories, is_there = draw(batch, key)
            seconds += time.perf_counter() - started
            found, drawn = self._figures(method, batch, trajectories, np.asarray(is_there))
            for name, values in found.items():
                figures.setdefault(name, []).append(values[: batch.real])
            texts += drawn[: batch.real]
        per_prompt = {name: np.concatenate(parts) for name, parts in figures.items()}
        return Compared(method.name, per_prompt, seconds, texts)

    def _figures(
        self, method: Method, batch: _Batch, trajectories: Trajectories, is_there_N: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[list[str]]]:
        """Each prompt's figures, and its texts, over the continuations that are there."""
        experiment = self._experiment
        components = experiment.reward.components(experiment.frozen, batch.examples, batch.prompts, trajectories)
        drawn = batch.prompts, trajectories, components
        likelihood, log_r = self._worth(experiment.frozen, *drawn)

        is_there = is_there_N.reshape(-1, self._samples)

        def by_prompt(values_N: Any) -> np.ndarray:
            return np.where(is_there, np.asarray(values_N, np.float64).reshape(is_there.shape), np.nan)

        lengths = np.asarray(trajectories.length_N)
        all_texts = experiment.texts(trajectories)
        texts = [
            [all_texts[row * self._samples + column] for column in np.flatnonzero(there)]
            for row, there in enumerate(is_there)
        ]
        last = {
            name: by_prompt(np.take_along_axis(np.asarray(values), lengths[:, None], 1))
            for name, values in components.items()
        }
        of_task = [
            experiment.task.figures(own, {name: values[row][is_there[row]] for name, values in last.items()})
            for row, own in enumerate(texts)
        ]
        figures = {
            "log_likelihood": np.nanmean(by_prompt(likelihood), 1),
            "log_likelihood_best": np.nanmax(by_prompt(likelihood), 1),
            "log_r": np.nanmean(by_prompt(log_r), 1),
            "log_r_best": np.nanmax(by_prompt(log_r), 1),
            "length": np.nanmean(by_prompt(lengths), 1),
            "diversity": np.array([mean_edit_distance(own) for own in texts]),
            "distinct": np.array([distinct_share(own) for own in texts]),
            "distinct_bigrams": np.array([distinct_n_grams(own, 2) for own in texts]),
            "self_bleu": np.array([self_bleu(own) for own in texts]),
            "sentences": np.array([np.mean([is_sentence(text) for text in own]) for own in texts]),
            **{name: np.array([each[name] for each in of_task]) for name in of_task[0]},
        }
        if method.samples_of:
            g = by_prompt(self._log_ratio(method.samples_of, self._adapter, experiment.frozen, *drawn))
            figures |= {"log_ratio_var": np.nanvar(g, 1, ddof=1), "elbo": np.nanmean(g, 1)}
        return figures, texts


def _whole_alone(trajectories: Trajectories) -> Trajectories:
    """The trajectories with a reward where they end, and nowhere before."""
    states = jnp.arange(trajectories.tokens_NxL.shape[1] + 1)
    is_last_NxT = states[None, :] == trajectories.length_N[:, None]
    return Trajectories(trajectories.tokens_NxL, trajectories.length_N, is_last_NxT)
