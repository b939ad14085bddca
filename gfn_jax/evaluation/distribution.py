"""A policy's exact distribution for a prompt, beside a target that is known (`Task.target`).

With π the policy's probabilities of all that it can write, q the target's and M the texts that have a target:

    invalid_mass     sum of π outside of M
    kl               KL(π given M || q), in nats: sum over M of p log(p / q), where p = π / (1 - invalid_mass). The
                     target has no mass outside of M, so what the policy writes there is the figure above, and no part
                     of this one
    total_variation  of π, what is outside of M included, from q: half the sum of |π - q|
    elbo             sum over everything of π (log R - log π), which is log Z - KL(π || R / Z)
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.policy.prefix_tree import PrefixTree
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class Targets:
    """Of this process's b prompts: their texts, their targets by outcome, and log R of everything, as training ends."""

    prompts: Sequence[str]
    by_prompt: Sequence[Mapping[str, float]]
    log_r_bxY: np.ndarray


def exact_distributions(experiment: Experiment, examples: Sequence[Any]) -> "ExactDistributions | None":
    """What measures them, where all of these examples have a target."""
    if any(experiment.task.target(example) is None for example in examples):
        return None
    return ExactDistributions(experiment)


class ExactDistributions:
    """Measures the distributions of adapters; a batch's prompts are split over the mesh, and over processes."""

    def __init__(self, experiment: Experiment):
        """Raises `UserError` where the policy can write too much to list."""
        self._experiment = experiment
        self._tree = tree = PrefixTree(experiment.rules)
        texts = experiment.tokenizer.decode_batch(tree.strings)
        self._number_of = {text: number for number, text in enumerate(texts)}
        if len(self._number_of) < len(texts):
            raise UserError("two strings of vocabulary items spell one text: a target of texts cannot tell them apart")

        def log_probs(adapter: Weights, frozen: Weights, prompts: Prompts) -> jax.Array:
            return tree.log_probs(*experiment.structure.policy_and_frozen(adapter, frozen), prompts)

        compiled = functools.partial(jax.jit, out_shardings=experiment.rows.sharding)
        self.log_probs, self._final_log_r = compiled(log_probs), compiled(experiment.final_log_r)

    def targets(self, examples: Sequence[Any], prompts: Prompts) -> Targets:
        """What a batch is measured against: `examples` are those of this process's rows."""
        experiment, task = self._experiment, self._experiment.task
        by_prompt = [task.target(example) or {} for example in examples]
        if beyond := next((text for each in by_prompt for text in each if text not in self._number_of), None):
            raise UserError(f"task {experiment.config.task.name!r}: the policy cannot write {beyond!r}, a target")
        everything = experiment.rows.place(self._tree.trajectories(len(examples)))
        components = experiment.reward.components(experiment.frozen, examples, prompts, everything)
        lengths, log_r_NxT = experiment.rows.fetch((everything.length_N, self._final_log_r(components)))
        log_r_N = np.take_along_axis(log_r_NxT, lengths[:, None], 1).astype(np.float64)
        texts = [task.prompt(example) for example in examples]
        return Targets(texts, by_prompt, log_r_N.reshape(len(examples), -1))

    def measure(
        self, adapter: Weights, prompts: Prompts, targets: Targets
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """The figures above of this process's prompts, and a row for each prompt's distribution."""
        experiment = self._experiment
        log_pi_bxY = experiment.rows.fetch(self.log_probs(adapter, experiment.frozen, prompts)).astype(np.float64)
        rows = [
            self._row(prompt, target, log_pi_Y)
            for prompt, target, log_pi_Y in zip(targets.prompts, targets.by_prompt, log_pi_bxY, strict=True)
        ]
        is_possible = np.isfinite(log_pi_bxY)
        g_bxY = np.where(is_possible, targets.log_r_bxY - np.where(is_possible, log_pi_bxY, 0), 0)
        figures = {name: np.array([row[name] for row in rows]) for name in ("kl", "total_variation", "invalid_mass")}
        return figures | {"elbo": (np.exp(log_pi_bxY) * g_bxY).sum(1)}, rows

    def _row(self, prompt: str, target: Mapping[str, float], log_pi_Y: np.ndarray) -> dict[str, Any]:
        numbers, q = [self._number_of[text] for text in target], np.array(list(target.values()))
        log_pi = log_pi_Y[numbers]
        pi, log_valid = np.exp(log_pi), np.logaddexp.reduce(log_pi)
        invalid = float(np.exp(np.delete(log_pi_Y, numbers)).sum())
        log_ratio = np.where(pi > 0, log_pi - log_valid - np.log(q), 0)
        return {
            "prompt": prompt,
            "kl": float((np.exp(log_pi - log_valid) * log_ratio).sum()),
            "total_variation": 0.5 * (float(np.abs(pi - q).sum()) + invalid),
            "invalid_mass": invalid,
            "outcomes": list(target),
            "policy": pi.tolist(),
            "target": q.tolist(),
        }
