"""Methods of decoding side by side: the same prompts, number of samples, masks, scorer and reward for all.

The reward is at its end temperature, and of whole continuations alone.
"""

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.evaluation.diversity import distinct_n_grams, distinct_share, mean_edit_distance, self_bleu
from gfn_jax.evaluation.methods import Drawn, Method, Resampling, make_draw, prompts_at_once
from gfn_jax.evaluation.reference import References
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.experiment.warm_up import compile_ahead
from gfn_jax.models.mesh import batch_size
from gfn_jax.models.parts import Weights
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.likelihood import log_likelihood
from gfn_jax.rewards.protocol import Call, Components
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.text.sentences import is_sentence
from gfn_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True)
class Written:
    """A method's continuations of every example: their texts, and what the reward remarks on them, by and by.

    `remarks()` are of `Reward.explain`, in the texts' order.
    """

    examples: Sequence[Any]
    texts: Sequence[Sequence[str]]
    remarks: Callable[[], Sequence[Sequence[Mapping[str, Any]]]]


TextFigures = Callable[[Written], Mapping[str, np.ndarray]]
"""Figures of continuations by a model: a value for every example, by the figure's name."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A method's figures for every prompt, and its continuations.

    log_likelihood     mean over a prompt's samples of log p_frozen(y ⊤ | prompt), unmasked; .._best: the highest
    log_r              mean tempered reward; .._best: the highest
    length             mean number of tokens before ⊤
    diversity          mean pairwise word edit distance
    distinct           share of different texts
    distinct_bigrams   different word pairs over all word pairs
    self_bleu          mean BLEU of a text against the others
    sentences          share of texts that `is_sentence` accepts
    own_log_ratio_var  unbiased variance of log R - log π over the method's own samples of a prompt; of methods that
                       draw exact samples of a model alone
    elbo               mean of the same

    To these come the components of log R, their means, the figures of the task, and those by models of texts.
    Resampling has two of its own: log_z, an estimate, and effective_samples, how many exact samples of the target
    its candidates are worth. `seconds` are for all prompts, without compiling.
    """

    method: Method | Resampling
    per_prompt: dict[str, np.ndarray]
    seconds: float
    texts: list[list[str]]


def compare(
    experiment: Experiment,
    adapter: Weights,
    examples: Sequence[Any],
    methods: Sequence[Method | Resampling],
    samples: int,
    text_figures: Sequence[TextFigures] = (),
) -> Iterator[Compared]:
    """Every method's figures, one after the other; for a single process.

    Raises `UserError` where an example's prompt is empty or too long, or the reward has no use for an example.
    """
    experiment.check_prompts(examples)
    scorer = _Scorer(experiment, adapter, samples, text_figures)
    size = experiment.config.eval.prompts_per_batch
    batches = [_Batch(experiment, examples, first) for first in range(0, len(examples), size)]
    checked = experiment.request_check(examples)  # by the reward's own models, which start meanwhile
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_ahead, scorer.to_compile(methods, batches[0])))
    checked()
    for method in methods:
        yield scorer.measure(method, batches)


_Drawing = tuple[Drawn, Mapping[str, np.ndarray], float]
"""Continuations, figures of how they were drawn, and the seconds that it took."""


class _Batch:
    """The prompts of the examples from number `first` on, repeated to fill the batch; `real` are no repetition."""

    def __init__(self, experiment: Experiment, everything: Sequence[Any], first: int):
        size = experiment.config.eval.prompts_per_batch
        own = everything[first : first + size]
        self.everything, self.first, self.real = everything, first, len(own)
        self.examples = list(itertools.islice(itertools.cycle(own), size))
        self.prompts = experiment.encode(self.examples, everything)


