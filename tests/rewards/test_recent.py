"""The cache that is bounded by bytes, and the judgements that it keeps: no more than what was said."""

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest

from gfn_jax.rewards.judging import Judgements
from gfn_jax.rewards.recent import Recent


def a_pair(number):
    return f"the fact of number {number}", f"an answer to number {number}"


VALUES = [float, lambda number: np.full(300, number, np.float32), lambda number: [number + 0.5 for _ in range(9)]]


@pytest.mark.parametrize("value", VALUES)
def test_it_takes_as_much_memory_as_it_may_and_no_more(value):
    megabytes = 2.0
    recent = Recent(megabytes)
    tracemalloc.start()
    try:
        for first in range(0, 8_000, 50):
            recent.keep({a_pair(number): value(number) for number in range(first, first + 50)})
        taken = tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()
    assert 0.6 * megabytes < taken < 1.05 * megabytes


def test_what_was_asked_for_longest_ago_goes_first():
    recent = Recent(0.01)
    recent.keep({"old": "x" * 4000, "older": "x" * 4000})
    assert recent.find(["old", "unknown"]).keys() == {"old"}
    recent.keep({"new": "x" * 4000})
    assert recent.find(["old", "older", "new"]).keys() == {"old", "new"}
    recent.keep({"new": "x" * 6000})  # counts as what it is now
    assert recent.find(["old", "new"]).keys() == {"new"}
    recent.keep({"larger than all": "x" * 20_000})
    assert not recent.find(["new", "larger than all"])


class Job:
    """A batch on its way."""

    def __init__(self, method, batch):
        self.batch = batch

    def result(self):
        return [len(text) / 2 for text in self.batch]


class Pool:
    """Writes down what was asked, and which jobs somebody still holds."""

    def __init__(self):
        self.asked, self._jobs = [], []

    def submit(self, method, batch):
        job = Job(method, batch)
        self._jobs.append(weakref.ref(job))
        self.asked += batch
        return job

    @property
    def held(self):
        gc.collect()
        return sum(job() is not None for job in self._jobs)


TEXTS = [letter * length for letter, length in itertools.product("abc", range(1, 8))]


def test_of_a_judgement_that_was_waited_for_nothing_but_the_value_is_kept():
    pool = Pool()
    judgements = Judgements(pool, "judge", 4, 1.0)
    waiting = judgements.request(TEXTS)
    assert pool.held == 6
    said = waiting()
    assert said == [len(text) / 2 for text in TEXTS]
    assert pool.held == 0
    assert waiting() == said  # validation asks again for what the frozen model's samples were found to be


def test_nothing_is_asked_twice_be_it_on_its_way_or_known():
    pool = Pool()
    judgements = Judgements(pool, "judge", 4, 1.0)
    first, second = judgements.request(TEXTS[:9]), judgements.request([*TEXTS, *TEXTS[3:5]])
    assert sorted(pool.asked) == sorted(TEXTS)
    expected = [len(text) / 2 for text in (*TEXTS, *TEXTS[3:5])]
    assert second() == expected
    assert first() == expected[:9]
    assert judgements.request(TEXTS)() == expected[: len(TEXTS)]
    assert sorted(pool.asked) == sorted(TEXTS)


def test_what_the_cache_has_lost_is_asked_again_and_what_waits_is_never_lost():
    pool = Pool()
    judgements = Judgements(pool, "judge", 4, 0.001)
    waiting = judgements.request(TEXTS)
    assert waiting() == waiting() == judgements.request(TEXTS)() == [len(text) / 2 for text in TEXTS]
    assert len(pool.asked) > len(TEXTS)
