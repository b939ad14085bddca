"""What a run goes on from."""

import dataclasses

import numpy as np

from gfn_jax.experiment.train_step import TrainState
from gfn_jax.types import Trajectories


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a run goes on from.

    state    after a step
    waiting  the trajectories that were drawn for later steps by then
    replay   what the buffer held, as `ReplayBuffer.snapshot` gives it
    seeds    the names of the pools that were put into the buffer
    """

    state: TrainState
    waiting: tuple[Trajectories, ...]
    replay: np.ndarray
    seeds: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return int(self.state.step)
