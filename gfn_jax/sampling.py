"""Samples of a trained policy, likeliest first, with what the policy and the reward say of them."""

from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from gfn_jax import objectives
from gfn_jax.config import Mesh, read_run_config
from gfn_jax.errors import UserError
from gfn_jax.experiment import build
from gfn_jax.policy.sampler import sample
from gfn_jax.runtime.checkpoint import Checkpoints
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.text.prompts import pad_to_bucket


def sample_table(workdir: Path, prompt: str, count: int, seed: int) -> Table:
    """`count` continuations of `prompt` by the policy of the last checkpoint in `workdir`."""
    config = read_run_config(workdir)
    config = config.model_copy(update={"mesh": Mesh(data=1, model=1)})  # wherever the run was trained
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint yet")
    experiment = build(config)
    experiment.check_lengths([prompt], in_buckets=False)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore_latest(experiment.functions.init(experiment.adapter))
    checkpoints.close()
    if state is None:
        raise UserError(f"{workdir} holds no checkpoint yet")

    tokens = experiment.tokenizer.encode(prompt)
    prompts = pad_to_bucket([tokens], [len(tokens)], len(tokens))
    trajectories, scores = sample(
        *experiment.structure.policy_and_frozen(state.adapter, experiment.frozen),
        experiment.rules,
        prompts,
        key_for(seed, Purpose.SAMPLING),
        samples_per_prompt=count,
    )
    components = experiment.reward.components(experiment.frozen, [prompt], prompts, trajectories)
    log_r_NxT = experiment.final_log_r(components)
    g_NxT = objectives.log_ratio(scores, log_r_NxT)
    log_r, g = (np.asarray(objectives.at_last_state(values, scores.is_terminable_NxT)) for values in (log_r_NxT, g_NxT))
    table = Table(title=Text(prompt))
    for heading in ("continuation", "log π", "log R"):
        table.add_column(heading, justify="left" if heading == "continuation" else "right")
    texts = experiment.texts(trajectories)
    for row in np.argsort(g - log_r, stable=True):
        table.add_row(Text(texts[row].strip()), f"{log_r[row] - g[row]:.2f}", f"{log_r[row]:.2f}")
    return table