class _Scorer:
    """What is measured of continuations, whoever drew them."""

    def __init__(self, experiment: Experiment, adapter: Weights, samples: int, text_figures: Sequence[TextFigures]):
        self._experiment, self._adapter, self._samples = experiment, adapter, samples
        self._text_figures = text_figures
        structure, rules = experiment.structure, experiment.rules

        @jax.jit
        def worth(frozen: Weights, prompts: Prompts, trajectories: Trajectories, components: Components):
            if experiment.reward.gives_log_likelihood:
                likelihood_NxT = components["log_likelihood"]
            else:
                likelihood_NxT = log_likelihood(structure.frozen(frozen), prompts, trajectories, rules.terminator)
            both = likelihood_NxT, experiment.final_log_r(components)
            return [jnp.take_along_axis(values, trajectories.length_N[:, None], 1)[:, 0] for values in both]

        @functools.partial(jax.jit, static_argnums=0)
        def log_ratio(of: str, adapter: Weights, frozen: Weights, prompts, trajectories, components: Components):
            policy, model = structure.policy_and_frozen(adapter, frozen)
            scores = score(policy if of == "policy" else model, model, rules, prompts, trajectories)
            return experiment.at_stop(scores, components)[0]

        self._draw, self._worth, self._log_ratio = make_draw(structure, rules), worth, log_ratio

    def to_compile(self, methods: Sequence[Method | Resampling], batch: _Batch) -> list[Call]:
        """What is called to draw by these methods, each way of drawing once."""
        key = key_for(self._experiment.config.seed, Purpose.EVALUATION)
        weights = self._adapter, self._experiment.frozen
        calls = {
            (method.draw, jax.tree.structure(method.arguments)): Call(
                self._draw, (method.draw, *weights, self._in_turns(method, batch.prompts)[0], key, method.arguments)
            )
            for method in methods
            if isinstance(method, Method)
        }
        return list(calls.values())

    def measure(self, method: Method | Resampling, batches: Sequence[_Batch]) -> Compared:
        drawing = self._resampled(method, batches) if isinstance(method, Resampling) else self._drawn(method, batches)
        figures: dict[str, list[np.ndarray]] = {}
        texts: list[list[str]] = []
        seconds = 0.0
        for batch, (drawn, of_drawing, took) in zip(batches, drawing, strict=True):
            found, own_texts = self._figures(method, batch, *drawn)
            for name, values in {**found, **of_drawing}.items():
                figures.setdefault(name, []).append(values[: batch.real])
            texts += own_texts[: batch.real]
            seconds += took
        per_prompt = {name: np.concatenate(parts) for name, parts in figures.items()}
        written = Written(batches[0].everything, texts, lambda: self._remarks(batches[0].everything, texts))
        for text_figures in self._text_figures:
            per_prompt |= text_figures(written)
        return Compared(method, per_prompt, seconds, texts)

    def _remarks(self, examples: Sequence[Any], texts: Sequence[Sequence[str]]) -> list[list[dict[str, Any]]]:
        repeated = [example for example, own in zip(examples, texts, strict=True) for _ in own]
        flat = list(itertools.chain.from_iterable(texts))
        remarks = iter(self._experiment.reward.explain(self._experiment.frozen, repeated, flat))
        return [list(itertools.islice(remarks, len(own))) for own in texts]

    def _drawn(self, method: Method, batches: Sequence[_Batch]) -> Iterator[_Drawing]:
        seed, weights = self._experiment.config.seed, (self._adapter, self._experiment.frozen)

        for number, batch in enumerate(batches):
            key = key_for(seed, Purpose.EVALUATION, number)
            started = time.perf_counter()
            turns = [
                self._draw(method.draw, *weights, prompts, key, method.arguments)
                for prompts in self._in_turns(method, batch.prompts)
            ]
            drawn = turns[0] if len(turns) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *turns)
            yield jax.block_until_ready(drawn), {}, time.perf_counter() - started

    def _in_turns(self, method: Method, prompts: Prompts) -> list[Prompts]:
        """A batch's prompts, in parts of `prompts_at_once`."""
        size = len(prompts.length_B)
        count = prompts_at_once(method, size, self._samples, batch_size(self._experiment.mesh))
        if count == size:
            return [prompts]
        sharding = self._experiment.rows.sharding
        return [
            jax.tree.map(lambda x, first=first: jax.device_put(x[first : first + count], sharding), prompts)
            for first in range(0, size, count)
        ]

    def _resampled(self, method: Resampling, batches: Sequence[_Batch]) -> Iterator[_Drawing]:
        experiment, samples = self._experiment, self._samples
        references = References(experiment, batches[0].everything, method.candidates)
        references.of([0])  # compiles
        for batch in batches:
            started = time.perf_counter()
            found = references.of(range(batch.first, batch.first + batch.real))
            found = list(itertools.islice(itertools.cycle(found), len(batch.examples)))
            rng = np.random.default_rng([experiment.config.seed, Purpose.REFERENCE, batch.first])
            chosen = [each.draw(samples, rng) for each in found]
            tokens, lengths = (
                jnp.concatenate([values[rows] for values, rows in zip(parts, chosen, strict=True)])
                for parts in ([each.tokens_MxL for each in found], [each.length_M for each in found])
            )
            drawn = Trajectories.given(tokens, lengths).rewarded_whole(), jnp.ones(lengths.shape, bool)
            of_drawing = {
                "log_z": np.array([each.log_z for each in found]),
                "effective_samples": np.array([each.effective_sample_size for each in found]),
            }
            yield drawn, of_drawing, time.perf_counter() - started

    def _figures(
        self, method: Method | Resampling, batch: _Batch, trajectories: Trajectories, is_there_N: jax.Array
    ) -> tuple[dict[str, np.ndarray], list[list[str]]]:
        """Each prompt's figures, and its texts, over the continuations that are there."""
        experiment = self._experiment
        components = experiment.reward.components(experiment.frozen, batch.examples, batch.prompts, trajectories)
        drawn = batch.prompts, trajectories, components
        likelihood, log_r = self._worth(experiment.frozen, *drawn)

        is_there = np.asarray(is_there_N).reshape(-1, self._samples)

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
            experiment.task.figures(example, own, {name: values[row][is_there[row]] for name, values in last.items()})
            for row, (example, own) in enumerate(zip(batch.examples, texts, strict=True))
        ]
        figures = {
            **{name: np.nanmean(values, 1) for name, values in last.items()},
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
        if isinstance(method, Method) and method.samples_of:
            g = by_prompt(self._log_ratio(method.samples_of, self._adapter, experiment.frozen, *drawn))
            figures |= {"own_log_ratio_var": np.nanvar(g, 1, ddof=1), "elbo": np.nanmean(g, 1)}
        return figures, texts
