"""The training loop."""

from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from gfn_jax.config import Config
from gfn_jax.evaluation.report import before_and_after
from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment import Examples, build
from gfn_jax.runtime.checkpoint import Checkpoints
from gfn_jax.runtime.run_directory import check_data, check_ownership, claim
from gfn_jax.runtime.tracking import Tracker, check_login


def train(config: Config, workdir: Path, console: Console) -> None:
    """Trains in a new directory, or goes on where the last checkpoint of `workdir` ended.

    Nothing is written before everything that the configuration names was read and found good.
    """
    check_ownership(workdir, config)
    check_login(config)
    examples = Examples.load(config)
    check_data(workdir, examples.sha256())
    experiment = build(config)
    experiment.check_lengths([*examples.train, *examples.validation])
    console.print(f"{len(examples.train)} training and {len(examples.validation)} validation prompts; compiling ...")
    functions, reward, frozen = experiment.functions, experiment.reward, experiment.frozen
    state = functions.init(jax.tree.map(jnp.copy, experiment.adapter))

    claim(workdir, config, examples.sha256())
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore_latest(state)
    state = restored or state
    start, last = int(state.step), config.train.steps
    if restored:
        console.print(f"going on after step {start}, from the checkpoint in {workdir}")
    validation = Validation(experiment, examples.validation)
    before = after = validation.measure(experiment.adapter)

    with Tracker(config, workdir, start if restored else None, console) as tracker:
        if not restored:
            tracker.log_validation(0, before.summary(), before.probes)
        for step in range(start, last):
            batch = examples.of_step(step, config.train.prompts_per_step)
            prompts = experiment.encode(batch)
            trajectories = functions.sample(state.adapter, frozen, prompts, step)
            components = reward.components(frozen, batch, prompts, trajectories)
            state, metrics = functions.update(state, frozen, prompts, trajectories, components)
            tracker.log_step(step + 1, metrics, [experiment.task.prompt(example) for example in batch])

            if (step + 1) % config.train.eval_every == 0 or step + 1 == last:
                tracker.flush()
                after = validation.measure(state.adapter)
                tracker.log_validation(step + 1, after.summary(), after.probes)
            # Last, so that a checkpoint never stands for figures that were not written down.
            if (step + 1) % config.train.checkpoint_every == 0 or step + 1 == last:
                tracker.flush()
                checkpoints.save(state)
        if start >= last:
            after = validation.measure(state.adapter)
    checkpoints.close()
    console.print(before_and_after(before, after))
