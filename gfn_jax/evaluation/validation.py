"""How well a policy samples in proportion to the reward, on prompts that training does not see.

Everything is measured at the reward's end temperature, with the same random numbers every time.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from gfn_jax.evaluation.diversity import distinct_share, mean_edit_distance
from gfn_jax.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.policy.sampler import sample
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.types import Prompts, Scores, Trajectories


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Figures for every validation prompt, and all samples of the first few prompts.

    log_ratio_var   unbiased variance of g over the policy's samples and as many of the frozen model's
    elbo            mean of g over the policy's samples: log Z - KL(policy || target)
    log_r           mean reward of the policy's samples, tempered
    log_likelihood  their mean log-likelihood under the frozen model
    diversity       their mean pairwise word edit distance
    distinct        the share of different texts among them
    length          their mean number of tokens before ⊤

    To these come the components of log R, and the figures of the task (`Task.figures`).
    """

    per_prompt: dict[str, np.ndarray]
    probes: list[dict[str, Any]]

    def summary(self) -> dict[str, float]:
        """The figures averaged over prompts, and the variance's median."""
        means = {name: float(values.mean()) for name, values in self.per_prompt.items()}
        return means | {"log_ratio_var_median": float(np.median(self.per_prompt["log_ratio_var"]))}


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Validation prompts, repeated to fill the batch, and what the frozen model samples for them."""

    examples: list[Any]
    real: int
    prompts: Prompts
    frozen_trajectories: Trajectories
    frozen_components: Callable[[], Components]


class Validation:
    """Measures adapters on fixed examples."""

    def __init__(self, experiment: Experiment, examples: Sequence[Any]):
        self._experiment = experiment
        self._samples = experiment.config.eval.samples_per_prompt
        structure, rules = experiment.structure, experiment.rules

        def draw(adapter: Weights, frozen: Weights, prompts: Prompts, key: jax.Array) -> tuple[Trajectories, Scores]:
            models = structure.policy_and_frozen(adapter, frozen)
            return sample(*models, rules, prompts, key, samples_per_prompt=self._samples)

        def draw_frozen(frozen: Weights, prompts: Prompts, key: jax.Array) -> Trajectories:
            model = structure.frozen(frozen)
            return sample(model, model, rules, prompts, key, samples_per_prompt=self._samples)[0]

        def rescore(adapter: Weights, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Scores:
            return score(*structure.policy_and_frozen(adapter, frozen), rules, prompts, trajectories)

        self._draw, self._draw_frozen = jax.jit(draw), jax.jit(draw_frozen)
        self._rescore, self._at_stop = jax.jit(rescore), jax.jit(experiment.at_stop)
        size = experiment.config.eval.prompts_per_batch
        self._batches = [
            self._prepare(number, examples[first : first + size], examples)
            for number, first in enumerate(range(0, len(examples), size))
        ]

    def _prepare(self, number: int, examples: Sequence[Any], like: Sequence[Any]) -> _Batch:
        experiment = self._experiment
        padded = list(itertools.islice(itertools.cycle(examples), experiment.config.eval.prompts_per_batch))
        prompts = experiment.encode(padded, like)
        key = key_for(experiment.config.seed, Purpose.VALIDATION_FROZEN, number)
        trajectories = self._draw_frozen(experiment.frozen, prompts, key)
        components = experiment.reward.request(experiment.frozen, padded, prompts, trajectories)
        return _Batch(padded, len(examples), prompts, trajectories, components)

    def measure(self, adapter: Weights) -> Measurement:
        """The figures of the policy with this adapter."""
        # All are drawn before any is waited for: the next batch is sampled while the last one is judged.
        drawn = [self._draw_batch(adapter, number, batch) for number, batch in enumerate(self._batches)]
        measured = [self._measure_batch(adapter, *parts) for parts in zip(self._batches, drawn, strict=True)]
        figures = [figures for figures, _ in measured]
        probes = itertools.chain.from_iterable(probes for _, probes in measured)
        return Measurement(
            {name: np.concatenate([batch[name] for batch in figures]) for name in figures[0]},
            list(itertools.islice(probes, self._experiment.config.eval.probes * self._samples)),
        )

    def _draw_batch(
        self, adapter: Weights, number: int, batch: _Batch
    ) -> tuple[Trajectories, Scores, Callable[[], Components]]:
        experiment = self._experiment
        key = key_for(experiment.config.seed, Purpose.VALIDATION_POLICY, number)
        trajectories, scores = self._draw(adapter, experiment.frozen, batch.prompts, key)
        components = experiment.reward.request(experiment.frozen, batch.examples, batch.prompts, trajectories)
        return trajectories, scores, components

    def _measure_batch(
        self, adapter: Weights, batch: _Batch, drawn: tuple[Trajectories, Scores, Callable[[], Components]]
    ) -> tuple[dict[str, np.ndarray], Iterator[dict[str, Any]]]:
        experiment, frozen = self._experiment, self._experiment.frozen
        trajectories, scores, request = drawn
        components = request()
        g, log_r = self._at_stop(scores, components)
        frozen_scores = self._rescore(adapter, frozen, batch.prompts, batch.frozen_trajectories)
        frozen_g, _ = self._at_stop(frozen_scores, batch.frozen_components())

        def by_prompt(values_N: ArrayLike) -> np.ndarray:
            return np.asarray(values_N, np.float64).reshape(-1, self._samples)[: batch.real]

        length = np.asarray(trajectories.length_N)
        last = {
            name: by_prompt(np.take_along_axis(np.asarray(terms), length[:, None], 1))
            for name, terms in components.items()
        }
        texts = experiment.texts(trajectories)
        texts_by_prompt = [texts[row * self._samples : (row + 1) * self._samples] for row in range(batch.real)]
        of_task = [
            experiment.task.figures(texts, {name: values[row] for name, values in last.items()})
            for row, texts in enumerate(texts_by_prompt)
        ]
        figures = {
            "log_ratio_var": np.concatenate([by_prompt(g), by_prompt(frozen_g)], 1).var(1, ddof=1),
            "elbo": by_prompt(g).mean(1),
            "log_r": by_prompt(log_r).mean(1),
            **{name: values.mean(1) for name, values in last.items()},
            **{name: np.array([figures[name] for figures in of_task]) for name in of_task[0]},
            "diversity": np.array([mean_edit_distance(texts) for texts in texts_by_prompt]),
            "distinct": np.array([distinct_share(texts) for texts in texts_by_prompt]),
            "length": by_prompt(length).mean(1),
        }
        log_p_BxS, log_r_BxS = by_prompt(log_r) - by_prompt(g), by_prompt(log_r)

        def probes() -> Iterator[dict[str, Any]]:
            for row, (example, texts) in enumerate(zip(batch.examples, texts_by_prompt, strict=False)):
                remarks = experiment.reward.explain(frozen, [example] * self._samples, texts)
                for column, (text, remark) in enumerate(zip(texts, remarks, strict=True)):
                    yield {
                        "prompt": experiment.task.prompt(example),
                        **experiment.task.describe(example),
                        "continuation": text,
                        **remark,
                        "log_r": float(log_r_BxS[row, column]),
                        "log_pf": float(log_p_BxS[row, column]),
                        **{name: float(values[row, column]) for name, values in last.items()},
                    }

        return figures, probes()
