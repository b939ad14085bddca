"""Workers may die, hang or raise: a batch is done again, or the run ends saying why."""

import os
import signal
import time

import pytest

from gfn_jax.rewards.side_process import WorkerPool
from gfn_jax.runtime.errors import TrainingError, UserError


@pytest.fixture
def pool(tmp_path, request):
    failures, attempts, timeout_s, is_forked = request.param
    settings = {"log": str(tmp_path / "tries"), "failures": failures}
    limits = {"workers": 1, "timeout_s": timeout_s, "attempts": attempts}
    pool = WorkerPool("faulty_models:Faulty", settings, **limits, is_forked=is_forked)
    yield pool
    pool.close()


@pytest.mark.parametrize("pool", [(1, 3, 4.0, True)], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "hung", "raising", "odd"])
def test_a_failed_batch_is_done_again_and_none_is_lost(pool, fault):
    jobs = [pool.submit(fault, [number, number + 1]) for number in range(3)]
    assert [job.result() for job in jobs] == [[0, 2], [2, 4], [4, 6]]
    assert pool.failures == 1


@pytest.mark.parametrize("pool", [(0, 2, 60.0, False), (0, 2, 60.0, True)], indirect=True)
def test_the_death_of_an_idle_worker_is_survived(pool):
    worker = pool.submit("process_id", None).result()
    os.kill(worker, signal.SIGKILL)
    time.sleep(1)  # until the pool has noticed
    assert pool.submit("raising", [1]).result() == [2]
    assert pool.submit("process_id", None).result() != worker


@pytest.mark.parametrize("pool", [(0, 1, 60.0, False), (0, 1, 60.0, True)], indirect=True)
def test_an_interrupt_of_the_terminal_is_not_for_workers(pool):
    worker = pool.submit("process_id", None).result()
    os.kill(worker, signal.SIGINT)
    assert pool.submit("process_id", None).result() == worker
    assert pool.failures == 0


@pytest.mark.parametrize("pool", [(99, 2, 4.0, False)], indirect=True)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("killed", "failed 2 times; the last time it died with exit code -9"),
        ("hung", "failed 2 times; the last time it gave no answer within 4 s"),
        ("odd", r"(?s)failed 2 times; .*in odd\n.*OddError: twoarguments"),
        ("raising", r"(?s)failed 2 times; .*in raising\n.*ZeroDivisionError: a fault of the model's"),
    ],
)
def test_a_fault_that_stays_ends_the_run_with_the_workers_own_words(pool, fault, message):
    with pytest.raises(TrainingError, match=message):
        pool.submit(fault, [1]).result()


@pytest.mark.parametrize("pool", [(0, 3, 4.0, True)], indirect=True)
def test_what_the_user_can_mend_is_not_tried_again(pool):
    with pytest.raises(UserError, match=r"what is one to do with \[1\]\?"):
        pool.submit("refusing", [1]).result()
    assert pool.failures == 0


@pytest.mark.parametrize("pool", [(0, 1, 120.0, True)], indirect=True)
def test_workers_import_no_jax(pool):
    before = pool.submit("modules_with", "faulty_models").result()
    assert "transformers.modeling_utils" in before  # already: it is forked from a process that has imported it
    loaded = pool.submit("modules_with", "gfn_jax.rewards.nli").result()
    assert {"gfn_jax.rewards.side_process", "torch", "transformers"} <= set(loaded)
    assert not {"jax", "flax"} & set(loaded)
