"""What the target itself looks like: the frozen model's samples, weighted by R / p.

Sampling the frozen model under the policy's masks and weighting each sample by R(y) / p(y) gives the
target's own statistics, as far as the effective sample size says.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gfn_jax import objectives
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.policy.sampler import sample
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.types import Prompts, Scores, Trajectories


@dataclasses.dataclass(frozen=True)
class Reference:
    """M samples of the frozen model for one example.

    texts       what was sampled, and as tokens:
    tokens_MxL, length_M
    log_w       log R - log p of each [M]; -inf of one without a finite reward, which stands for nothing
    components  of the reward where each sample ends [M]
    """

    texts: list[str]
    tokens_MxL: np.ndarray
    length_M: np.ndarray
    log_w: np.ndarray
    components: dict[str, np.ndarray]

    @property
    def weights(self) -> np.ndarray:
        """The share of the target that each sample stands for [M]."""
        return np.exp(self.log_w - np.logaddexp.reduce(self.log_w))

    @property
    def effective_sample_size(self) -> float:
        """How many samples of the target itself would say as much: 1 / sum of squared weights."""
        return float(1 / np.square(self.weights).sum())

    @property
    def log_z(self) -> float:
        """The estimate of log Z: the log of the mean weight."""
        return float(np.logaddexp.reduce(self.log_w) - np.log(len(self.log_w)))

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The indices of `count` samples, drawn as the target would; raises `UserError` where none has a reward."""
        if not np.isfinite(self.log_w).any():
            raise UserError(
                f"the reference: of {len(self.log_w)} samples of the frozen model for a prompt, none has a finite "
                "reward: raise --candidates, or leave it out with --candidates 0"
            )
        return rng.choice(len(self.log_w), count, p=self.weights)


class References:
    """Samples the references of examples, from `count` samples each or, to fill a prompt's rows, a few more."""

    def __init__(self, experiment: Experiment, examples: Sequence[Any], count: int):
        """`examples` are all that will be asked for: their prompts are padded to one length."""
        self._experiment, self._examples = experiment, examples
        per_prompt = experiment.config.eval.samples_per_prompt
        self._rows = -(-count // per_prompt)  # of a batch, for each example

        @jax.jit
        def draw(frozen: Weights, prompts: Prompts, key: jax.Array) -> tuple[Trajectories, Scores]:
            model = experiment.structure.frozen(frozen)
            return sample(model, model, experiment.rules, prompts, key, samples_per_prompt=per_prompt)

        @jax.jit
        def at_stop(scores: Scores, components: Components) -> tuple[jax.Array, dict[str, jax.Array]]:
            g_N, _ = experiment.at_stop(scores, components)
            last = {
                name: objectives.at_last_state(terms, scores.is_terminable_NxT) for name, terms in components.items()
            }
            return g_N, last

        self._draw, self._at_stop = draw, at_stop

    def of(self, numbers: Sequence[int]) -> list[Reference]:
        """Those of the examples with these numbers; among others an example has other samples."""
        evaluation = self._experiment.config.eval
        rows, size = [number for number in numbers for _ in range(self._rows)], evaluation.prompts_per_batch
        batches = [itertools.islice(itertools.cycle(rows[at:]), size) for at in range(0, len(rows), size)]
        first = numbers[0] * self._rows
        drawn = [self._draw_batch(list(batch), first + index) for index, batch in enumerate(batches)]
        # All are drawn before any is waited for: the next batch is sampled while the last one is judged.
        parts = [self._finish(*each) for each in drawn]
        tokens, lengths, log_w, last = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        texts = [text for trajectories, _, _ in drawn for text in self._experiment.texts(trajectories)]
        count = self._rows * evaluation.samples_per_prompt
        places = [slice(index * count, (index + 1) * count) for index in range(len(numbers))]
        return [
            Reference(
                texts[own], tokens[own], lengths[own], log_w[own], {name: values[own] for name, values in last.items()}
            )
            for own in places
        ]

    def _draw_batch(self, numbers: Sequence[int], index: int) -> tuple[Trajectories, Scores, Callable[[], Components]]:
        experiment = self._experiment
        examples = [self._examples[number] for number in numbers]
        prompts = experiment.encode(examples, self._examples)
        key = key_for(experiment.config.seed, Purpose.REFERENCE, index)
        trajectories, scores = self._draw(experiment.frozen, prompts, key)
        whole = trajectories.rewarded_whole()
        return trajectories, scores, experiment.reward.request(experiment.frozen, examples, prompts, whole)

    def _finish(self, trajectories: Trajectories, scores: Scores, request: Callable[[], Components]) -> tuple[Any, ...]:
        """A batch's tokens, lengths, log-weights and last components, on the host."""
        log_w, last = jax.device_get(self._at_stop(scores, request()))
        log_w = np.where(np.isfinite(log_w), log_w, -np.inf).astype(np.float64)
        return *jax.device_get((trajectories.tokens_NxL, trajectories.length_N)), log_w, last
