"""The bound of all prompts together: what goes, in which order, and that a restart changes nothing of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import short_config
from hypothesis import given, settings
from hypothesis import strategies as st
from local_redis import local_redis

from gfn_jax.models.mesh import make_mesh
from gfn_jax.replay.admission import Admission
from gfn_jax.replay.entry import Entry
from gfn_jax.replay.ledger import Ledger
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay, connect
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.training.replay_rows import ReplayRows, idle_rows

CAPACITY, TOTAL, PROMPTS, SAMPLES = 3, 14, 4, 2
STEPS = st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, CAPACITY)), max_size=4), max_size=9)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(CAPACITY, 9))
def test_the_oldest_go_and_no_more_of_them_than_must(steps, total):
    ledger, known = Ledger(total), []
    for step in steps:
        forgotten = ledger.enter(step)
        for prompt, size in step:
            known = [each for each in known if each[0] != prompt] + [(prompt, size)] * bool(size)
        expected = []
        while sum(size for _, size in known) > total:
            expected.append(known.pop(0)[0])
        assert forgotten == expected
        assert list(ledger.prompts) == [prompt for prompt, _ in known]


def made_up(step):
    """The entries of a step's fresh rows."""
    rng = np.random.default_rng(step)
    made = []
    for _ in range(PROMPTS * SAMPLES):
        tokens = rng.integers(0, 9, 4).astype(np.int32)
        values = {"log_p": rng.normal(size=5).astype(np.float32)}
        text = " ".join(map(str, tokens))
        made.append(Entry(tokens, np.ones(5, bool), values, text, float(rng.normal()), step))
    return made


class Remembering(ReplayRows):
    """An experience whose fresh rows are made up."""

    def __init__(self, buffer):
        experiment = SimpleNamespace(
            config=short_config(replay__capacity=CAPACITY, replay__total=TOTAL),
            rules=SimpleNamespace(is_word_V=np.ones(9, bool)),
            rows=Rows(make_mesh(1, 1)),
            stopwatch=Stopwatch(),
            final_log_r=lambda components: components,
            content_key=str,
        )
        super().__init__(experiment, buffer)

    def go_on(self, first, last, buffer):
        """After each step: what is stored, and what was drawn before it."""
        for step in range(first, last):
            examples = np.random.default_rng([7, step]).choice(12, PROMPTS).tolist()
            recalled = self.draw(step, examples)
            outcome = self.offer(examples, made_up(step))
            drawn = [[entry.key for entry in entries] for entries in recalled.entries]
            yield dict(buffer.sizes()), drawn, self.statistics(recalled, outcome)["size"]


@pytest.fixture(scope="module")
def server():
    with local_redis() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def make_buffer(request, server):
    """Makes empty buffers that know nothing of each other."""
    admission = Admission(CAPACITY, 0.0)

    def make(name):
        if request.param == "memory":
            return MemoryReplay(admission)
        return RedisReplay(connect(server.url, ""), name, admission)

    yield make
    server.client().flushall()


def test_a_run_keeps_no_more_than_its_total_and_goes_on_from_a_snapshot_as_if_never_stopped(make_buffer):
    whole = make_buffer("whole")
    steps = list(Remembering(whole).go_on(0, 20, whole))
    assert max(size for _, _, size in steps) <= TOTAL
    assert max(sum(sizes.values()) for sizes, _, _ in steps) <= TOTAL
    assert len({prompt for sizes, _, _ in steps for prompt in sizes}) == 12  # there are more prompts than stay
    for stop in (3, 11):
        before, after = make_buffer(f"before {stop}"), make_buffer(f"after {stop}")
        stopped = Remembering(before)
        assert list(stopped.go_on(0, stop, before)) == steps[:stop]
        after.restore(stopped.snapshot())
        assert list(Remembering(after).go_on(stop, 20, after)) == steps[stop:]


def test_prompts_that_were_offered_something_lately_stay(make_buffer):
    buffer = make_buffer("run")
    last = {}
    for step, (sizes, _, _) in enumerate(Remembering(buffer).go_on(0, 20, buffer)):
        last |= dict.fromkeys(map(str, np.random.default_rng([7, step]).choice(12, PROMPTS).tolist()), step)
        gone = last.keys() - sizes.keys()
        assert max((last[prompt] for prompt in gone), default=-1) <= min(last[prompt] for prompt in sizes)


def test_what_was_saved_with_more_than_the_total_is_cut_to_it(make_buffer):
    full = MemoryReplay(Admission(CAPACITY, 0.0))
    made = made_up(0)
    full.offer({str(prompt): made[:CAPACITY] for prompt in range(9)})
    buffer = make_buffer("run")
    buffer.restore(full.snapshot())
    Remembering(buffer)
    assert buffer.sizes() == [(str(prompt), 3) for prompt in range(5, 9)]
    assert buffer.size == 12


def test_rows_are_said_to_stay_empty_where_no_prompt_comes_again():
    settings = short_config()
    assert "as 4 steps take 16 of 16: 1 of each prompt's 3 rows" in idle_rows(settings, 16)
    assert not idle_rows(settings, 15)
    assert not idle_rows(short_config(replay__fraction=0.0), 16)
