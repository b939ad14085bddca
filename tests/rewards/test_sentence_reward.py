"""The term for sentences: it comes to any reward, at every state where a text may end, and changes nothing else."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import MINIATURE, contradiction_config, last_snapshot, reward_context, run, short_config
from run_files import json_lines, without_times
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gfn_jax.experiment.experiment import build
from gfn_jax.rewards import judging
from gfn_jax.rewards.protocol import Reward
from gfn_jax.rewards.sentences import SentenceReward
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.contradiction import FactEdit
from gfn_jax.types import Trajectories

PROMPTS = ["The night was cold.", "Mara bought a lamp.", "He forgot his boat.", "A dog."]
EDITS = [
    FactEdit(subject="Nulon", edit_fact="Nulon lives in Corran.", original_fact="-"),
    FactEdit(subject="Parda", edit_fact="Parda keeps a goat.", original_fact="-"),
]
GLOOMY = {
    "reward__sentences__weight": 0.5,
    "reward__sentences__name_or_path": str(MINIATURE / "mood"),
    "reward__sentences__label": "gloomy",
    "reward__sentences__batch_size": 8,
}
FORM = {"reward__sentences__weight": 2.0}


class SummedReward(Reward):
    """A reward of one's own, that sums up whatever components it is shown."""

    def components(self, frozen, examples, prompts, trajectories):
        return {"log_a": jnp.where(trajectories.is_terminable_NxT, -3.0, 0)}

    def combine(self, components, step):
        return sum(components.values())


@pytest.fixture(scope="module")
def experiment():
    with build(short_config(**GLOOMY)) as experiment:
        yield experiment


@pytest.fixture(scope="module")
def drawn(experiment):
    return drawn_by(experiment, PROMPTS)


def drawn_by(experiment, examples):
    prompts = experiment.encode(examples)
    return prompts, experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)


def rewarded(experiment, examples, drawn):
    """Components, and the reward that they come to."""
    components = experiment.reward.components(experiment.frozen, examples, *drawn)
    return jax.device_get((dict(components), experiment.reward.combine(components, jnp.asarray(0))))


