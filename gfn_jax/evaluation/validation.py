"""How well a policy samples in proportion to the reward, on prompts that training does not see.

Everything is measured at the reward's end temperature, with the same random numbers every time.
"""

import collections
import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import track

from gfn_jax.evaluation.distribution import Targets, exact_distributions
from gfn_jax.evaluation.diversity import distinct_share, mean_edit_distance
from gfn_jax.evaluation.probes import describe_samples
from gfn_jax.evaluation.recorded import Measured, read_measured
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.masks import Rules
from gfn_jax.policy.sampler import sample
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.names import check_names
from gfn_jax.rewards.protocol import Call, Components
from gfn_jax.runtime import distributed
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.progress import Progress, console_for, has_bars
from gfn_jax.types import Prompts, Scores, Trajectories


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Figures for every validation prompt, all samples of the first few prompts, and exact distributions.

    mixture_log_ratio_var  unbiased variance of g over the even mixture of policy and frozen model, samples of both
    elbo                   mean of g over the policy's samples: log Z - KL(policy || target)
    log_r                  mean reward of the policy's samples, tempered
    log_likelihood         their mean log-likelihood under the frozen model
    diversity              their mean pairwise word edit distance
    distinct               the share of different texts among them
    length                 their mean number of tokens before ⊤

    To these come the components of log R, and the figures of the task (`Task.figures`). Where the task's target is
    known, the elbo is exact, and there are further figures and every prompt's distribution (`distribution.py`).
    """

    per_prompt: dict[str, np.ndarray]
    probes: list[dict[str, Any]]
    distributions: list[dict[str, Any]]

    def summary(self) -> dict[str, float]:
        """The figures averaged over the prompts that have them, and the variance's median."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of figures that no prompt has
            means = {name: float(np.nanmean(values)) for name, values in self.per_prompt.items()}
            median = float(np.nanmedian(self.per_prompt["mixture_log_ratio_var"]))
        return means | {"mixture_log_ratio_var_median": median}


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Validation prompts, repeated to fill the batch, and what the frozen model samples for them.

    examples  those of this process's rows
    shown     how many of them, from the first one on, are probes
    real      how many prompts of the whole batch are no repetition
    """

    examples: Sequence[Any]
    shown: int
    real: int
    prompts: Prompts
    frozen_trajectories: Trajectories
    frozen_components: Callable[[], Components]
    targets: Targets | None


_Drawn = tuple[Trajectories, Scores, Callable[[], Components]]
"""The policy's samples of a batch, their log-probabilities, and what waits for their rewards."""

_AHEAD = 2


