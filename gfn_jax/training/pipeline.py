"""Batches of trajectories with their rewards under way, drawn ahead of the one that is trained on."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.parts import Weights
from gfn_jax.rewards.protocol import Components
from gfn_jax.types import Prompts, Trajectories


class Drawn(NamedTuple):
    """A step's examples and trajectories; calling `components` waits for their rewards."""

    examples: list[Any]
    prompts: Prompts
    trajectories: Trajectories
    components: Callable[[], Components]


class Pipeline:
    """The batches of steps `first` to `last` - 1.

    A step's trajectories are drawn `train.pipeline_depth` steps early, so that the next ones are
    sampled and answered while the judge is busy with these. Which policy draws what depends on the
    depth alone, not on who is faster, so runs stay reproducible.
    """

    def __init__(
        self, experiment: Experiment, examples: Examples, first: int, last: int, waiting: Sequence[Trajectories] = ()
    ):
        """`waiting` are the trajectories of the steps from `first` on that were drawn before a restart."""
        self._experiment, self._examples = experiment, examples
        self._depth, self._next, self._last = experiment.config.train.pipeline_depth, first, last
        self._queue: deque[Drawn] = deque()
        for trajectories in waiting:
            self._append(*self._batch(), trajectories)

    @property
    def waiting(self) -> tuple[Trajectories, ...]:
        """The trajectories that were drawn and not yet trained on."""
        return tuple(drawn.trajectories for drawn in self._queue)

    def advance(self, adapter: Weights) -> Drawn:
        """The next step's batch; with this `adapter` the pipeline is filled up first."""
        experiment = self._experiment
        while len(self._queue) <= self._depth:
            batch, prompts = self._batch()
            with experiment.stopwatch.measure("sampling"):
                drawn = experiment.functions.sample(adapter, experiment.frozen, prompts, self._next)
                jax.block_until_ready(drawn)
            self._append(batch, prompts, drawn)
        return self._queue.popleft()

    def _batch(self) -> tuple[list[Any], Prompts]:
        batch = self._examples.of_step(self._next, self._experiment.config.train.prompts_per_step)
        return batch, self._experiment.encode(batch)

    def _append(self, batch: list[Any], prompts: Prompts, trajectories: Trajectories) -> None:
        experiment = self._experiment
        # What is drawn behind the last step waits for a run that goes on with more, and is not judged here.
        components = _no_components
        if self._next < self._last:
            own = experiment.rows.own(batch)
            components = experiment.reward.request(experiment.frozen, own, prompts, trajectories)
        self._queue.append(Drawn(batch, prompts, trajectories, components))
        self._next += 1


def _no_components() -> Components:
    raise AssertionError("a step behind the last one is never trained on")
