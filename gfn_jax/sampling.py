"""Samples of a trained policy, likeliest first, with what the policy and the reward say of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from gfn_jax.config import Mesh, read_run_config
from gfn_jax.errors import UserError
from gfn_jax.experiment import Experiment, build
from gfn_jax.policy.sampler import sample
from gfn_jax.runtime.checkpoint import Checkpoints
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.tasks import make_task
from gfn_jax.text.prompts import pad_to_bucket


def sample_table(workdir: Path, fields: Mapping[str, str | None], count: int, seed: int) -> Table:
    """`count` continuations by the policy of the last checkpoint in `workdir`, of the example with these `fields`."""
    config = read_run_config(workdir)
    config = config.model_copy(update={"mesh": Mesh(data=1, model=1, fsdp=False)})  # wherever the run was trained
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint yet")
    example = make_task(config).check_example(fields)
    with build(config) as experiment:
        return _sample_table(experiment, workdir, example, count, seed)


def _sample_table(experiment: Experiment, workdir: Path, example: Any, count: int, seed: int) -> Table:
    experiment.check_examples([example], in_buckets=False)
    reward = experiment.reward
    with Checkpoints(workdir / "checkpoints", experiment.frozen_sha256) as checkpoints:
        snapshot, faults = checkpoints.restore_latest(experiment.beginning())
    if snapshot is None:
        raise UserError(f"{workdir} holds no checkpoint yet")

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
    said = [f"checkpoint {step} is damaged: this is the policy of {snapshot.step}" for step in faults]
    table = Table(title=Text(text), caption=Text("\n".join(said)) if said else None)
    for heading in ("continuation", *remarks[0], "log π", "log R"):
        table.add_column(heading.replace("_", " "))
    for row in np.argsort(g - log_r, stable=True):
        said = [f"{value:.3f}" if isinstance(value, float) else value for value in remarks[row].values()]
        table.add_row(Text(texts[row].strip()), *map(Text, said), f"{log_r[row] - g[row]:.2f}", f"{log_r[row]:.2f}")
    return table