class ValidationFunctions:
    """What validation asks of the policy and of the frozen model, compiled over one mesh."""

    def __init__(self, structure: ModelStructure, rules: Rules, rows: jax.sharding.Sharding, samples: int, seed: int):
        """`samples` are those that are drawn for a prompt."""
        self._rules, self._rows, self._samples = rules, rows, samples

        def draw(adapter: Weights, frozen: Weights, prompts: Prompts, batch: int) -> tuple[Trajectories, Scores]:
            models = structure.policy_and_frozen(adapter, frozen)
            key = key_for(seed, Purpose.VALIDATION_POLICY, batch)
            return sample(*models, rules, prompts, key, samples_per_prompt=samples)

        def draw_frozen(frozen: Weights, prompts: Prompts, batch: int) -> Trajectories:
            model = structure.frozen(frozen)
            key = key_for(seed, Purpose.VALIDATION_FROZEN, batch)
            return sample(model, model, rules, prompts, key, samples_per_prompt=samples)[0]

        def rescore(adapter: Weights, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Scores:
            return score(*structure.policy_and_frozen(adapter, frozen), rules, prompts, trajectories)

        compiled = functools.partial(jax.jit, out_shardings=rows)
        self.draw, self.draw_frozen, self.rescore = compiled(draw), compiled(draw_frozen), compiled(rescore)

    def to_compile(self, adapter: Weights, frozen: Weights, prompts: Prompts) -> list[Call]:
        """What is called on the policy's behalf, of prompts of this shape; weights may be shapes, too."""
        batch = prompts.length_B.shape[0]
        trajectories = Trajectories.shapes(batch * self._samples, self._rules.max_len, self._rows)
        return [
            Call(self.draw, (adapter, frozen, prompts, 0)),
            Call(self.rescore, (adapter, frozen, prompts, trajectories)),
        ]


class Validation:
    """Measures adapters on fixed examples."""

    def __init__(self, experiment: Experiment, examples: Sequence[Any]):
        self._experiment = experiment
        self._samples = experiment.config.eval.samples_per_prompt
        rows = experiment.rows.sharding
        of_model = experiment.structure, experiment.rules, rows
        self._functions = ValidationFunctions(*of_model, self._samples, experiment.config.seed)
        self._of_states = jax.jit(experiment.of_states, out_shardings=rows)
        self._examples = examples
        self._count = -(-len(examples) // experiment.config.eval.prompts_per_batch)
        self._prepared: list[_Batch] = []
        self._exact = exact_distributions(experiment, examples)

    def to_compile(self) -> list[Call]:
        """What `measure` will call on the policy's behalf, to be compiled ahead."""
        experiment = self._experiment
        adapter, frozen, length = experiment.adapter, experiment.frozen, experiment.buckets(self._examples)[-1]
        batch, rows = experiment.config.eval.prompts_per_batch, experiment.rows.sharding
        prompts = Prompts.shapes(batch, length, rows, experiment.common_beginning)
        calls = self._functions.to_compile(adapter, frozen, prompts)
        if self._exact:
            calls.append(Call(self._exact.log_probs, (adapter, frozen, prompts)))
        return calls

    def to_compile_of_rewards(self, types: Mapping[str, Any]) -> list[Call]:
        """The same of what `measure` will call on rewards, whose components have these dtypes by name."""
        experiment, rows = self._experiment, self._experiment.rows.sharding
        count, length = experiment.config.eval.prompts_per_batch * self._samples, experiment.rules.max_len
        components = {
            name: jax.ShapeDtypeStruct((count, length + 1), dtype, sharding=rows) for name, dtype in types.items()
        }
        return [Call(self._of_states, (Scores.shapes(count, length, experiment.structure.dtype, rows), components))]

    def _batch(self, number: int) -> _Batch:
        """Some of the examples, the frozen model's samples for them, and a request for their rewards."""
        if number == len(self._prepared):
            self._prepared.append(self._prepare(number))
        return self._prepared[number]

    def _prepare(self, number: int) -> _Batch:
        experiment, size = self._experiment, self._experiment.config.eval.prompts_per_batch
        examples = self._examples[number * size : (number + 1) * size]
        padded = list(itertools.islice(itertools.cycle(examples), size))
        own, rows = experiment.rows.own(padded), experiment.rows.numbers(len(padded))
        shown = min(len(examples), experiment.config.eval.probes - number * len(padded)) - rows.start
        prompts = experiment.encode(padded, self._examples)
        trajectories = self._functions.draw_frozen(experiment.frozen, prompts, number)
        components = experiment.reward.request(experiment.frozen, own, prompts, trajectories)
        targets = self._exact and self._exact.targets(own, prompts)
        return _Batch(own, max(0, min(shown, len(own))), len(examples), prompts, trajectories, components, targets)

    def sample_frozen(self) -> Callable[[], Components]:
        """Draws what the frozen model samples for the first prompts, which others may start on judging.

        Where distributions are exact it is drawn for all of them, which checks what the task says of each.
        """
        for number in range(self._count if self._exact else 1):
            self._batch(number)
        return self._batch(0).frozen_components

    def measure(self, adapter: Weights, progress: Progress = False) -> Measurement:
        """The figures of the policy with this adapter; in a terminal, with a bar while it takes them."""
        console = console_for(progress)
        in_turn = track(
            self._in_turn(adapter),
            "validating",
            total=self._count,
            console=console,
            transient=True,
            disable=not has_bars(console),
        )
        own = [self._measure_batch(adapter, batch, drawn) for batch, drawn in in_turn]
        figures: dict[str, list[float]] = {}
        probes: list[dict[str, Any]] = []
        distributions: list[dict[str, Any]] = []
        for batch, shares in zip(self._prepared, zip(*distributed.gather(own), strict=True), strict=True):
            for name in shares[0][0]:
                whole = itertools.chain.from_iterable(theirs[name] for theirs, _, _ in shares)
                figures.setdefault(name, []).extend(itertools.islice(whole, batch.real))
            probes += itertools.chain.from_iterable(shown for _, shown, _ in shares)
            exact = itertools.chain.from_iterable(theirs for _, _, theirs in shares)
            distributions += itertools.islice(exact, batch.real)
        return Measurement({name: np.array(values) for name, values in figures.items()}, probes, distributions)

    def recorded(self, workdir: Path, step: int) -> Measurement | None:
        """What `measure` gave at a step, by the run's files; None where they do not have all of it."""
        count, probes = len(self._examples), self._experiment.config.eval.probes
        rows = {"probes": min(probes, count) * self._samples, "distributions": count if self._exact else 0}
        found = distributed.of_main(read_measured(workdir, step, **rows) if distributed.is_main() else None)
        if found is None:
            return None
        figures, samples, distributions = found
        return Measurement({name: np.array(values) for name, values in figures.items()}, samples, distributions)

    def _in_turn(self, adapter: Weights) -> Iterator[tuple[_Batch, _Drawn]]:
        """The batches and what is drawn for them; some are drawn ahead, while those before are judged."""
        waiting: collections.deque[tuple[_Batch, _Drawn]] = collections.deque()
        for number in range(self._count):
            batch = self._batch(number)
            waiting.append((batch, self._draw_batch(adapter, number, batch)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _draw_batch(self, adapter: Weights, number: int, batch: _Batch) -> _Drawn:
        experiment = self._experiment
        trajectories, scores = self._functions.draw(adapter, experiment.frozen, batch.prompts, number)
        components = experiment.reward.request(experiment.frozen, batch.examples, batch.prompts, trajectories)
        return trajectories, scores, components

    def _measure_batch(self, adapter: Weights, batch: _Batch, drawn: _Drawn) -> Measured:
        """Of this process's rows; figures and distributions are of repeated prompts too."""
        experiment, frozen = self._experiment, self._experiment.frozen
        trajectories, scores, request = drawn
        components = request()
        frozen_scores = self._functions.rescore(adapter, frozen, batch.prompts, batch.frozen_trajectories)
        frozen_states = self._of_states(frozen_scores, batch.frozen_components())
        fetch = experiment.rows.fetch
        g_NxT, log_r_NxT = fetch(self._of_states(scores, components))
        frozen_g_NxT, frozen_length, may_stop_NxT = fetch(
            (frozen_states[0], batch.frozen_trajectories.length_N, frozen_scores.is_terminable_NxT)
        )
        host, terms = fetch((trajectories, dict(components)))

        def by_prompt(values_N: np.ndarray) -> np.ndarray:
            return np.asarray(values_N, np.float64).reshape(-1, self._samples)

        def at(length_N: np.ndarray, values_NxT: np.ndarray) -> np.ndarray:
            """Where texts end; NaN for what is not finite, which is no reward."""
            last = by_prompt(np.take_along_axis(values_NxT, length_N[:, None], 1))
            return np.where(np.isfinite(last), last, np.nan)

        g, log_r = at(host.length_N, g_NxT), at(host.length_N, log_r_NxT)
        # Of another policy than drew it, a text's end may lie beyond the support.
        frozen_g = at(frozen_length, np.where(may_stop_NxT, frozen_g_NxT, np.nan))
        last = {name: at(host.length_N, values) for name, values in terms.items()}
        texts = experiment.texts(trajectories)
        texts_by_prompt = [texts[first : first + self._samples] for first in range(0, len(texts), self._samples)]
        of_task = [
            experiment.task.figures(example, texts, {name: values[row] for name, values in last.items()})
            for row, (example, texts) in enumerate(zip(batch.examples, texts_by_prompt, strict=True))
        ]
        check_names("a figure of the task", of_task[0], last)
        figures = {
            "mixture_log_ratio_var": mixture_variance(g, frozen_g),
            "elbo": _mean(g),
            "log_r": _mean(log_r),
            **{name: _mean(values) for name, values in last.items()},
            **{name: np.array([figures[name] for figures in of_task]) for name in of_task[0]},
            "diversity": np.array([mean_edit_distance(texts) for texts in texts_by_prompt]),
            "distinct": np.array([distinct_share(texts) for texts in texts_by_prompt]),
            "length": by_prompt(host.length_N).mean(1),
        }
        distributions: list[dict[str, Any]] = []
        if self._exact and batch.targets:
            exact, distributions = self._exact.measure(adapter, batch.prompts, batch.targets)
            figures |= exact
        rows = batch.shown * self._samples
        shown = jax.tree.map(lambda values: values[:rows], (host, g_NxT, log_r_NxT, terms))
        probes = describe_samples(experiment, batch.examples[: batch.shown], *shown) if rows else []
        return {name: values.tolist() for name, values in figures.items()}, probes, distributions


def mixture_variance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The unbiased variance of two distributions' even mixture, of as many samples of each [prompt, sample].

    The mean of their variances, and a quarter of the squared distance of their means. The samples' means are farther
    apart than the distributions', by what their own variances are over the number of samples. A sample that has no
    reward is left out, as a NaN.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of prompts that have none
        variances = [np.nanvar(values, 1, ddof=1) for values in (one, other)]
    within = [
        variance * (1 / 2 - 1 / (4 * np.maximum(np.isfinite(values).sum(1), 1)))
        for variance, values in zip(variances, (one, other), strict=True)
    ]
    return within[0] + within[1] + np.square(_mean(one) - _mean(other)) / 4


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each prompt's samples [prompt, sample] that have a reward; NaN where none has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=1)
