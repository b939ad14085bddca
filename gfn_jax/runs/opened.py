"""A run's directory opened again, for what is done with its policy after, or beside, training."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gfn_jax.config.overrides import with_overrides
from gfn_jax.config.reading import read_run_config
from gfn_jax.config.schema import Config, Mesh, beginning_from
from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.rewards.user_function import Function
from gfn_jax.runs.checkpoint import Checkpoints, saved_steps
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import check_is_own

BEST, LAST = "best", "last"


class TrainedRun(NamedTuple):
    """`reason` says why the snapshot is this one; `damaged` are the steps that would have come before it."""

    experiment: Experiment
    snapshot: Snapshot
    reason: str
    damaged: Sequence[int] = ()

    @property
    def account(self) -> list[str]:
        """Lines that say which checkpoint this is, and why."""
        passed_over = [f"checkpoint {step} is damaged, and passed over" for step in self.damaged]
        return [*passed_over, f"checkpoint {self.snapshot.step} is used: {self.reason}"]


def read_finished_config(workdir: Path, overrides: Sequence[str] = (), *, trust_code: bool = False) -> Config:
    """The configuration of a run that has a checkpoint, for one device unless `overrides` (KEY=VALUE) name a mesh.

    What the run began from is not needed: nothing is trained.
    Raises `UserError` where its task is code from elsewhere, which making it would run, unless `trust_code`.
    """
    config = read_run_config(workdir)
    if not trust_code:
        check_is_own(config, workdir / "config.json")
    if not saved_steps(workdir / "checkpoints"):
        raise UserError(f"{workdir} holds no checkpoint yet")
    alone = {"mesh": Mesh(data=1, model=1, fsdp=False)}
    return with_overrides(beginning_from("", config).model_copy(update=alone), overrides)


@contextlib.contextmanager
def open_adapter(config: Config, adapter: str, function: Function | None = None) -> Iterator[TrainedRun]:
    """A policy that is an adapter in PEFT's format, by hub name or directory, over the configuration's frozen model."""
    with build(beginning_from(adapter, config), function) as experiment:
        yield TrainedRun(experiment, experiment.beginning(), f"nothing but the adapter {adapter}")


@contextlib.contextmanager
def open_run(
    workdir: Path, config: Config, checkpoint: str, function: Function | None = None, *, judged: bool = True
) -> Iterator[TrainedRun]:
    """The run as a checkpoint left it: the best, the last, or that of a step; raises `UserError` where it has none.

    The best is the one with the highest figure `train.keep_best`, and the last where none has that figure. Its
    model must be what it was, and where it is to be `judged` the reward's judges too.
    """
    directory = workdir / "checkpoints"
    check_choice(checkpoint, directory)
    with build(config, function) as experiment:
        like = experiment.beginning()
        content = experiment.content if judged else experiment.model_content
        with Checkpoints(directory, content, keep_best=config.train.keep_best) as checkpoints:
            faults: dict[int, str] = {}
            if checkpoint == BEST:
                snapshot, faults = checkpoints.restore_best(like)
            elif checkpoint == LAST:
                snapshot, faults = checkpoints.restore_latest(like)
            else:
                snapshot = checkpoints.restore_step(int(checkpoint), like)
            if snapshot is None:
                raise UserError(f"{workdir} holds no checkpoint yet")
            reason = _reason(checkpoint, config.train.keep_best, checkpoints.figure(snapshot.step))
        yield TrainedRun(experiment, snapshot, reason, list(faults))


def check_choice(checkpoint: str, directory: Path) -> None:
    """Raises `UserError` where there is no such checkpoint in the directory."""
    if checkpoint in (BEST, LAST):
        return
    steps = saved_steps(directory)
    if not (checkpoint.isdecimal() and int(checkpoint) in steps):
        raise UserError(
            f"--checkpoint {checkpoint}: choose {BEST}, {LAST} or the step of one of those in {directory}: "
            f"{', '.join(map(str, steps))}"
        )


def _reason(checkpoint: str, keep_best: str, figure: float) -> str:
    if checkpoint == LAST:
        return "the last one"
    if checkpoint != BEST:
        return "the one that was asked for"
    if math.isfinite(figure):
        return f"the best one, by its validation figure {keep_best} = {figure:.4g}"
    return (
        f"the last one, for none has a figure {keep_best}"
        if keep_best
        else "the last one, for train.keep_best is empty"
    )
