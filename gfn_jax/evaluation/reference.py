"""What the target itself looks like: the frozen model's samples, weighted by R / p.

Sampling the frozen model under the policy's masks and weighting each sample by R(y) / p(y) gives the
target's own statistics, as far as the effective sample size says.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from gfn_jax import objectives
from gfn_jax.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.policy.sampler import sample
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.types import Prompts, Scores, Trajectories


@dataclasses.dataclass(frozen=True)
class Reference:
    """M samples of the frozen model for one example.

    texts       what was sampled
    log_w       log R - log p of each [M]
    components  of the reward where each sample ends [M]
    """

    texts: list[str]
    log_w: np.ndarray
    components: dict[str, np.ndarray]

    @property
    def weights(self) -> np.ndarray:
        """The share of the target that each sample stands for [M]."""
        return np.exp(self.log_w - logsumexp(self.log_w))

    @property
    def effective_sample_size(self) -> float:
        """How many samples of the target itself would say as much: 1 / sum of squared weights."""
        return float(1 / np.square(self.weights).sum())

    @property
    def log_z(self) -> float:
        """The estimate of log Z: the log of the mean weight."""
        return float(logsumexp(self.log_w) - np.log(len(self.log_w)))

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The indices of `count` samples, drawn as the target would."""
        return rng.choice(len(self.log_w), count, p=self.weights)


def references(experiment: Experiment, examples: Sequence[Any], count: int) -> Iterator[Reference]:
    """The reference of every example, from `count` samples or, to fill the batches, a few more."""
    batch, per_prompt = experiment.config.eval.prompts_per_batch, experiment.config.eval.samples_per_prompt
    draws = -(-count // (batch * per_prompt))

    @jax.jit
    def draw(frozen: Weights, prompts: Prompts, key: jax.Array) -> tuple[Trajectories, Scores]:
        model = experiment.structure.frozen(frozen)
        return sample(model, model, experiment.rules, prompts, key, samples_per_prompt=per_prompt)

    @jax.jit
    def at_stop(scores: Scores, components: Components) -> tuple[jax.Array, dict[str, jax.Array]]:
        g_N, _ = experiment.at_stop(scores, components)
        last = {name: objectives.at_last_state(terms, scores.is_terminable_NxT) for name, terms in components.items()}
        return g_N, last

    for number, example in enumerate(examples):
        repeated = [example] * batch
        prompts = experiment.encode(repeated, examples)
        drawn = []
        for index in range(draws):
            key = key_for(experiment.config.seed, Purpose.REFERENCE, number * draws + index)
            trajectories, scores = draw(experiment.frozen, prompts, key)
            request = experiment.reward.request(experiment.frozen, repeated, prompts, trajectories)
            drawn.append((trajectories, scores, request))
        parts = [jax.device_get(at_stop(scores, request())) for _, scores, request in drawn]
        yield Reference(
            [text for trajectories, _, _ in drawn for text in experiment.texts(trajectories)],
            np.concatenate([g for g, _ in parts]).astype(np.float64),
            {name: np.concatenate([last[name] for _, last in parts]) for name in parts[0][1]},
        )
