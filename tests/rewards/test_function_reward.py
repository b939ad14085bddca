"""A function of prompts and texts as a term of log R: what it is asked, what it may answer, and what it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reward_context, run, short_config
from run_files import json_lines, without_times

from examples import arithmetic
from gfn_jax.config.reading import parse_config
from gfn_jax.experiment.experiment import build
from gfn_jax.rewards.user_function import UserFunction, content_sha256, find_function
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import check_is_own

PROMPTS = ["The night was cold.", "Mara bought a lamp.", "He forgot his boat.", "A dog."]
PREFIX = {"reward__function__granularity": "prefix", "reward__function__name": "test_function_reward:letters"}
PREFIX_ALONE = {"granularity": "prefix"}


def letters(prompts, texts):
    """How long texts and prompts are."""
    return {"size": [len(text) / 10 for text in texts], "of_prompt": [len(prompt) for prompt in prompts]}


def fails_on_some(prompts, texts):
    if any(len(text) % 2 for text in texts):
        raise ValueError("an odd text")
    return [1.0] * len(texts)


@pytest.fixture(scope="module")
def experiment():
    with build(short_config(**PREFIX, reward__function__weights={"of_prompt": 0.5})) as experiment:
        yield experiment


@pytest.fixture(scope="module")
def drawn(experiment):
    prompts = experiment.encode(PROMPTS)
    return prompts, experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)


def components(experiment, drawn):
    return dict(experiment.reward.components(experiment.frozen, PROMPTS, *drawn))


def test_every_text_that_may_end_is_asked_about_with_its_prompt(experiment, drawn):
    found = jax.device_get(components(experiment, drawn))
    host = jax.device_get(drawn[1])
    per_prompt = len(host.length_N) // len(PROMPTS)
    for row, state in zip(*np.nonzero(host.is_terminable_NxT), strict=True):
        tokens = [*host.tokens_NxL[row, :state].tolist(), experiment.rules.terminator]
        text = experiment.tokenizer.decode(tokens).strip()
        assert found["size"][row, state] == pytest.approx(len(text) / 10)
        assert found["of_prompt"][row, state] == len(PROMPTS[row // per_prompt])


def test_terms_have_weights_and_come_to_the_tasks_own_reward(experiment, drawn):
    found = components(experiment, drawn)
    log_r = experiment.reward.combine(found, jnp.asarray(0))
    expected = found["log_likelihood"] + found["size"] + 0.5 * found["of_prompt"]
    np.testing.assert_allclose(log_r, expected, rtol=1e-6)


def test_workers_say_the_same(experiment, drawn):
    with build(short_config(**PREFIX, reward__function__workers=1, reward__function__batch_size=5)) as apart:
        there = components(apart, drawn)
    for name, values in components(experiment, drawn).items():
        np.testing.assert_array_equal(there[name], values)


def test_no_text_is_asked_about_twice(experiment, drawn, monkeypatch):
    components(experiment, drawn)
    monkeypatch.setattr(experiment.reward._pool._function, "_function", None)  # which cannot be called
    components(experiment, drawn)


def test_a_text_that_it_fails_on_is_a_bad_row_and_said_once(tmp_path, caplog):
    settings = short_config(
        reward__function__name="test_function_reward:fails_on_some", objective__name="vargrad", train__max_bad_steps=9
    )
    run(settings, tmp_path / "run")
    rows = json_lines(tmp_path / "run" / "metrics.jsonl")
    assert sum(row.get("train/bad_rows", 0) for row in rows) > 0
    assert all(np.isfinite(row["val/elbo"]) for row in rows if "val/elbo" in row)
    assert caplog.text.count("ValueError: an odd text") == 1
    whole = tmp_path / "whole"
    assert "going on" not in run(settings, whole)
    assert without_times(json_lines(whole / "metrics.jsonl")) == without_times(rows)


def test_rewards_that_are_not_finite_are_said_once(caplog):
    function = UserFunction("m:f", lambda prompts, texts: [-np.inf if "b" in text else 0.0 for text in texts])
    assert function.terms([("p", "a"), ("p", "b"), ("p", "b b")]) == [(("f", v),) for v in (0.0, -np.inf, -np.inf)]
    assert function.terms([("p", "bb")]) == [(("f", -np.inf),)]
    assert caplog.text.count("f returned -inf for ('p', 'b'): texts without a finite reward are left out") == 1
    assert caplog.text.count("left out") == 1


def test_the_function_is_part_of_what_a_run_is(tmp_path, monkeypatch):
    module = tmp_path / "mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    module.write_text("def reward(prompts, texts):\n    return [0.0] * len(texts)\n")
    first = content_sha256(find_function("mine:reward"))
    assert content_sha256(find_function("test_function_reward:letters")) != first
    settings = short_config(reward__function__name="mine:reward", objective__name="vargrad")
    with pytest.raises(UserError, match=r"names the reward function 'mine:reward', .* add --trust_code"):
        check_is_own(settings, "config.json")
    check_is_own(short_config(reward__function__name="__main__:boat", objective__name="vargrad"), "config.json")
    with build(settings) as experiment:
        assert experiment.content["function of reward.function.name"] == first


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "f returned 1 numbers for 2 texts"),
        (1.0, "f must return a number for each text"),
        (["a", "b"], "f must return a number for each text"),
        (None, "f must return a number for each text"),
    ],
)
def test_what_are_no_numbers_is_one_line(answer, message):
    with pytest.raises(UserError, match=message):
        UserFunction("m:f", lambda prompts, texts: answer).terms([("a", "b"), ("c", "d")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no_such_module:reward", **PREFIX_ALONE}, "'no_such_module:reward' cannot be imported"),
        ({"name": "test_function_reward:PROMPTS", **PREFIX_ALONE}, "is not a function"),
        ({"name": "letters", **PREFIX_ALONE}, 'does not name a function as "module:function"'),
        ({"name": "__main__:of_a_notebook", **PREFIX_ALONE}, "was defined in a notebook or a script"),
        ({"name": "test_function_reward:letters"}, "objective 'subtb' compares the states of one text"),
        (
            {"name": "test_function_reward:letters", "weights": {"sise": 1.0}, **PREFIX_ALONE},
            "reward.function.weights: the function returns no term 'sise'; it returns size, of_prompt",
        ),
    ],
)
def test_a_function_that_there_is_not_is_one_line(tmp_path, settings, message):
    raw = short_config().model_dump()
    raw["reward"]["function"] |= settings
    with pytest.raises(UserError, match=message):
        run(parse_config(raw), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_worked_answer_is_right_by_its_last_number():
    prompts = ["4 + 3 - 5 = 2.\n3 + 4 - 2 =", "1 - 9 + 2 ="]
    assert arithmetic.is_right(prompts, ["7 - 2 = 5.", "-8 + 2 = -6."]) == [6.0, 6.0]
    assert arithmetic.is_right(prompts, ["5 - 7 = -2.", "="]) == [0.0, 0.0]


def test_the_context_knows_the_prompt(experiment):
    assert reward_context(experiment).prompt("a prompt") == "a prompt"