def log_p_gloomy(texts):
    """By Hugging Face's model, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "mood")
    model = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "mood").eval()
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).logits.log_softmax(-1)[0, 1].item() for text in texts]


@pytest.mark.parametrize(
    ("settings", "examples", "granularity"),
    [(short_config, PROMPTS, "terminal"), (contradiction_config, EDITS, "prefix")],
)
def test_the_term_is_added_where_a_text_may_end_and_nothing_else_changes(settings, examples, granularity):
    shared = {"reward__granularity": granularity, "objective__name": "vargrad"}
    with build(settings(**shared)) as plain, build(settings(**shared, **GLOOMY)) as with_term:
        drawn = drawn_by(plain, examples)
        before, log_r_before = rewarded(plain, examples, drawn)
        after, log_r = rewarded(with_term, examples, drawn)
        texts = state_texts(reward_context(plain), drawn[1], granularity)
        own = texts.texts[: len(examples)]
        remarks = [each.reward.explain(each.frozen, examples, own) for each in (plain, with_term)]
        assert with_term.reward.granularity == granularity
    log_p = np.zeros_like(log_r)
    log_p[texts.rows_M, texts.states_M] = log_p_gloomy(texts.texts)
    assert np.ptp(log_p) > 1  # it does tell them apart
    np.testing.assert_allclose(after.pop("log_sentence"), log_p, atol=1e-5)
    np.testing.assert_allclose(log_r, log_r_before + 0.5 * log_p, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert remarks[0] == remarks[1]


def test_without_a_classifier_the_form_decides_and_without_a_weight_there_is_no_term(monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a worker was built")

    monkeypatch.setattr(judging, "WorkerPool", forbidden)
    off = GLOOMY | {"reward__sentences__weight": 0}
    with build(short_config(**FORM)) as by_form, build(short_config(**off)) as without:
        the, went = (without.tokenizer.encode(word)[0] for word in (" the", " went"))
        rows = jnp.array([[the, the, the, went], [the, went, the, went], [went] * 4, [the, the, went, went]])
        drawn = without.encode(PROMPTS), Trajectories.given(rows, jnp.array([4, 4, 2, 4]))
        before, log_r_before = rewarded(without, PROMPTS, drawn)
        after, log_r = rewarded(by_form, PROMPTS, drawn)
    # No words, or the same ones three times in a row:
    expected = -np.array([[1, 0, 0, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(after.pop("log_sentence"), expected)
    np.testing.assert_allclose(log_r, log_r_before + 2 * expected, atol=1e-4)
    assert after.keys() == before.keys() == {"log_likelihood"}


def test_the_inner_reward_is_shown_its_own_components_alone(experiment, drawn):
    reward = SentenceReward(SummedReward(), reward_context(experiment))
    components = reward.components(experiment.frozen, PROMPTS, *drawn)
    expected = components["log_a"] + 0.5 * components["log_sentence"]
    np.testing.assert_array_equal(reward.combine(components, jnp.asarray(0)), expected)
    reward.close()


def test_the_classifier_works_while_the_inner_reward_does_and_judges_no_text_twice(drawn, monkeypatch):
    asked = []
    with build(short_config(**GLOOMY)) as experiment:
        reward = experiment.reward
        submit, request = reward._pool.submit, reward.inner.request
        monkeypatch.setattr(reward._pool, "submit", lambda *call: asked.append("classifier") or submit(*call))
        monkeypatch.setattr(reward.inner, "request", lambda *batch: asked.append("inner") or request(*batch))
        first = rewarded(experiment, PROMPTS, drawn)
        assert asked[0] == "classifier"
        assert asked[-1] == "inner"
        asked.clear()
        jax.tree.map(np.testing.assert_array_equal, rewarded(experiment, PROMPTS, drawn), first)
        assert asked == ["inner"]


def test_components_are_known_by_both_rewards_and_not_by_the_weight(experiment):
    def key(reward, **changes):
        sentences = experiment.config.reward.sentences.model_copy(update=changes)
        rewards = experiment.config.reward.model_copy(update={"sentences": sentences})
        settings = experiment.config.model_copy(update={"reward": rewards})
        return dataclasses.replace(experiment, reward=reward, config=settings).content_key(PROMPTS[0])

    reward, context = experiment.reward, reward_context(experiment)
    newer = SummedReward()
    newer.version = 2
    others = [SummedReward(), SentenceReward(SummedReward(), context), SentenceReward(newer, context), reward.inner]
    keys = [key(reward), *map(key, others), key(reward, label="calm")]
    assert len(set(keys)) == len(keys)
    assert key(reward, weight=2.0) == key(reward)


def test_a_run_is_rewarded_by_it_and_resumes_exactly(tmp_path):
    settings = short_config(**GLOOMY)
    run(settings, tmp_path / "run")
    probes = json_lines(tmp_path / "run" / "samples.jsonl")
    expected = log_p_gloomy([probe["continuation"].strip() for probe in probes])
    for probe, log_p in zip(probes, expected, strict=True):
        assert probe["log_sentence"] == pytest.approx(log_p, abs=1e-5)
        assert probe["log_r"] == pytest.approx((probe["log_likelihood"] + 0.5 * log_p) / 0.8, rel=1e-4)
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "4")
    assert "going on after step 2" in run(settings, tmp_path / "resumed")
    states = [jax.device_get(last_snapshot(settings, tmp_path / name).state.adapter) for name in ("run", "resumed")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    rows = [without_times(json_lines(tmp_path / name / "metrics.jsonl")) for name in ("run", "resumed")]
    assert rows[0] == rows[1]


def test_a_classifier_without_such_a_label_is_one_line_before_training(tmp_path):
    with pytest.raises(
        UserError, match=r"do not say which is 'acceptable': .*Set reward\.sentences\.label to its index"
    ):
        run(short_config(**GLOOMY | {"reward__sentences__label": "acceptable"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
