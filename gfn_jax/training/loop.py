"""The training loop."""

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console, RenderableType

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.before_after import before_and_after, which_is_used
from gfn_jax.evaluation.validation import Measurement
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.experiment.train_step import TrainState
from gfn_jax.replay.buffer import ReplayBuffer
from gfn_jax.replay.entry import NOTHING, UnreadableError
from gfn_jax.rewards.user_function import Function
from gfn_jax.runs.tracking import Tracker
from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.runtime.interruption import Interruption
from gfn_jax.runtime.startup import configure_jax
from gfn_jax.tasks import Task
from gfn_jax.training.patience import Patience
from gfn_jax.training.pipeline import Pipeline
from gfn_jax.training.preparation import Prepared, prepare
from gfn_jax.training.replay_rows import ReplayRows
from gfn_jax.training.seeds import sow


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training came to.

    is_done        whether the run reached its end, its last step or that where `train.patience` is over, and was not
                   stopped by a signal before
    step           of the last checkpoint
    before, after  means over the validation prompts: of the untrained policy, and of the last validation
    """

    workdir: Path
    is_done: bool
    step: int
    before: dict[str, float]
    after: dict[str, float]


def train(config: Config, workdir: Path, console: Console, function: Function | None = None) -> Trained:
    """Trains in a new directory, or goes on where the last checkpoint of `workdir` ended.

    Nothing is written before everything that the configuration names was read and found good, in
    all processes of the run; the main one alone writes, but for the checkpoints. A `function` is the
    one that `reward.function.name` names.
    """
    configure_jax(config.model.dtype, config.model.matmul_precision)
    console = console if distributed.is_main() else Console(quiet=True)
    try:
        with contextlib.ExitStack() as stack:
            prepared = prepare(config, workdir, console, stack, function)
            try:
                trained = _train(prepared, console)
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
    return trained


def _train(prepared: Prepared, console: Console) -> Trained:
    """Takes the steps that are left, and says what all of them changed."""
    workdir, experiment, checkpoints = prepared.workdir, prepared.experiment, prepared.checkpoints
    config = experiment.config
    begin, is_restored = _beginning(prepared, console)
    seeds = _fill(prepared.buffer, begin, workdir)
    experience = ReplayRows(experiment, prepared.buffer)
    started = time.perf_counter()
    before = _measured_before(prepared, console, is_restored=is_restored)
    validated = f", and beside that validated the untrained policy in {time.perf_counter() - started:.1f} s"
    console.print(prepared.warm_up.wait() + ("" if is_restored else validated), soft_wrap=True)
    _check_keep_best(config, before)
    restored_step, report = begin.step if is_restored else None, ""
    with Tracker(config, workdir, restored_step, console) as tracker, Interruption() as interruption:
        if not is_restored:
            _log_validation(tracker, 0, before)
        patience = Patience(config.train, workdir / "metrics.jsonl")
        last = begin.step if patience.is_over else config.train.steps
        waiting = begin.waiting if is_restored else ()
        pipeline = Pipeline(experiment, prepared.examples, begin.step, last, waiting)
        trainer = _Trainer(prepared, seeds, pipeline, experience, tracker, patience, interruption)
        state, after, wish = trainer.train(begin, last, before)
        is_done = not wish
        if is_done:
            checkpoints.finish()  # or the report would not know the last one
            report = _report(tracker, workdir)
    if is_done:
        verdict = patience.verdict if patience.is_over else ""
        used = which_is_used(int(state.step), checkpoints.best(), config.train.keep_best)
        _conclude(console, verdict, before_and_after(before, after), used, report, _sampling(workdir, experiment.task))
    else:
        console.print(f"stopped by {wish} after step {int(state.step)}; the same command goes on")
    return Trained(workdir, is_done, int(state.step), before.summary(), after.summary())


@dataclasses.dataclass(frozen=True)
class _Trainer:
    """What all steps of a run work with; `seeds` are the pools that its buffer was given."""

    prepared: Prepared
    seeds: tuple[str, ...]
    pipeline: Pipeline
    experience: ReplayRows
    tracker: Tracker
    patience: Patience
    interruption: Interruption

    def train(self, begin: Snapshot, last: int, before: Measurement) -> tuple[TrainState, Measurement, str]:
        """The steps after `begin` up to `last`, or until the figures rise no more, or a signal comes to any process.

        The state that they end with, the last validation (`before` where there was none), and the name of the
        signal if one ended them early.
        """
        train, state, after = self.prepared.experiment.config.train, begin.state, before
        self.prepared.experiment.stopwatch.take()  # what was measured so far is no step's
        for step in range(begin.step + 1, last + 1):
            state = self.update(state, step)
            figures, is_best = None, False
            if step % train.eval_every == 0 or step == last:
                after = self.validate(state, step)
                figures = after.summary()
                is_best = self.patience.observe(step, figures)
            is_done = step == last or self.patience.is_over
            wish = distributed.of_any(self.interruption.requested)
            # Last, so that a checkpoint never stands for figures that were not written down.
            if step % train.checkpoint_every == 0 or is_best or is_done or wish:
                self.save(state, figures)
            if is_done:
                return state, after, ""
            if wish:
                return state, after, wish
        validation = self.prepared.validation  # no step was left
        return state, validation.recorded(self.prepared.workdir, begin.step) or validation.measure(state.adapter), ""

    def update(self, state: TrainState, step: int) -> TrainState:
        """The state after a step (from 1); the step before is written down, and this one's rows are remembered."""
        experiment, experience, tracker = self.prepared.experiment, self.experience, self.tracker
        stopwatch, number = experiment.stopwatch, step - 1
        with stopwatch.measure("update"):
            jax.block_until_ready(state)  # of the step before, whose rows were remembered meanwhile
        drawn = self.pipeline.advance(state.adapter)
        recalled = experience.draw(number, drawn.examples)
        components = drawn.components()
        recalled = experience.only_usable(recalled, components)
        replayed, final_log_r = experience.rows(recalled, components), experience.final_log_r(components)
        with stopwatch.measure("update"):
            state, metrics = experiment.functions.update(
                state, experiment.frozen, drawn.prompts, drawn.trajectories, components, replayed
            )
        tracker.flush()  # writes the step before, while this one runs
        outcome = experience.remember(number, drawn.examples, drawn.trajectories, components, final_log_r)
        replay = experience.statistics(recalled, outcome)
        tracker.log_step(step, metrics, drawn.examples, replay=replay, time=stopwatch.take())
        return state

    def validate(self, state: TrainState, step: int) -> Measurement:
        """What the policy reaches after a step, written down; it counts as no step's time."""
        self.tracker.flush()
        measured = self.prepared.validation.measure(state.adapter)
        _log_validation(self.tracker, step, measured)
        self.prepared.experiment.stopwatch.take()
        return measured

    def save(self, state: TrainState, figures: Mapping[str, float] | None) -> None:
        """Begins to save all that the run goes on from, with the figures of this state where it was validated."""
        self.tracker.flush()
        replay = self.experience.snapshot() if distributed.is_main() else NOTHING  # the main process saves it
        self.prepared.checkpoints.save(Snapshot(state, self.pipeline.waiting, replay, self.seeds), figures)


