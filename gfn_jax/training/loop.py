"""The training loop."""

import contextlib
import secrets
from pathlib import Path

import jax
from rich.console import Console

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.before_after import before_and_after, which_is_used
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.replay.buffer import ReplayBuffer
from gfn_jax.replay.entry import NOTHING, UnreadableError
from gfn_jax.runs.tracking import Tracker
from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.runtime.interruption import Interruption
from gfn_jax.runtime.startup import configure_jax
from gfn_jax.training.patience import Patience
from gfn_jax.training.pipeline import Pipeline
from gfn_jax.training.preparation import Prepared, prepare
from gfn_jax.training.replay_rows import ReplayRows
from gfn_jax.training.seeds import sow


def train(config: Config, workdir: Path, console: Console) -> bool:
    """Trains in a new directory, or goes on where the last checkpoint of `workdir` ended.

    Nothing is written before everything that the configuration names was read and found good, in
    all processes of the run; the main one alone writes, but for the checkpoints. False where a signal
    stopped the run before its end: its last step, or that where `train.patience` is over.
    """
    configure_jax(config.model.dtype)
    console = console if distributed.is_main() else Console(quiet=True)
    try:
        with contextlib.ExitStack() as stack:
            prepared = prepare(config, workdir, console, stack)
            try:
                is_done = _train(prepared, console)
            except TrainingError as error:
                prepared.checkpoints.settle()
                raise TrainingError(f"{error}; {prepared.checkpoints.latest}") from error
        distributed.gather(None)  # the others wait for what the main process does last
    except (UserError, TrainingError):
        raise
    except Exception as error:
        if distributed.is_loss(error):
            raise distributed.lost_process(error, f"what is saved is in {workdir}") from error
        raise
    return is_done


def _train(prepared: Prepared, console: Console) -> bool:
    workdir, examples, experiment = prepared.workdir, prepared.examples, prepared.experiment
    buffer, checkpoints, fresh = prepared.buffer, prepared.checkpoints, prepared.beginning
    config, stopwatch = experiment.config, experiment.stopwatch
    functions, frozen = experiment.functions, experiment.frozen
    with distributed.in_agreement():
        restored, faults = checkpoints.restore_latest(fresh)
    for step, fault in faults.items():
        place = checkpoints.set_aside(step)
        console.print(f"checkpoint {step} is damaged ({fault}); it was moved to {place}", soft_wrap=True)
    begin = restored or fresh
    state, start, last = begin.state, begin.step, config.train.steps
    if restored:
        console.print(f"going on after step {start}, from the checkpoint in {workdir}")
    seeds = _fill(buffer, begin, workdir)
    experience = ReplayRows(experiment, buffer)
    validation = prepared.validation
    known = validation.recorded(workdir, 0) if restored else None  # else its files begin again, as the run does
    before = after = known or validation.measure(experiment.adapter)
    console.print(prepared.warm_up.wait())
    with distributed.in_agreement():
        if config.train.keep_best and config.train.keep_best not in before.summary():
            names = ", ".join(before.summary())
            raise UserError(f"train.keep_best: validation has no figure {config.train.keep_best!r}; it has {names}")

    with Tracker(config, workdir, start if restored else None, console) as tracker, Interruption() as interruption:
        if not restored:
            tracker.log_validation(0, before.summary(), before.per_prompt, before.probes, before.distributions)
        patience = Patience(config.train, workdir / "metrics.jsonl")
        if patience.is_over:
            last = start
        pipeline = Pipeline(experiment, examples, start, last, begin.waiting if restored else ())
        stopwatch.take()
        for step in range(start, last):
            with stopwatch.measure("update"):
                jax.block_until_ready(state)  # of the step before, whose rows were remembered meanwhile
            drawn = pipeline.advance(state.adapter)
            experience.draw(step, drawn.examples)
            components = drawn.components()
            replayed, final_log_r = experience.rows(components), experience.final_log_r(components)
            with stopwatch.measure("update"):
                state, metrics = functions.update(
                    state, frozen, drawn.prompts, drawn.trajectories, components, replayed
                )
            tracker.flush()  # writes the step before, while this one runs
            experience.remember(step, drawn.examples, drawn.trajectories, components, final_log_r)
            tracker.log_step(step + 1, metrics, drawn.examples, replay=experience.statistics(), time=stopwatch.take())

            figures, is_best = None, False
            if (step + 1) % config.train.eval_every == 0 or step + 1 == last:
                tracker.flush()
                after = validation.measure(state.adapter)
                figures = after.summary()
                tracker.log_validation(step + 1, figures, after.per_prompt, after.probes, after.distributions)
                is_best = patience.observe(step + 1, figures)
                stopwatch.take()
            # Last, so that a checkpoint never stands for figures that were not written down.
            is_last = step + 1 == last or patience.is_over
            wish = next(filter(None, distributed.gather(interruption.requested)), "") if not is_last else ""
            if (step + 1) % config.train.checkpoint_every == 0 or is_best or is_last or wish:
                tracker.flush()
                replay = experience.snapshot() if distributed.is_main() else NOTHING  # the main process saves it
                checkpoints.save(Snapshot(state, pipeline.waiting, replay, seeds), figures)
            if wish:
                console.print(f"stopped by {wish} after step {step + 1}; the same command goes on")
                return False
            if is_last:
                break
        if start >= last:
            after = validation.measure(state.adapter)
        checkpoints.finish()  # or the report would not know the last one
        report = _report(tracker, workdir)
    if patience.is_over:
        console.print(patience.verdict, soft_wrap=True)
    console.print(before_and_after(before, after))
    console.print(which_is_used(int(state.step), checkpoints.best(), config.train.keep_best), soft_wrap=True)
    console.print(report, soft_wrap=True)
    return True


def _report(tracker: Tracker, workdir: Path) -> str:
    """Has the main process make a page of all that the run has written down; where it is."""
    tracker.flush()
    if not distributed.is_main():
        return ""
    from gfn_jax.reporting.page import write_report  # draws, by what is slow to import

    try:
        file = write_report(workdir)
    except UserError as error:  # the run itself is saved, or else says so
        return str(error)
    tracker.log_report(file)
    return f"the report is in {file}"


def _fill(buffer: ReplayBuffer, begin: Snapshot, workdir: Path) -> tuple[str, ...]:
    """Gives the buffer what a snapshot remembers, and the seeds that it was not offered yet; the names of all seeds."""
    seeds: tuple[str, ...] = ()
    with distributed.in_agreement():
        if distributed.is_main() or not buffer.is_shared:
            try:
                buffer.restore(begin.replay)
            except UnreadableError as error:
                raise UserError(
                    f"the replay buffer of the checkpoint of step {begin.step} cannot be read: {error}"
                ) from error
            seeds = sow(buffer, workdir, begin.seeds)
    mark = secrets.token_hex()
    mark = distributed.of_main(mark if distributed.is_main() and buffer.leave(mark) else "")
    with distributed.in_agreement():
        if mark and not buffer.finds(mark):
            raise UserError(
                f"replay.url: process {jax.process_index()} finds another Redis server there than process 0; "
                "on several machines it must not be `localhost`"
            )
    return tuple(distributed.of_main(seeds))
