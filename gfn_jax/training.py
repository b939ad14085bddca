"""The training loop."""

from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from gfn_jax.config import Config
from gfn_jax.evaluation.report import before_and_after
from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment import Examples, Experiment, build
from gfn_jax.pipeline import Pipeline
from gfn_jax.runtime.checkpoint import Checkpoints, Snapshot
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
    with build(config) as experiment:
        experiment.check_examples([*examples.train, *examples.validation])
        counts = f"{len(examples.train)} training and {len(examples.validation)} validation examples"
        console.print(f"{counts}; compiling ...")
        _train(config, workdir, console, examples, experiment)


def _train(config: Config, workdir: Path, console: Console, examples: Examples, experiment: Experiment) -> None:
    functions, frozen, stopwatch = experiment.functions, experiment.frozen, experiment.stopwatch
    claim(workdir, config, examples.sha256())
    checkpoints = Checkpoints(workdir / "checkpoints")
    fresh = Snapshot(functions.init(jax.tree.map(jnp.copy, experiment.adapter)), functions.no_trajectories())
    restored = checkpoints.restore_latest(fresh)
    state = (restored or fresh).state
    start, last = int(state.step), config.train.steps
    if restored:
        console.print(f"going on after step {start}, from the checkpoint in {workdir}")
    validation = Validation(experiment, examples.validation)
    before = after = validation.measure(experiment.adapter)

    with Tracker(config, workdir, start if restored else None, console) as tracker:
        if not restored:
            tracker.log_validation(0, before.summary(), before.probes)
        pipeline = Pipeline(experiment, examples, start, last, restored.waiting if restored else ())
        stopwatch.take()
        for step in range(start, last):
            drawn = pipeline.advance(state.adapter)
            components = drawn.components()
            with stopwatch.measure("update"):
                state, metrics = functions.update(state, frozen, drawn.prompts, drawn.trajectories, components)
                tracker.flush()  # writes the step before, while this one runs
                jax.block_until_ready(state)
            tracker.log_step(step + 1, metrics, drawn.examples, stopwatch.take())

            if (step + 1) % config.train.eval_every == 0 or step + 1 == last:
                tracker.flush()
                after = validation.measure(state.adapter)
                tracker.log_validation(step + 1, after.summary(), after.probes)
                stopwatch.take()
            # Last, so that a checkpoint never stands for figures that were not written down.
            if (step + 1) % config.train.checkpoint_every == 0 or step + 1 == last:
                tracker.flush()
                checkpoints.save(Snapshot(state, pipeline.waiting))
        if start >= last:
            after = validation.measure(state.adapter)
    checkpoints.close()
    console.print(before_and_after(before, after))