def _beginning(prepared: Prepared, console: Console) -> tuple[Snapshot, bool]:
    """What the run goes on from: its latest checkpoint that can be read, or else its beginning; whether the former."""
    checkpoints = prepared.checkpoints
    with distributed.in_agreement():
        restored, faults = checkpoints.restore_latest(prepared.beginning)
    for step, fault in faults.items():
        place = checkpoints.set_aside(step)
        console.print(f"checkpoint {step} is damaged ({fault}); it was moved to {place}", soft_wrap=True)
    if restored is None:
        return prepared.beginning, False
    console.print(f"going on after step {restored.step}, from the checkpoint in {prepared.workdir}")
    return restored, True


def _measured_before(prepared: Prepared, console: Console, *, is_restored: bool) -> Measurement:
    """The figures of the untrained policy: those that a run which goes on has on file, or else measured."""
    # Without a checkpoint the files begin again, as the run does.
    known = prepared.validation.recorded(prepared.workdir, 0) if is_restored else None
    return known or prepared.validation.measure(prepared.experiment.adapter, console)


def _check_keep_best(config: Config, measured: Measurement) -> None:
    """Raises `UserError` where validation does not have the figure that checkpoints are chosen by."""
    name, figures = config.train.keep_best, measured.summary()
    with distributed.in_agreement():
        if name and name not in figures:
            raise UserError(f"train.keep_best: validation has no figure {name!r}; it has {', '.join(figures)}")


def _log_validation(tracker: Tracker, step: int, measured: Measurement) -> None:
    tracker.log_validation(step, measured.summary(), measured.per_prompt, measured.probes, measured.distributions)


def _conclude(console: Console, verdict: str, table: RenderableType, *remarks: str) -> None:
    """Prints what training came to: why it ended early if it did, its figures, and remarks."""
    if verdict:
        console.print(verdict, soft_wrap=True)
    console.print(table)
    for remark in remarks:
        console.print(remark, soft_wrap=True)


def _sampling(workdir: Path, task: Task) -> str:
    """What draws from the policy."""
    flags = "".join(f' --{field} "..."' for field in task.fields)
    return f"to draw from the policy: python -m gfn_jax.sample --workdir {workdir}{flags}"


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
