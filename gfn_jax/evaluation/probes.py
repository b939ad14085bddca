"""Samples as rows for a log: their text, what the reward says of it, and where policy and reward disagree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfn_jax.experiment.experiment import Experiment
from gfn_jax.types import Trajectories


def describe_samples(
    experiment: Experiment,
    examples: Sequence[Any],
    trajectories: Trajectories,
    g_NxT: np.ndarray,
    log_r_NxT: np.ndarray,
    components: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """A row for each continuation of the examples, prompt-major; all arrays are the host's.

    continuation  with its terminator, and `tokens`: the same in pieces
    log_r         tempered, of the whole; beside it its components
    log_pf        log π(y ⊤ | x)
    log_ratio     g of every state; None where it has none
    """
    samples = len(trajectories.length_N) // len(examples)
    terminator, is_prefix = experiment.rules.terminator, experiment.reward.granularity == "prefix"
    rows = []
    for number, example in enumerate(examples):
        own = range(number * samples, (number + 1) * samples)
        ids = [[*trajectories.tokens_NxL[row, : trajectories.length_N[row]].tolist(), terminator] for row in own]
        texts = experiment.tokenizer.decode_batch(ids)
        remarks = experiment.reward.explain(experiment.frozen, [example] * samples, texts)
        for row, tokens, text, remark in zip(own, ids, texts, remarks, strict=True):
            last = len(tokens) - 1
            has_g = trajectories.is_terminable_NxT[row] & (is_prefix | (np.arange(g_NxT.shape[1]) == last))
            rows.append(
                {
                    "prompt": experiment.task.prompt(example),
                    **experiment.task.describe(example),
                    "continuation": text,
                    **remark,
                    "log_r": float(log_r_NxT[row, last]),
                    "log_pf": float(log_r_NxT[row, last] - g_NxT[row, last]),
                    **{name: float(values[row, last]) for name, values in components.items()},
                    "tokens": experiment.tokenizer.pieces(tokens),
                    "log_ratio": [float(g_NxT[row, state]) if has_g[state] else None for state in range(last + 1)],
                }
            )
    return rows
