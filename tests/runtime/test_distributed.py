"""What processes tell each other, as one process sees it, and how a run of several begins."""

import pytest

from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import UserError


def test_one_process_hears_itself():
    value = {"a": [1, 2.5, "x"]}
    assert distributed.gather(value) == [value]
    assert distributed.of_main(value) is value


def test_what_is_wrong_in_one_process_is_raised_there():
    with pytest.raises(UserError, match="no such file"), distributed.in_agreement():
        raise UserError("no such file")
    with distributed.in_agreement():
        pass


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}, False),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, False),  # in a batch script, not in one of its tasks
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "a"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_processes_join_where_several_were_started(monkeypatch, variables, joins):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args, **_: joined.append(args))
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.initialize("auto", None, None, None) == bool(joined) == joins
    assert not distributed.initialize("off", None, None, None)
    assert bool(joined) == joins
    assert distributed.initialize("auto", "host:1", 4, 2)
    assert joined[-1] == ("host:1", 4, 2)


def test_flags_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match=r"--processes and --process_id is missing"):
        distributed.initialize("auto", "host:1", None, None)
    with pytest.raises(UserError, match=r"--distributed=off, and yet --coordinator"):
        distributed.initialize("off", "host:1", 2, 0)
