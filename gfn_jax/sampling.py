"""Samples of a trained policy, likeliest first, with what the policy and the reward say of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from gfn_jax.policy.sampler import sample
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.tasks import make_task
from gfn_jax.text.prompts import pad_to_bucket
from gfn_jax.trained_run import TrainedRun, open_run, read_finished_config


def sample_table(workdir: Path, fields: Mapping[str, str | None], count: int, seed: int) -> Table:
    """`count` continuations by the policy of the last checkpoint in `workdir`, of the example with these `fields`."""
    config = read_finished_config(workdir)
    example = make_task(config).check_example(fields)
    with open_run(workdir, config) as run:
        return _sample_table(run, example, count, seed)


def _sample_table(run: TrainedRun, example: Any, count: int, seed: int) -> Table:
    experiment, snapshot, damaged = run
    experiment.check_examples([example], in_buckets=False)
    reward = experiment.reward
    text = experiment.task.prompt(example)
    tokens = experiment.tokenizer.encode(text)
    prompts = experiment.rows.place(pad_to_bucket([tokens], [len(tokens)], len(tokens)))
    trajectories, scores = sample(
        *experiment.structure.policy_and_frozen(snapshot.state.adapter, experiment.frozen),
        experiment.rules,
        prompts,
        key_for(seed, Purpose.SAMPLING),
        samples_per_prompt=count,
    )
    components = reward.components(experiment.frozen, [example], prompts, trajectories)
    g, log_r = map(np.asarray, experiment.at_stop(scores, components))
    texts = experiment.texts(trajectories)
    remarks = reward.explain(experiment.frozen, [example] * count, texts)
    table = Table(title=Text(text), caption=Text("\n".join(damaged)) if damaged else None)
    for heading in ("continuation", *remarks[0], "log π", "log R"):
        table.add_column(heading.replace("_", " "))
    for row in np.argsort(g - log_r, stable=True):
        said = [f"{value:.3f}" if isinstance(value, float) else value for value in remarks[row].values()]
        table.add_row(Text(texts[row].strip()), *map(Text, said), f"{log_r[row] - g[row]:.2f}", f"{log_r[row]:.2f}")
    return table
