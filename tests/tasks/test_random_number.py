"""The random number: its options, its reward, its exact figures, and a short training."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from architectures import save_model
from helpers import MINIATURE, config, run
from ml_collections import ConfigDict
from run_files import json_lines
from transformers import GPT2Config

from gfn_jax.evaluation.bars import distribution_bars
from gfn_jax.evaluation.distribution import exact_distributions
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import build
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import make_task
from gfn_jax.types import Trajectories

OPTIONS = {"target": "uniform", "low": 0, "high": 100, "mean": 7.0, "table": {}, "invalid_log_r": -16.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model so small that its programs compile quickly, behind the miniature's tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, GPT2Config(vocab_size=1495, n_positions=40, n_embd=64, n_head=2, n_layer=1))
    return str(directory)


def settings(options=None, model="-", **overrides):
    common = {
        "task__name": "random_number",
        "task__prompt_template": "A random integer between 0 and 100: ",
        "task__options": ConfigDict(OPTIONS | (options or {})),
        "data__prompt_buckets": (24,),
        "model__name_or_path": model,
        "model__tokenizer": str(MINIATURE / "gpt2"),
        "sampling__samples_per_prompt": 32,
        "sampling__max_len": 3,
        "objective__name": "pooled",
        "reward__temperature_end": 1.0,
        "train__prompts_per_step": 1,
        "train__microbatch_prompts": 1,
        "eval__samples_per_prompt": 8,
        "eval__prompts_per_batch": 1,
        "eval__probes": 1,
    }
    return config(**(common | overrides))


def target(options):
    task = make_task(settings(options))
    return task.target(task.example())


def test_targets_are_distributions_over_numbers_in_their_one_spelling():
    uniform = target({"low": 3, "high": 12})
    assert list(uniform) == ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]
    assert list(uniform.values()) == pytest.approx([0.1] * 10)
    poisson = target({"target": "poisson", "mean": 2.5, "low": 1, "high": 4})
    weights = np.array([2.5, 2.5**2 / 2, 2.5**3 / 6, 2.5**4 / 24])
    assert list(poisson.values()) == pytest.approx(weights / weights.sum())
    assert target({"target": "table", "table": {"10": 3.0, "9": 1.0}}) == pytest.approx({"9": 0.25, "10": 0.75})


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        ({"hihg": 3}, {}, r"task\.options\.hihg is unknown to task 'random_number': its options are target, low, high"),
        ({"target": "normal"}, {}, r"task\.options\.target: .*'uniform', 'poisson' or 'table' \(it is 'normal'\)"),
        ({"low": -1}, {}, r"task\.options\.low: .*greater than or equal to 0 \(it is -1\)"),
        ({"high": 100.5}, {}, r"task\.options\.high: .*valid integer \(it is 100\.5\)"),
        ({"low": 101}, {}, r"task\.options\.low 101 is greater than task\.options\.high 100"),
        ({"target": "table"}, {}, r"task\.options\.table is empty"),
        ({"target": "table", "table": {"05": 1.0}}, {}, r"task\.options\.table: '05' is no whole number"),
        ({"target": "table", "table": {"-5": 1.0}}, {}, r"task\.options\.table: '-5' is no whole number"),
        ({"target": "table", "table": {"5": 0.0}}, {}, r"task\.options\.table\.5: .*greater than 0"),
        ({"invalid_log_r": 0.0}, {}, r"task\.options\.invalid_log_r: .*less than 0"),
        (
            {"target": "poisson"},
            {},
            r"task\.options\.invalid_log_r is -16, but log target\(100\) is -17\d\.\d: lower it",
        ),
        ({}, {"sampling__min_len": 2}, r"sampling\.min_len is 2: task 'random_number' needs 1"),
        ({}, {"sampling__max_len": 2}, r"sampling\.max_len is 2: .* has 3 digits, and 4 are the most; set it to 3"),
        ({}, {"sampling__max_len": 9}, r"sampling\.max_len is 9: .* has 3 digits, and 4 are the most; set it to 3"),
        ({}, {"reward__temperature_end": 0.8}, r"reward\.temperature_end is 0\.8: task 'random_number' needs 1"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(options, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        make_task(settings(options, **overrides))
    assert "\n" not in str(error.value)


def test_a_missing_option_is_named():
    less = ConfigDict({name: value for name, value in OPTIONS.items() if name != "mean"})
    with pytest.raises(
        UserError, match=r"task\.options\.mean is missing: task 'random_number' needs target, low, high"
    ):
        make_task(settings(task__options=less))


@pytest.fixture(scope="module")
def experiment(model):
    with build(settings({"low": 7, "high": 100}, model)) as experiment:
        yield experiment


def test_the_policy_writes_digits_and_its_terminator_alone(experiment):
    words = np.flatnonzero(experiment.rules.is_word_V)
    assert sorted(experiment.tokenizer.pieces(words.tolist())) == list("0123456789")


def test_every_prefix_that_is_a_number_of_the_target_has_its_log_probability(experiment):
    texts = ["5", "7", "05", "42", "100", "101", "070", "999"]
    ids = [experiment.tokenizer.encode(text) for text in texts]
    tokens = np.array([[*row, *[0] * (3 - len(row))] for row in ids], np.int32)
    lengths = np.array([len(row) for row in ids], np.int32)
    given = Trajectories.given(jnp.asarray(tokens), jnp.asarray(lengths))
    log_target_NxT = experiment.reward.components(experiment.frozen, [], None, given)["log_target"]
    for text, log_target_T in zip(texts, np.asarray(log_target_NxT), strict=True):
        valid = [bool(prefix) and prefix[0] != "0" and 7 <= int(prefix) <= 100 for prefix in prefixes(text)]
        expected = np.where(valid, -np.log(94), -16.0)
        np.testing.assert_allclose(log_target_T[: len(text) + 1], expected, rtol=1e-6)


def prefixes(text):
    return [text[:length] for length in range(len(text) + 1)]


def test_the_figures_are_those_of_their_definition(experiment):
    """Against sums over all strings of digits; and a policy whose own distribution is the target has no KL from it."""
    examples = Examples.load(experiment.task, experiment.config.seed).validation
    exact, prompts = exact_distributions(experiment, examples), experiment.encode(examples)
    targets = exact.targets(examples, prompts)
    figures, (row,) = exact.measure(experiment.adapter, prompts, targets)
    log_pi = np.asarray(exact.log_probs(experiment.adapter, experiment.frozen, prompts), np.float64)[0]
    pi = np.exp(log_pi)
    assert pi.sum() == pytest.approx(1, abs=1e-5)
    strings = ["".join(experiment.tokenizer.pieces(list(ids))) for ids in exact._tree.strings]
    is_valid = np.array([text != "" and str(int(text)) == text and 7 <= int(text) <= 100 for text in strings])
    assert row["outcomes"] == [text for text, valid in zip(strings, is_valid, strict=True) if valid]
    given_valid = pi[is_valid] / pi[is_valid].sum()
    log_r = np.where(is_valid, -np.log(94), -16.0)
    assert figures["invalid_mass"][0] == pytest.approx(pi[~is_valid].sum())
    assert figures["kl"][0] == pytest.approx((given_valid * np.log(given_valid * 94)).sum())
    assert figures["total_variation"][0] == pytest.approx(0.5 * np.abs(pi - is_valid / 94).sum())
    possible = pi > 0
    assert figures["elbo"][0] == pytest.approx((pi[possible] * (log_r - log_pi)[possible]).sum(), rel=1e-5)

    own = dict(zip(row["outcomes"], given_valid, strict=True))
    same, _ = exact.measure(experiment.adapter, prompts, dataclasses.replace(targets, by_prompt=[own]))
    assert same["kl"][0] == pytest.approx(0, abs=1e-12)
    assert same["total_variation"][0] == pytest.approx(figures["invalid_mass"][0])


def test_a_mesh_measures_the_same(experiment, model):
    two = dict.fromkeys(
        ("mesh__data", "eval__prompts_per_batch", "train__prompts_per_step", "train__microbatch_prompts"), 2
    )
    figures = []
    with build(settings({"low": 7, "high": 100}, model, **two)) as other:
        for each, count in ((experiment, 1), (other, 2)):
            examples = [each.task.example()] * count
            exact, prompts = exact_distributions(each, examples), each.encode(examples)
            figures.append(exact.measure(each.adapter, prompts, exact.targets(examples, prompts))[0])
    for name, values in figures[0].items():
        np.testing.assert_allclose(figures[1][name], [*values, *values], rtol=1e-4)


def test_a_short_training_comes_nearer_and_shows_it(tmp_path, model):
    options = {"target": "table", "table": {"3": 3.0, "7": 1.0}, "invalid_log_r": -8.0}
    training = {"train__steps": 16, "train__learning_rate": 3e-2, "train__eval_every": 8, "train__warmup_steps": 1}
    printed = run(settings(options, model, sampling__max_len=1, **training), tmp_path / "run", with_page=True)
    rows = json_lines(tmp_path / "run" / "distribution.jsonl")
    assert [row["step"] for row in rows] == [0, 8, 16]
    assert rows[0]["outcomes"] == ["3", "7"]
    assert rows[0]["target"] == pytest.approx([0.75, 0.25])
    for figure in ("kl", "total_variation", "invalid_mass"):
        assert rows[-1][figure] < 0.5 * rows[0][figure]
    metrics = [row for row in json_lines(tmp_path / "run" / "metrics.jsonl") if "val/kl" in row]
    for row, figures in zip(rows, metrics, strict=True):
        assert {name: row[name] for name in ("kl", "total_variation", "invalid_mass")} == {
            name: figures[f"val/{name}"] for name in ("kl", "total_variation", "invalid_mass")
        }
    assert "KL to the target" in printed
    assert "What the policy writes" in printed
    html = (tmp_path / "run" / "report.html").read_text()
    assert 'id="distribution"' in html
    assert html.count("What the policy writes, ") == 3  # the lead, before, after
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"]["options"]["table"] == {"3": 3, "7": 1}


def test_bars_of_many_outcomes_share_rows_and_lose_no_mass():
    outcomes = [str(number) for number in range(101)]
    policy = np.full(101, 0.9 / 101)
    row = {"outcomes": outcomes, "policy": policy, "target": np.full(101, 1 / 101), "invalid_mass": 0.1}
    table = distribution_bars(row, row)
    labels, _, shares, *_, targets = (list(column.cells) for column in table.columns)
    assert labels == [*(f"{first}–{first + 4}" for first in range(0, 100, 5)), "100", "else"]
    assert sum(float(str(share).rstrip("%")) for share in shares) == pytest.approx(100, abs=1)
    assert str(targets[-1]) == "0.0%"
