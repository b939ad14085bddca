"""Methods side by side: one scorer, one reward and one set of masks, whatever drew the texts."""

import json

import numpy as np
import pytest
from helpers import run, short_config
from rich.console import Console

import gfn_jax
from gfn_jax import policies
from gfn_jax.config.reading import parse_config
from gfn_jax.evaluation.comparison import Compared
from gfn_jax.evaluation.methods import Method, all_methods, choose
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.names import RESERVED
from gfn_jax.runtime.errors import UserError
from gfn_jax.terminal import print_evaluation as evaluate

SAMPLES = 2
NAMES = ["GFlowNet", "sampling", "greedy", "beam 2", "beam 10", "reference"]
CANDIDATES = 16


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison") / "run"
    run(short_config(train__steps=1, train__eval_every=1), workdir)
    return workdir


def compared(workdir, names):
    """What the command says, and every method's part of what it leaves."""
    console = Console(record=True, width=80)
    evaluate(gfn_jax.open_run(workdir), SAMPLES, None, names, CANDIDATES, console)
    written = json.loads((workdir / "evaluation.json").read_text())
    assert (written["step"], written["prompts"], written["samples_per_prompt"]) == (1, 5, SAMPLES)
    return console.export_text(), {method["name"]: method for method in written["methods"]}


@pytest.fixture(scope="module")
def said_and_written(workdir):
    return compared(workdir, NAMES)


def figure(method, name):
    return np.array(method["figures"][name]["per_prompt"])


def test_every_method_has_a_row_and_every_figure_an_interval(said_and_written):
    said, written = said_and_written
    assert list(written) == NAMES
    assert all(name in said for name in NAMES)
    assert {name for method in written.values() for name in method["figures"]} <= RESERVED | {"log_likelihood"}
    for method in written.values():
        for each in method["figures"].values():
            assert each["low"] <= each["mean"] <= each["high"]
            assert each["mean"] == pytest.approx(np.mean(each["per_prompt"]))


def test_the_reward_is_of_what_was_drawn_at_the_end_temperature(said_and_written):
    for method in said_and_written[1].values():
        np.testing.assert_allclose(figure(method, "log_r"), figure(method, "log_likelihood") / 0.8, rtol=1e-4)
        assert (figure(method, "log_likelihood_best") >= figure(method, "log_likelihood") - 1e-6).all()
        assert all(len(texts) == SAMPLES for texts in method["texts"])


def test_wider_searches_find_likelier_texts(said_and_written):
    greedy, narrow, wide = (said_and_written[1][name] for name in ("greedy", "beam 2", "beam 10"))
    assert (figure(wide, "log_likelihood_best") >= figure(greedy, "log_likelihood_best") - 1e-4).all()
    means = [figure(each, "log_likelihood").mean() for each in (said_and_written[1]["sampling"], narrow, wide)]
    assert means == sorted(means)
    assert not figure(greedy, "diversity").any()
    assert all(len(set(texts)) == SAMPLES for texts in wide["texts"])


def test_only_exact_samples_have_a_variance(said_and_written):
    with_variance = {name for name, method in said_and_written[1].items() if "own_log_ratio_var" in method["figures"]}
    assert with_variance == {"GFlowNet", "sampling"}


def test_how_prompts_fall_into_batches_changes_no_search(workdir, said_and_written, monkeypatch):
    """Nor does it whether the likelihood is taken from the reward's components or computed again."""
    monkeypatch.setattr(LikelihoodReward, "gives_log_likelihood", False)
    file = workdir / "config.json"
    settings = parse_config(json.loads(file.read_text()))
    assert settings.eval.prompts_per_batch == 4  # of five prompts
    other = settings.model_copy(update={"eval": settings.eval.model_copy(update={"prompts_per_batch": 20})})
    file.write_text(json.dumps(other.model_dump(mode="json")))
    _, written = compared(workdir, ["greedy", "beam 2", "beam 10"])  # the last 4 prompts at a time, before 1
    file.write_text(json.dumps(settings.model_dump(mode="json")))
    for name, method in written.items():
        before = said_and_written[1][name]
        assert method["texts"] == before["texts"]
        for each in method["figures"]:
            np.testing.assert_allclose(figure(method, each), figure(before, each), rtol=1e-4, atol=1e-6)


def test_a_figure_that_is_not_finite_is_null_in_the_file(workdir, monkeypatch):
    """As it is in a run's other files: NaN is no JSON."""
    log_r = np.array([-1.0, -np.inf, np.nan, -2.0, -3.0])
    strange = Compared(Method("strange", lambda *_: None), {"log_r": log_r}, 0.0, [["a."]] * 5)
    monkeypatch.setattr(policies, "compare", lambda *_: iter([strange]))
    _, written = compared(workdir, [])
    assert written["strange"]["figures"]["log_r"]["per_prompt"] == [-1.0, None, None, -2.0, -3.0]
    assert written["strange"]["figures"]["log_r"]["mean"] is None


def test_a_setting_of_ones_own_is_a_method_where_it_is_possible():
    asked = ["temperature 0.60", "nucleus .9", "temperature 1.0", "temperature 0.5"]
    tempered, truncated, plain, usual = choose(all_methods(2, 0.8, asked), asked, "methods")
    assert [each.name for each in (tempered, truncated, plain, usual)] == [
        "temperature 0.6",
        "nucleus 0.9",
        "sampling",
        "temperature 0.5",
    ]
    assert (tempered.family, tempered.setting, tempered.arguments.temperature_low) == ("temperature", 0.6, 0.6)
    assert (truncated.family, truncated.setting, truncated.arguments.top_p) == ("nucleus", 0.9, 0.9)
    for impossible, said in [("temperature 0", "between 0.001 and 100"), ("nucleus 1.5", "between 0.001 and 1")]:
        with pytest.raises(UserError, match=said):
            all_methods(2, 0.8, [impossible])


def test_what_cannot_be_compared_is_one_clear_line(workdir):
    with pytest.raises(UserError, match="n 1: a prompt needs 2 samples"):
        evaluate(gfn_jax.open_run(workdir), 1, None, [], CANDIDATES, Console(quiet=True))
    with pytest.raises(UserError, match="there is no method 'beam 9'; there are GFlowNet, sampling, "):
        evaluate(gfn_jax.open_run(workdir), 2, None, ["beam 9"], CANDIDATES, Console(quiet=True))
