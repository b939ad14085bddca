"""Training ends where its figure rises no more: at the same step, with the same state, however often it was stopped."""

import shutil

import jax
import numpy as np
import pytest
from helpers import last_snapshot, run, short_config
from run_files import json_lines, without_times

from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import JsonLines
from gfn_jax.training.patience import Patience

FIGURES = [-5.0, -4.0, -6.0, float("nan"), -4.0, -3.0, -3.5, -3.5, -3.5, -1.0]  # of step 0, 10, ..


def settings(**overrides):
    """All texts of the miniature are as long as they may be: their length never rises."""
    constant = {"train__keep_best": "length", "train__eval_every": 1, "train__checkpoint_every": 2}
    return short_config(
        **({"train__steps": 6, "train__pipeline_depth": 1, "train__patience": 3} | constant | overrides)
    )


def ends_after(limit, file, restart=None):
    """The step at which patience with these figures is over, where the run may be killed and begun again."""
    rows = JsonLines(file, after_step=-1)
    rows.write(0, [{"val/elbo": FIGURES[0]}])
    train = short_config(train__patience=limit).train
    patience = Patience(train, file)
    for number, figure in enumerate(FIGURES[1:], start=1):
        rows.write(10 * number, [{"train/loss": 1.0}, {"val/elbo": figure}])
        if number == restart:
            patience = Patience(train, file)
        else:
            patience.observe(10 * number, {"elbo": figure})
        if patience.is_over:
            return 10 * number, patience.verdict
    return None, ""


@pytest.mark.parametrize(("limit", "step", "best"), [(0, None, 0), (1, 20, 10), (2, 30, 10), (3, 40, 10), (4, None, 0)])
def test_it_ends_after_so_many_validations_without_a_higher_figure(tmp_path, limit, step, best):
    for restart in (None, *range(1, len(FIGURES))):
        ended, verdict = ends_after(limit, tmp_path / f"{restart}.jsonl", restart)
        assert ended == step
        if step:
            assert f"after step {step}: elbo has not risen for {limit} validations in a row" in verdict
            assert f"best at step {best}, with -4" in verdict


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "ended"
    return workdir, run(settings(), workdir)


def assert_same_runs(configuration, workdir, expected):
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert without_times(json_lines(workdir / file)) == without_times(json_lines(expected / file))
    got, wanted = (last_snapshot(configuration, place) for place in (workdir, expected))
    jax.tree.map(np.testing.assert_array_equal, (got.state, got.waiting), (wanted.state, wanted.waiting))
    np.testing.assert_array_equal(got.replay, wanted.replay)


def test_a_run_that_ends_early_saves_its_last_step_and_says_why(ended):
    workdir, output = ended
    assert "training ended after step 3: length has not risen for 3 validations in a row" in output
    assert "it was best at step 0, with 6" in output
    assert "5 examples that training did not see" in output
    assert json_lines(workdir / "metrics.jsonl")[-1]["step"] == 3
    assert last_snapshot(settings(), workdir).step == 3


def test_beginning_again_trains_no_further(ended, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(ended[0], again)
    output = run(settings(), again)
    assert "training ended after step 3: length has not risen for 3 validations in a row" in output
    first, second = (said[said.index("On 5 examples") : said.index("the report is in")] for said in (ended[1], output))
    assert first == second
    assert {file.name for file in (again / "checkpoints").iterdir()} == {"2", "3"}
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (again / file).read_text() == (ended[0] / file).read_text()


def test_a_run_that_was_killed_ends_at_the_same_step_with_the_same_state(ended, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(ended[0], killed)
    shutil.rmtree(killed / "checkpoints" / "3")
    assert "going on after step 2" in run(settings(), killed)
    assert_same_runs(settings(), killed, ended[0])


def test_with_more_patience_a_run_that_ended_goes_on_as_if_it_had_had_it_before(ended, tmp_path):
    longer, whole = tmp_path / "longer", tmp_path / "whole"
    shutil.copytree(ended[0], longer)
    patient = settings(train__patience=4)
    assert "training ended after step 4" in run(patient, longer)
    run(patient, whole)
    assert_same_runs(patient, longer, whole)


def test_patience_without_a_figure_to_wait_for_is_refused():
    with pytest.raises(UserError, match=r"^train: patience 2 waits for a better .* keep_best names none") as error:
        settings(train__patience=2, train__keep_best="")
    assert "\n" not in str(error.value)
