"""A run's directory opened again, for what is done with its policy after, or beside, training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gfn_jax.config import Config, Mesh, beginning_from
from gfn_jax.config_reading import read_run_config
from gfn_jax.errors import UserError
from gfn_jax.experiment import Experiment, build
from gfn_jax.runtime.checkpoint import Checkpoints, Snapshot


class TrainedRun(NamedTuple):
    """`damaged` says of which checkpoints, later than the snapshot, nothing could be read."""

    experiment: Experiment
    snapshot: Snapshot
    damaged: list[str]


def read_finished_config(workdir: Path) -> Config:
    """The configuration of a run that has a checkpoint, for one device; what the run began from is not needed."""
    config = read_run_config(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint yet")
    return beginning_from("", config).model_copy(update={"mesh": Mesh(data=1, model=1, fsdp=False)})


@contextlib.contextmanager
def open_run(workdir: Path, config: Config) -> Iterator[TrainedRun]:
    """The run as its last checkpoint left it; raises `UserError` where it cannot be had."""
    with build(config) as experiment:
        with Checkpoints(workdir / "checkpoints", experiment.frozen_sha256) as checkpoints:
            snapshot, faults = checkpoints.restore_latest(experiment.beginning())
        if snapshot is None:
            raise UserError(f"{workdir} holds no checkpoint yet")
        damaged = [f"checkpoint {step} is damaged: this is the policy of {snapshot.step}" for step in faults]
        yield TrainedRun(experiment, snapshot, damaged)
