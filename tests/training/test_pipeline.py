"""Who draws what, and when: on a stand-in for an experiment that writes down what it is asked."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from gfn_jax.models.mesh import make_mesh
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.training.pipeline import Pipeline


class Recorder:
    """An experiment whose trajectories name the adapter and the step that they were drawn with."""

    def __init__(self, depth):
        self.config = SimpleNamespace(train=SimpleNamespace(pipeline_depth=depth, prompts_per_step=3))
        self.stopwatch, self.frozen = Stopwatch(), None
        self.rows = Rows(make_mesh(1, 1))
        self.functions = SimpleNamespace(sample=lambda adapter, _, prompts, step: (jnp.asarray(adapter), step, prompts))
        self.reward = SimpleNamespace(request=self.request)
        self.requested = []

    def encode(self, batch):
        return tuple(batch)

    def request(self, _, batch, prompts, trajectories):
        self.requested.append((batch, trajectories))
        return lambda: {"trajectories": trajectories}

    def of_step(self, step, count):
        return [step] * count


def run(depth, first, last, waiting=()):
    """Trains from step `first` on, the adapter being its own number of updates; what was used and what is left."""
    recorder = Recorder(depth)
    pipeline = Pipeline(recorder, recorder, first, last, waiting)
    used = []
    for step in range(first, last):
        drawn = pipeline.advance(step)
        assert drawn.examples == [step] * 3
        assert drawn.components()["trajectories"] is drawn.trajectories
        used.append(tuple(map(int, drawn.trajectories[:2])))
    return used, pipeline.waiting, recorder.requested


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_a_step_is_drawn_by_the_policy_of_depth_updates_before(depth):
    used, waiting, _ = run(depth, 0, 7)
    assert used == [(max(step - depth, 0), step) for step in range(7)]
    assert [int(trajectories[1]) for trajectories in waiting] == list(range(7, 7 + depth))


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_stopping_and_going_on_changes_nothing(depth, stop):
    before, waiting, _ = run(depth, 0, stop)
    after, _, _ = run(depth, stop, 9, waiting)
    assert before + after == run(depth, 0, 9)[0]


def test_what_lies_behind_the_last_step_is_not_judged():
    _, waiting, requested = run(3, 0, 4)
    assert [batch[0] for batch, _ in requested] == [0, 1, 2, 3]
    assert len(waiting) == 3
